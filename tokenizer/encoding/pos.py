"""Universal parts of speech beside the tokens (Nivre et al. 2016; `universaldependencies.org/u/pos`), by a tagger of the user's.

A sentence is tagged as the text that its tokens were made from, its words with single blanks between. A piece has the tag of the
tagger's word that its first character lies in; a blank goes with what follows. Closing ids, and what the tagger calls white space
or does not tag at all, have 0.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from biomlm.core.errors import ConfigError
from biomlm.core.files import sha256
from biomlm.core.manifest import digest
from biomlm.tokenizer.documents import FIRST, in_front
from biomlm.tokenizer.encoding.word_cache import END, LIMIT
from biomlm.tokenizer.formats.folder import Tokenizer
from biomlm.tokenizer.upos import ID

AT_ONCE = 1000  # words tagged as one text: sentences are shorter, but for tables and lists that nobody cut
NEEDLESS = ("parser", "ner", "lemmatizer", "senter", "entity_linker", "textcat")  # components that no tag rests on

Tagged = Sequence[tuple[int, int, str]]  # start, end and tag of the words of a text, in characters
U8 = npt.NDArray[np.uint8]


class Tagger(Protocol):
    """Find the words of texts and their parts of speech; the same texts must give the same tags."""

    @property
    def name(self) -> str:
        """The tagger's name and version; shards record it, so that another tagger makes other shards."""

    @property
    def fingerprint(self) -> str:
        """The hash of all its files, since a pipeline trained again may keep its version."""

    def tag(self, texts: Sequence[str]) -> Iterable[Tagged]:
        """Tag the words of each text, in order, with tags of UPOS; any other tag counts as none."""


class Spacy:
    """A spaCy pipeline (Honnibal et al., `github.com/explosion/spaCy`).

    Args:
        pipeline: Name of an installed one, such as `en_core_web_sm`, or its folder.

    Raises:
        ConfigError: spaCy or the pipeline is not there, or the pipeline gives no Universal POS.
    """

    def __init__(self, pipeline: str):
        try:
            spacy: Any = import_module("spacy")
        except ModuleNotFoundError:
            raise ConfigError(
                "parts of speech need spaCy", remedy="Install it with `pip install 'biomlm[pos]'`."
            ) from None
        try:
            self.pipeline = spacy.load(pipeline, exclude=NEEDLESS)
        except OSError:
            remedy = f"Install it (`python -m spacy download {pipeline}`), or give --pos the folder of one."
            raise ConfigError(f"spaCy has no pipeline {pipeline}", remedy=remedy) from None
        if not {"morphologizer", "attribute_ruler"} & set(self.pipeline.pipe_names):
            problem = f"the spaCy pipeline {pipeline} gives no Universal POS (no morphologizer, no attribute_ruler)"
            raise ConfigError(problem, remedy="Give --pos one that does, such as en_core_web_sm.")
        meta = self.pipeline.meta
        self.name = f"{meta['lang']}_{meta['name']} {meta['version']}, spaCy {spacy.__version__}"

    @cached_property
    def fingerprint(self) -> str:
        """See `Tagger`."""
        folder = Path(self.pipeline.path)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return digest({file.relative_to(folder).as_posix(): sha256(file) for file in files})

    def tag(self, texts: Sequence[str]) -> Iterator[Tagged]:
        """See `Tagger`."""
        for document in self.pipeline.pipe(texts):
            yield [(word.idx, word.idx + len(word.text), word.pos_) for word in document]


class PosTable:
    """Tag the pieces of sentences.

    Args:
        tagger: Tags the sentences.
        tokenizer: Gives the pieces.
    """

    def __init__(self, tagger: Tagger, tokenizer: Tokenizer):
        self.tagger, self.tokenizer = tagger, tokenizer
        self.starts: dict[str, npt.NDArray[np.int64]] = {}  # word → the first character of each of its pieces

    def tags(self, words: Sequence[str]) -> U8:
        """Tag sentences.

        Args:
            words: Of all sentences, each followed by END, as `WordCache.encode` takes them.

        Returns:
            [ids] the tag of every id that `WordCache.encode` gives for them.
        """
        self._learn(words)
        parts = list(_parts(words))
        texts = ["".join(" " + word.removeprefix(FIRST) for word in part) for part, _ in parts]
        tags = list[U8]()
        for (part, closes), text, tagged in zip(
            parts, texts, self.tagger.tag([text[1:] for text in texts]), strict=True
        ):
            tags.append(self._of_pieces(part, text, tagged))
            tags.append(np.zeros(int(closes), dtype=np.uint8))
        return np.concatenate(tags)

    def _learn(self, words: Sequence[str]) -> None:
        """Look up where the pieces begin of words that are not in the table yet."""
        if len(self.starts) > LIMIT:
            self.starts.clear()
        new = list({word: None for word in words if word != END and word not in self.starts})
        for word, starts in zip(new, self.tokenizer.starts([in_front(word) for word in new]), strict=True):
            self.starts[word] = np.array(starts, dtype=np.int64) + word.startswith(FIRST)

    def _of_pieces(self, words: Sequence[str], text: str, tagged: Tagged) -> U8:
        """Give [pieces] the tags of the pieces of words; `text` has a blank in front of each word."""
        of_character = np.zeros(len(text) + 1, dtype=np.uint8)
        for start, end, tag in tagged:
            of_character[start + 1 : end + 1] = ID.get(tag, 0)
        blank = (np.frombuffer(text.encode("utf-32-le"), dtype="<u4") == ord(" ")).nonzero()[0]
        of_character[blank] = of_character[blank + 1]
        places, at = [np.zeros(0, dtype=np.int64)], 0
        for word in words:
            places.append(self.starts[word] + at)
            at += 1 + len(word.removeprefix(FIRST))
        return of_character[np.concatenate(places)]


def _parts(words: Sequence[str]) -> Iterator[tuple[Sequence[str], bool]]:
    """Cut sentences into runs of at most AT_ONCE words, and say of each whether the closing id follows."""
    ends = [-1, *(n for n, word in enumerate(words) if word == END)]
    for before, end in pairwise(ends):
        for first in range(before + 1, max(end, before + 2), AT_ONCE):
            yield words[first : min(first + AT_ONCE, end)], first + AT_ONCE >= end
