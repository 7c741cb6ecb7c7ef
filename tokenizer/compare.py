"""`biolm tokenizer compare`: what each vocabulary makes of the same documents, side by side."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import regex  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table

from biolm.core.cli import Verb
from biolm.core.errors import DataError
from biolm.core.manifest import read_manifest
from biolm.core.progress import progress
from biolm.corpus import read
from biolm.tokenizer import documents, folder

WORD = regex.compile(r"[\p{L}\p{N}]+(?:[-'’][\p{L}\p{N}]+)*")
WINDOW = 512  # tokens, two of them special


@dataclass(frozen=True)
class CompareConfig:
    """Compare vocabularies on documents.

    Args:
        tokenizers: Tokenizer folders.
        docs: Folder of documents (`biolm corpus build`).
        split: The split to compare on: `valid` was not learnt from.
        documents: Documents to read at most.
    """

    tokenizers: list[str]
    docs: str
    split: str = "valid"
    documents: int = 2000


@dataclass
class Sample:
    """The documents to compare on.

    Args:
        words: Source → word → how often.
        texts: Sentences as `tokenizer encode` sees them.
    """

    words: dict[str, Counter[str]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Figures:
    """What one vocabulary makes of a sample.

    Args:
        vocab_size: Ids.
        pieces_per_word: Source → mean pieces of a running word.
        whole: Share of running words that stay whole.
        bytes_per_token: UTF-8 bytes of text for a token.
        window: Words that a window of 512 tokens holds.
    """

    vocab_size: int
    pieces_per_word: Mapping[str, float]
    whole: float
    bytes_per_token: float
    window: float


def sample(docs: str | Path, split: str, most: int) -> Sample:
    """Read up to `most` documents.

    Raises:
        DataError: The split has no text.
    """
    read_manifest(docs, "corpus build")
    found = Sample()
    left = most
    for file in read.shards(docs, split):
        for document in documents.read(file):
            if not left:
                break
            left -= 1
            front = ""
            counter = found.words.setdefault(document.source, Counter())
            for _, words in document.words():
                text = " ".join(words)
                counter.update(WORD.findall(text))
                found.texts.append(front + text)
                front = " "
    if not any(found.words.values()):
        raise DataError(f"the {split} split has no words", file=docs, remedy="Give another --split or other --docs.")
    return found


def measure(tokenizer: folder.Tokenizer, found: Sample) -> Figures:
    """What one vocabulary makes of a sample."""
    distinct = sorted(set().union(*found.words.values()))
    lengths = map(len, tokenizer.encode_batch([f" {word}" for word in distinct]))
    pieces = dict(zip(distinct, lengths, strict=True))
    words = sum((counter for counter in found.words.values()), Counter[str]())
    tokens = sum(map(len, tokenizer.encode_batch(found.texts)))
    return Figures(
        vocab_size=tokenizer.vocab_size,
        pieces_per_word={
            source: sum(pieces[word] * times for word, times in counter.items()) / max(counter.total(), 1)
            for source, counter in sorted(found.words.items())
        },
        whole=sum(times for word, times in words.items() if pieces[word] == 1) / words.total(),
        bytes_per_token=sum(len(text.encode()) for text in found.texts) / tokens,
        window=(WINDOW - 2) * words.total() / tokens,
    )


def rows(figures: Sequence[Figures]) -> dict[str, list[str]]:
    """The comparison as a table: name of the measure → one value for each vocabulary."""
    sources = list(figures[0].pieces_per_word)
    return {
        "ids": [f"{f.vocab_size:,}" for f in figures],
        **{f"pieces per word: {source}": [f"{f.pieces_per_word[source]:.3f}" for f in figures] for source in sources},
        "words kept whole": [f"{f.whole:.1%}" for f in figures],
        "bytes per token": [f"{f.bytes_per_token:.3f}" for f in figures],
        f"words in {WINDOW} tokens": [f"{f.window:.0f}" for f in figures],
    }


def compare(config: CompareConfig) -> None:
    """Run `biolm tokenizer compare`."""
    loaded = [folder.load(path) for path in config.tokenizers]
    found = sample(config.docs, config.split, config.documents)
    with progress("compare", len(loaded), "vocabularies") as bar:
        figures = []
        for tokenizer in loaded:
            figures.append(measure(tokenizer, found))
            bar.advance()
    total = sum(counter.total() for counter in found.words.values())
    table = Table(title=f"{total:,} words of {config.docs} ({config.split})", title_justify="left", box=None)
    table.add_column("")
    for path in config.tokenizers:
        table.add_column(Path(path).name, justify="right")
    for name, values in rows(figures).items():
        table.add_row(name, *values)
    Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


VERB = Verb(
    config=CompareConfig,
    run=compare,
    example="biolm tokenizer compare runs/tokenizer models/roberta-base --docs runs/corpus",
    positionals=("tokenizers",),
)
