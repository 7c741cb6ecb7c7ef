"""`biolm tokenizer train`: documents → tokenizer folder.

Words are counted in one streaming pass, then merges are learnt from the counts. Ids follow the frequency of the pieces, as in a
fairseq dictionary.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from biolm.core import manifest, summary
from biolm.core.cli import Verb
from biolm.core.config import runtime
from biolm.core.errors import ConfigError, DataError
from biolm.core.progress import progress
from biolm.corpus import read
from biolm.tokenizer import bytelevel, fairseq, folder
from biolm.tokenizer.count import count
from biolm.tokenizer.merges import learn

STAGE = "tokenizer train"
SMALLEST = 256 + len(bytelevel.SPECIALS) + 1


@dataclass(frozen=True)
class TrainConfig:
    """Learn a vocabulary.

    Args:
        docs: Folder of documents (`biolm corpus build`); its train split is used.
        out: Tokenizer folder to write.
        kind: The kind of vocabulary: `bpe` is RoBERTa's byte-level BPE.
        vocab_size: Ids in all, special tokens included.
        sources: Learn from documents of these sources only (`pubmed`, `pmc`, `notes`, `text`); all if empty.
        min_frequency: Pairs of pieces that stand together less often are not merged.
        model_max_length: Tokens that the model will take, stated in the folder.
        workers: Processes that count words; 0 takes one a core.
    """

    docs: str
    out: str = field(metadata={"runtime": True})
    kind: Literal["bpe"] = "bpe"
    vocab_size: int = 50001
    sources: list[str] = field(default_factory=list)
    min_frequency: int = 2
    model_max_length: int = 512
    workers: int = runtime(0)

    def __post_init__(self) -> None:
        if self.vocab_size < SMALLEST:
            raise ConfigError(
                f"a vocabulary of {self.vocab_size} cannot hold 256 bytes and 5 special tokens",
                remedy=f"Give a --vocab_size of at least {SMALLEST}.",
            )


def train(config: TrainConfig) -> None:
    """Run `biolm tokenizer train`.

    Raises:
        DataError: There is no text, or too little for the vocabulary.
    """
    made_by = manifest.read_manifest(config.docs, "corpus build")
    record = manifest.begin(config.out, STAGE, config, {"docs": made_by.fingerprint})
    if record.status != "done":
        counts, paths = _learn(config)
        record.finish(config.out, paths, counts)
    summary.summary(f"biolm {STAGE}: {config.out}", record.counts)


def _learn(config: TrainConfig) -> tuple[dict[str, int], list[Path]]:
    found = count(read.shards(config.docs, "train"), config.sources, config.workers or os.cpu_count() or 1)
    if not found.words:
        of = f" of the sources {', '.join(config.sources)}" if config.sources else ""
        raise DataError(f"the train split has no text{of}", file=config.docs, remedy="Give other --docs or --sources.")
    characters = bytelevel.alphabet()
    rank = np.argsort(np.argsort(characters))  # of each byte's character among all 256
    words = sorted(word.encode() for word in found.words)
    times = np.array([found.words[word.decode()] for word in words], dtype=np.int64)
    wanted = config.vocab_size - SMALLEST
    with progress("learn merges", wanted, "merges") as bar:
        learnt = learn(words, times, rank, wanted, config.min_frequency, bar.advance)
    if len(learnt.merges) < wanted:
        raise DataError(
            f"a vocabulary of {config.vocab_size} ids was asked for, and the text supports {SMALLEST + len(learnt.merges)}",
            file=config.docs,
            remedy=f"Give more text or a --vocab_size of at most {SMALLEST + len(learnt.merges)}.",
        )
    pieces = sorted(characters)
    for left, right in learnt.merges:
        pieces.append(pieces[left] + pieces[right])
    paths = _write(config, pieces, [(pieces[a], pieces[b]) for a, b in learnt.merges], learnt.counts.tolist())
    counts = {
        "documents": found.documents,
        "documents of other sources": found.skipped,
        "bytes of text": found.bytes,
        "words": found.words.total(),
        "distinct words": len(words),
        "merges": wanted,
        "ids": config.vocab_size,
    }
    return counts, paths


def _write(config: TrainConfig, pieces: list[str], merges: Sequence[tuple[str, str]], counts: list[int]) -> list[Path]:
    """Number the pieces by falling frequency (ties by order of learning) and write the folder."""
    order = sorted(range(len(pieces)), key=lambda i: -counts[i])
    by_id = [*bytelevel.SPECIALS, *(pieces[i] for i in order), bytelevel.MASK]
    hf = bytelevel.hugging_face({piece: i for i, piece in enumerate(by_id)}, merges)
    extra = fairseq.files(by_id, merges, [0] * 4 + [counts[i] for i in order] + [0])
    return folder.write(config.out, hf, extra, model_max_length=config.model_max_length)


VERB = Verb(
    config=TrainConfig,
    run=train,
    example="biolm tokenizer train --docs runs/corpus --kind bpe --vocab_size 50001 --out runs/tokenizer",
)
