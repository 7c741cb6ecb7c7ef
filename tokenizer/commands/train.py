"""`biomlm tokenizer train`: documents → tokenizer folder.

Words are counted in one streaming pass in bounded memory, then a vocabulary of any kind is learnt from the counts.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from biomlm.core import manifest, summary
from biomlm.core.errors import DataError
from biomlm.core.files import refuse_target, stage
from biomlm.corpus.documents import document_files
from biomlm.tokenizer.config import TrainConfig
from biomlm.tokenizer.formats import bert, bytelevel, folder
from biomlm.tokenizer.learning import bpe, sentencepiece, wordpiece
from biomlm.tokenizer.learning.count import CountOptions, Counts, Split, count
from biomlm.tokenizer.learning.vocabulary import LearntVocabulary

STAGE = "tokenizer train"
WORK = ".work"
MIB = 1 << 20


KINDS: dict[str, tuple[Split, Callable[[Counts, TrainConfig], LearntVocabulary]]] = {
    "bpe": (bytelevel.split, bpe.learn),
    "wordpiece": (bert.split_cased, wordpiece.learn),
    "sentencepiece-bpe": (sentencepiece.split, sentencepiece.learn),
    "sentencepiece-unigram": (sentencepiece.split, sentencepiece.learn),
    "gatortron": (sentencepiece.split, sentencepiece.learn_gatortron),
}


def train(config: TrainConfig) -> None:
    """Run `biomlm tokenizer train`.

    Raises:
        DataError: There is no text, too little for the vocabulary, or none of a source that is named.
    """
    refuse_target(config.out, [config.docs], option="--out", ours=stage)
    docs_manifest = manifest.read_manifest(config.docs, "corpus build")
    record = manifest.begin(config.out, STAGE, config, {"docs": docs_manifest.fingerprint})
    if record.status != "done":
        counts = _count(config)
        vocabulary = KINDS[config.kind][1](counts, config)
        paths = folder.write(config.out, vocabulary.hf, vocabulary.settings, vocabulary.files)
        record.finish(config.out, paths, _shown(counts, config.vocab_size))
    summary.summary(f"biomlm {STAGE}: {config.out}", record.counts)


def _count(config: TrainConfig) -> Counts:
    work = Path(config.out) / WORK
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    options = CountOptions(
        split=bert.split_uncased if config.lowercase else KINDS[config.kind][0],
        starts=bytelevel.ascii_starts if config.kind == "bpe" else None,
        weights={**dict.fromkeys(config.sources, 1.0), **config.weights},
        only_named=bool(config.sources),
        sample=config.sample,
        seed=config.seed,
        memory=config.memory * MIB,
    )
    try:
        counts = count(document_files(config.docs, "train"), options, config.workers or os.cpu_count() or 1, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    absent = sorted(options.weights.keys() - counts.tally.sources.keys())
    if absent:
        problem = f"the train split has no documents of the source {absent[0]}"
        remedy = f"It has {', '.join(sorted(counts.tally.sources))}: correct --sources or --weights."
        raise DataError(problem, file=config.docs, remedy=remedy)
    if not len(counts.words):
        of = f" of the sources {', '.join(config.sources)}" if config.sources else ""
        raise DataError(f"the train split has no text{of}", file=config.docs, remedy="Give other --docs or --sources.")
    return counts


def _shown(counts: Counts, ids: int) -> dict[str, Any]:
    tally = {name.replace("_", " "): number for name, number in asdict(counts.tally).items() if name != "sources"}
    words = {"words, weighted": int(counts.times @ counts.words), "distinct words": int(counts.words.sum())}
    return {**tally, **words, "ids": ids}
