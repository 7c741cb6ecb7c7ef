"""`biomlm tokenizer compare`: measure vocabularies on the same documents and show them side by side."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Literal

import regex  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table

from biomlm.core import rng
from biomlm.core.errors import DataError
from biomlm.core.files import matching, refuse_target, write_text
from biomlm.core.manifest import read_manifest
from biomlm.core.progress import progress
from biomlm.corpus.documents import document_files
from biomlm.tokenizer import documents, terms
from biomlm.tokenizer.config import CompareConfig
from biomlm.tokenizer.formats import folder

WORD = regex.compile(r"[\p{L}\p{N}]+(?:[-'’][\p{L}\p{N}]+)*")
SEED = rng.key(0, "compare")
WINDOW = 512  # tokens, two of them special


@dataclass
class Sample:
    """The documents to compare on.

    Args:
        words: Source → word → how often.
        texts: Sentences as `tokenizer encode` sees them.
        sentences: How many of them each document has.
        terms: Name of a file of terms → its distinct terms.
    """

    words: dict[str, Counter[str]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    sentences: list[int] = field(default_factory=list)
    terms: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Figures:
    """The measures of one vocabulary on a sample.

    Args:
        vocab_size: Ids.
        pieces_per_word: Source → mean pieces of a running word.
        whole: Share of running words that stay whole.
        terms: Name of a file of terms → share of its terms whose words all stay whole, mean pieces of the words of a term.
        cuts: Term → its pieces, for the examples.
        bytes_per_token: UTF-8 bytes of text for a token.
        window: Words that a window of 512 tokens holds.
        tokens: Of the whole sample: what is computed grows with them.
        cut: Share of the documents that such a window does not hold whole.
        pieces: All of them; those that another vocabulary has too keep their rows when it is exchanged (`--init_vocabulary`).
    """

    vocab_size: int
    pieces_per_word: Mapping[str, float]
    whole: float
    terms: Mapping[str, tuple[float, float]]
    cuts: Mapping[str, list[str]]
    bytes_per_token: float
    window: float
    tokens: int
    cut: float
    pieces: Set[str]


def draw_sample(config: CompareConfig) -> Sample:
    """Draw up to `config.documents` documents from the whole split, by a hash of their ids, and read the terms.

    Raises:
        DataError: The split has no text, or a file has no terms.
    """
    read_manifest(config.docs, "corpus build")
    sample = Sample(terms={terms.name_of(file): terms.read(file) for file in config.terms})
    files = document_files(config.docs, config.split)
    every = enumerate(chain.from_iterable(map(documents.read, files)))
    chosen = nsmallest(config.documents, every, key=lambda numbered: rng.key(SEED, numbered[1].id))
    for _, document in sorted(chosen, key=itemgetter(0)):
        front, before = "", len(sample.texts)
        counter = sample.words.setdefault(document.source, Counter())
        for _, words in document.words():
            text = " ".join(words)
            counter.update(WORD.findall(text))
            sample.texts.append(front + text)
            front = " "
        sample.sentences.append(len(sample.texts) - before)
    if not any(sample.words.values()):
        problem, remedy = f"the {config.split} split has no words", "Give another --split or other --docs."
        raise DataError(problem, file=config.docs, remedy=remedy)
    return sample


def measure(tokenizer: folder.Tokenizer, sample: Sample) -> Figures:
    """Measure a vocabulary on a sample."""
    all_terms = sorted(set().union(*sample.terms.values()))
    in_terms = {word for term in all_terms for word in WORD.findall(term)}
    distinct = sorted(in_terms.union(*sample.words.values()))
    cuts = dict(zip(distinct, tokenizer.encode_batch([f" {word}" for word in distinct]), strict=True))
    words = sum((counter for counter in sample.words.values()), Counter[str]())
    lengths = iter([len(ids) for ids in tokenizer.encode_batch(sample.texts)])
    of_documents = [sum(islice(lengths, count)) for count in sample.sentences]
    tokens = sum(of_documents)
    return Figures(
        vocab_size=tokenizer.vocab_size,
        pieces_per_word={
            source: sum(len(cuts[word]) * times for word, times in counter.items()) / max(counter.total(), 1)
            for source, counter in sorted(sample.words.items())
        },
        whole=sum(times for word, times in words.items() if len(cuts[word]) == 1) / words.total(),
        terms={
            name: (
                sum(all(len(cuts[word]) == 1 for word in WORD.findall(term)) for term in listed) / len(listed),
                sum(len(cuts[word]) for term in listed for word in WORD.findall(term)) / len(listed),
            )
            for name, listed in sample.terms.items()
        },
        cuts={
            term: [tokenizer.decode([i]).strip() for word in WORD.findall(term) for i in cuts[word]]
            for term in all_terms
        },
        bytes_per_token=sum(len(text.encode()) for text in sample.texts) / tokens,
        window=(WINDOW - 2) * words.total() / tokens,
        tokens=tokens,
        cut=sum(length > WINDOW - 2 for length in of_documents) / len(of_documents),
        pieces=frozenset(tokenizer.pieces),
    )


def rows(figures: Sequence[Figures]) -> dict[str, list[str]]:
    """Lay the comparison out as a table: name of the measure → one value for each vocabulary."""
    table = {"ids": [f"{f.vocab_size:,}" for f in figures]}
    for source in figures[0].pieces_per_word:
        table[f"pieces per word: {source}"] = [f"{f.pieces_per_word[source]:.3f}" for f in figures]
    table["words kept whole"] = [f"{f.whole:.1%}" for f in figures]
    for name in figures[0].terms:
        table[f"terms kept whole: {name}"] = [f"{f.terms[name][0]:.1%}" for f in figures]
        table[f"pieces per term: {name}"] = [f"{f.terms[name][1]:.2f}" for f in figures]
    table["bytes per token"] = [f"{f.bytes_per_token:.3f}" for f in figures]
    table[f"words in {WINDOW} tokens"] = [f"{f.window:.0f}" for f in figures]
    table[f"documents of over {WINDOW} tokens"] = [f"{f.cut:.1%}" for f in figures]
    first = figures[0]
    table["tokens, against the first"] = [f"{f.tokens / first.tokens - 1:+.1%}" for f in figures]
    table["pieces that the first has too"] = [f"{len(f.pieces & first.pieces) / len(f.pieces):.1%}" for f in figures]
    return table


def examples(figures: Sequence[Figures], most: int) -> dict[str, list[str]]:
    """Give the terms on which the vocabularies differ most → how each vocabulary cuts them."""

    def spread(term: str) -> int:
        lengths = [len(f.cuts[term]) for f in figures]
        return max(lengths) - min(lengths)

    chosen = sorted(figures[0].cuts, key=lambda term: (-spread(term), term))[:most]
    return {term: [" · ".join(f.cuts[term]) for f in figures] for term in chosen}


def compare(config: CompareConfig) -> None:
    """Run `biomlm tokenizer compare`.

    Raises:
        DataError: A tokenizer, the documents or the terms cannot be read.
    """
    refuse_target(
        config.page,
        [*config.tokenizers, config.docs, *config.terms],
        option="--page",
        ours=matching(r"\A# Vocabularies on [\d,]+ words\n"),
    )
    loaded = [folder.load(path) for path in config.tokenizers]
    sample = draw_sample(config)
    with progress("compare", len(loaded), "vocabularies") as bar:
        figures = []
        for tokenizer in loaded:
            figures.append(measure(tokenizer, sample))
            bar.advance()
    total = sum(counter.total() for counter in sample.words.values())
    title = f"{total:,} words of {config.docs} ({config.split})"
    names = [Path(path).name for path in config.tokenizers]
    _show(title, names, rows(figures), "right")
    if shown := examples(figures, config.examples):
        _show("terms, as they are cut", names, shown, "left")
    if config.page:
        tables = _markdown(names, rows(figures), "measure", "---:"), _markdown(names, shown, "term", "---")
        write_text(config.page, "\n\n".join((f"# Vocabularies on {total:,} words", *filter(None, tables))) + "\n")


def _show(title: str, names: list[str], table: Mapping[str, list[str]], justify: Literal["left", "right"]) -> None:
    shown = Table(title=title, title_justify="left", box=None)
    shown.add_column("")
    for name in names:
        shown.add_column(name, justify=justify)
    for name, values in table.items():
        shown.add_row(name, *values)
    Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 160).print(shown)


def _markdown(names: list[str], table: Mapping[str, list[str]], first: str, align: str) -> str:
    if not table:
        return ""
    lines = [[first, *names], ["---", *[align] * len(names)], *([name, *values] for name, values in table.items())]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
