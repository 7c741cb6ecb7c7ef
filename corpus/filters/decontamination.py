"""Keeping evaluation sets out of the training text: by n-grams of their words and by the ids of their articles.

As in GPT-3 (Brown et al. 2020, appendix C): a document is contaminated if it shares 13 consecutive words with an evaluation text, case and
punctuation aside.
"""

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from biomlm.core.errors import DataError
from biomlm.corpus.text.document import DROPPED

WORDS = 13
REASON = "contaminated by evaluation data"

WORD = re.compile(r"\w+")
PUBTATOR = re.compile(r"^(\d+)\|[ta]\|(.*)$")
_POWERS = np.array([pow(0xD6E8FEB86659FD93, WORDS - 1 - i, 1 << 64) for i in range(WORDS)], np.uint64)


def ngrams(text: str) -> npt.NDArray[np.uint64]:
    """Hashes of every run of `WORDS` words."""
    words = np.array([zlib.crc32(word.encode()) for word in WORD.findall(text.lower())], dtype=np.uint64)
    if len(words) < WORDS:
        return np.zeros(0, np.uint64)
    hashes: npt.NDArray[np.uint64] = (np.lib.stride_tricks.sliding_window_view(words, WORDS) * _POWERS).sum(
        axis=1, dtype=np.uint64
    )
    return hashes


def evaluation_texts(path: Path) -> Iterator[tuple[str, str]]:
    """`(pmid or empty, text)` of an evaluation file.

    Knows PubTator (`123|t|Title`), token-per-line TSV (IOB; sentences end at blank lines), JSONL (every string in an object),
    lists of PMIDs, and plain text (a line a text).

    Raises:
        DataError: It cannot be read as text.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        content = raw.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        raise DataError(
            "this evaluation file cannot be read as text", file=path, remedy="Give UTF-8 text, plain or .gz."
        ) from None
    tokens: list[str] = []
    for line in [*content.splitlines(), ""]:
        if match := PUBTATOR.match(line):
            yield match[1], match[2]
        elif line.strip().isdecimal():
            yield line.strip(), ""
        elif line.startswith(("{", "[")):
            yield "", " ".join(_strings(orjson.loads(line) if _is_json(line) else line))
        elif "\t" in line or (line and " " not in line):
            tokens.append(line.split("\t")[0])
        else:
            yield "", " ".join(tokens)
            tokens = []
            yield "", line


def _is_json(line: str) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _strings(value: object) -> Iterator[str]:
    """Every string inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


class MarkContaminated(PipelineStep):  # type: ignore[misc]
    """Marks documents that share n-grams or a PMID with evaluation sets.

    Args:
        files: Evaluation files.
    """

    type, name = "🦠 - DECONT", "evaluation sets"

    def __init__(self, files: Iterable[Path]):
        super().__init__()
        texts = [item for path in files for item in evaluation_texts(path)]
        self.pmids = frozenset(pmid for pmid, _ in texts if pmid)
        grams = [ngrams(text) for _, text in texts if text]
        self.grams = np.unique(np.concatenate(grams)) if grams else np.zeros(0, np.uint64)

    def run(self, data: DocumentsPipeline, _rank: int = 0, _world_size: int = 1) -> DocumentsPipeline:
        """Pass every document on, marked or not."""
        for document in data:
            meta = document.metadata
            if DROPPED not in meta and (meta.get("pmid") in self.pmids or self._shares(document.text)):
                meta[DROPPED] = REASON
            yield document

    def _shares(self, text: str) -> bool:
        found = ngrams(text)
        if not len(self.grams) or not len(found):
            return False
        at = np.minimum(np.searchsorted(self.grams, found), len(self.grams) - 1)
        return bool((self.grams[at] == found).any())
