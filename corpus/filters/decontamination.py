"""Keeping evaluation sets out of the training text: by n-grams of their words and by the ids of their articles.

As in GPT-3 (Brown et al. 2020, appendix C): a document is contaminated if it shares 13 consecutive words with an evaluation text, case and
punctuation aside.
"""

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
from biomlm.corpus.text.document import DROPPED, clean
from biomlm.inputs.streams import read_text

WORDS = 13
REASON = "contaminated by evaluation data"

WORD = re.compile(r"\w+")
PUBTATOR = re.compile(r"^(\d+)\|[ta]\|(.*)$")
TAG = re.compile(r"O|[BIESLUM](-\S+)?")
_POWERS = np.array([pow(0xD6E8FEB86659FD93, WORDS - 1 - i, 1 << 64) for i in range(WORDS)], np.uint64)


def ngrams(text: str) -> npt.NDArray[np.uint64]:
    """Hash every run of `WORDS` words."""
    words = np.array([zlib.crc32(word.encode()) for word in WORD.findall(text.lower())], dtype=np.uint64)
    if len(words) < WORDS:
        return np.zeros(0, np.uint64)
    hashes: npt.NDArray[np.uint64] = (np.lib.stride_tricks.sliding_window_view(words, WORDS) * _POWERS).sum(
        axis=1, dtype=np.uint64
    )
    return hashes


def evaluation_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield `(pmid or empty, text)` for every text of an evaluation file.

    Knows PubTator (`123|t|Title`), a token and its tags a line, parted by tabs or blanks (IOB; sentences end at blank lines), other tables
    with tabs (every cell, and what first cells without blanks make together), JSON and JSONL (every string in a value), lists of PMIDs,
    words one a line, and plain text, whose lines go on until a blank one.

    Raises:
        DataError: It cannot be read as text.
    """
    content = read_text(path)
    whole = _json(content) if content.lstrip().startswith(("{", "[")) else None
    if whole is not None:
        yield "", " ".join(_strings(whole))
        return
    lines = content.splitlines()
    tagged = _is_tagged(lines)
    text: list[str] = []
    for line in [*lines, ""]:
        bare = line.strip()
        if match := PUBTATOR.match(line):
            yield match[1], match[2]
        elif bare.isdecimal() and not tagged:
            yield bare, ""
        elif line.startswith(("{", "[")) and not tagged:
            value = _json(line)
            yield "", line if value is None else " ".join(_strings(value))
        elif not bare or bare.startswith("-DOCSTART-"):
            yield "", " ".join(text)
            text = []
        elif tagged:
            text.append(bare.split()[0])
        elif "\t" in line:
            cells = line.split("\t")
            yield from (("", cell) for cell in cells)
            text += [] if " " in cells[0] else cells[:1]
        else:
            text.append(bare)


def _is_tagged(lines: Iterable[str]) -> bool:
    """Return whether all lines but a few are a token and, in the last column, its tag."""
    tokens = [line.split() for line in lines if line.strip() and not line.startswith("-DOCSTART-")]
    tagged = sum(len(columns) > 1 and TAG.fullmatch(columns[-1]) is not None for columns in tokens)
    return tagged > 0.9 * len(tokens)


def _json(text: str) -> object:
    """Parse a JSON value; return None if it is none."""
    try:
        value: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value


def _strings(value: object) -> Iterator[str]:
    """Yield every string inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


class MarkContaminated(PipelineStep):  # type: ignore[misc]
    """Mark documents that share n-grams or a PMID with evaluation sets.

    Args:
        files: Evaluation files.

    Raises:
        DataError: One cannot be read as text, or has nothing by which a document could be known.
    """

    type, name = "🦠 - DECONT", "evaluation sets"

    def __init__(self, files: Iterable[Path]):
        super().__init__()
        pmids: set[str] = set()
        grams = [np.zeros(0, np.uint64)]
        for path in files:
            texts = list(evaluation_texts(path))
            file_grams = [ngrams(clean(text)) for _, text in texts if text]
            file_pmids = {pmid for pmid, _ in texts if pmid}
            if not file_pmids and not any(map(len, file_grams)):
                problem = f"there is no run of {WORDS} words and no PMID in this evaluation file, so it would keep nothing out"
                remedy = "Give texts, a token a line, JSONL, PubTator or PMIDs; or leave the file out."
                raise DataError(problem, file=path, remedy=remedy)
            pmids |= file_pmids
            grams += file_grams
        self.pmids = frozenset(pmids)
        self.grams = np.unique(np.concatenate(grams))

    def run(self, data: DocumentsPipeline, _rank: int = 0, _world_size: int = 1) -> DocumentsPipeline:
        """Pass every document on, marked or not."""
        for document in data:
            meta = document.metadata
            if DROPPED not in meta and (meta.get("pmid") in self.pmids or self._shares(document.text)):
                meta[DROPPED] = REASON
            yield document

    def _shares(self, text: str) -> bool:
        grams = ngrams(text)
        if not len(self.grams) or not len(grams):
            return False
        at = np.minimum(np.searchsorted(self.grams, grams), len(self.grams) - 1)
        return bool((self.grams[at] == grams).any())
