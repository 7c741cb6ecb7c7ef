"""One or several folders of token shards, read as one: their items, documents and tokens stand end to end."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomlm.core.errors import DataError, MismatchError
from biomlm.core.manifest import digest
from biomlm.tokenizer.formats.folder import SpecialIds, Tokenizer
from biomlm.tokenizer.shards import ShardReader

I64 = npt.NDArray[np.int64]


class Tokens:
    """One number for each token of several folders, as one row that arrays of places and slices can be taken from, as int64.

    Args:
        rows: Of each folder, on disk until they are looked at.
    """

    def __init__(self, rows: Sequence[npt.NDArray[Any]]):
        self.rows = rows
        self.bounds = _starts([len(row) for row in rows])

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def __getitem__(self, places: I64 | slice) -> I64:
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        if len(self.rows) == 1:
            return self.rows[0][places].astype(np.int64)
        row_of, ids = np.searchsorted(self.bounds, places, side="right") - 1, np.empty(len(places), np.int64)
        for i in np.unique(row_of):
            in_row = row_of == i
            ids[in_row] = self.rows[i][places[in_row] - self.bounds[i]]
        return ids


@dataclass(frozen=True)
class Stretches:
    """Some stretches of tokens of a split, end to end: [tokens of all of them], here r.

    Args:
        ids_r: Their ids.
        places_r: Their places in the split.
        stretch_r: Which stretch each is of, from 0.
        pos_r: Their parts of speech, where these are asked for.
    """

    ids_r: I64
    places_r: I64
    stretch_r: I64
    pos_r: I64 | None


class Shards:
    """One split of one or several folders.

    Args:
        folders: What `biomlm tokenizer encode` wrote, with one tokenizer.
        split: `train` or `valid`.

    Raises:
        MismatchError: Two of them are of different tokenizers.
        DataError: A file is missing or damaged.
    """

    def __init__(self, folders: Sequence[str | Path], split: str):
        self.split = split
        self.readers = [ShardReader(folder, split) for folder in folders]
        self.tokenizer: Tokenizer = self.readers[0].tokenizer
        self.folder = self.readers[0].folder
        for other in self.readers[1:]:
            if other.tokenizer.fingerprint != self.tokenizer.fingerprint:
                raise MismatchError(
                    f"its tokenizer is not that of {self.folder}",
                    file=other.folder,
                    remedy="Encode the documents of both with one tokenizer.",
                )

    @property
    def vocab_size(self) -> int:
        """The number of ids of the tokenizer."""
        return self.tokenizer.vocab_size

    @property
    def ids(self) -> SpecialIds:
        """The tokenizer's special ids."""
        return self.tokenizer.ids

    @property
    def fingerprint(self) -> str:
        """The hash of the shards, which depends on the order of the folders too."""
        prints = [reader.fingerprint for reader in self.readers]
        return prints[0] if len(prints) == 1 else digest(prints)

    @cached_property
    def tokens(self) -> Tokens:
        """The ids of all items, [tokens]."""
        return Tokens([np.asarray(reader.tokens) for reader in self.readers])

    @cached_property
    def pos(self) -> Tokens | None:
        """The part of speech of every token, [tokens], as `ShardReader.pos` has it; None if a folder has none."""
        rows = [reader.pos for reader in self.readers]
        return None if any(row is None for row in rows) else Tokens([row for row in rows if row is not None])

    @cached_property
    def sizes(self) -> npt.NDArray[np.int32]:
        """The number of tokens of every item, with its `</s>`, [items]."""
        return np.concatenate([reader.sizes for reader in self.readers])

    @cached_property
    def doc_index(self) -> I64:
        """The first item of every document, then the number of items, [documents + 1]."""
        return self._joined([reader.doc_index for reader in self.readers])

    @cached_property
    def segments(self) -> I64:
        """The first item of every segment (section), then the number of items, [segments + 1]."""
        return self._joined([reader.segments for reader in self.readers])

    def _joined(self, starts: Sequence[I64]) -> I64:
        """Concatenate lists of first items that each end with the number of items into one such list."""
        before = _starts([len(reader) for reader in self.readers])
        return np.concatenate([part[:-1] + n for part, n in zip(starts, before, strict=False)] + [before[-1:]])

    def documents(self) -> Iterator[dict[str, Any]]:
        """Give `id`, `source` and `links` of every document, in order."""
        return chain.from_iterable(reader.documents() for reader in self.readers)

    @cached_property
    def bounds(self) -> I64:
        """The place of every document's first token, then the number of tokens, [documents + 1]."""
        return _starts(self.sizes)[self.doc_index]

    def document(self, number: int) -> I64:
        """Return all tokens of one document."""
        return self.tokens[slice(*self.bounds[number : number + 2].tolist())]

    def read(self, start_s: I64, stop_s: I64, *, pos: bool) -> Stretches:
        """Read stretches of tokens, each from a place to the one behind its last token; with parts of speech if `pos`.

        Raises:
            DataError: An id is beyond the vocabulary; its file and place are named.
        """
        size_s = stop_s - start_s
        stretch_r = np.repeat(np.arange(len(size_s)), size_s)
        places_r = np.arange(len(stretch_r)) + np.repeat(start_s - (np.cumsum(size_s) - size_s), size_s)
        ids_r = self.tokens[places_r]
        if len(ids_r) and ids_r.max() >= self.vocab_size:
            file, place = self.where(int(places_r[ids_r.argmax()]))
            raise DataError(
                f"id {ids_r.max()} is beyond the vocabulary of {self.vocab_size}",
                file=file,
                record=f"token {place}",
                remedy="The shards are damaged or of another tokenizer: encode the documents again.",
            )
        if not pos:
            return Stretches(ids_r, places_r, stretch_r, None)
        assert self.pos is not None, "whoever masks by it has refused such shards"
        return Stretches(ids_r, places_r, stretch_r, self.pos[places_r])

    def where(self, place: int) -> tuple[Path, int]:
        """Return the file that a token is in, and its place there."""
        bounds = self.tokens.bounds
        i = int(np.searchsorted(bounds, place, side="right")) - 1
        return self.readers[i].folder / f"{self.split}.bin", place - int(bounds[i])

    @property
    def unigram_entropy(self) -> float:
        """The entropy of the tokens' frequencies, without `</s>`, in nats: the loss that a model without context can reach."""
        counts = sum(np.bincount(row, minlength=self.vocab_size) for row in self.tokens.rows if len(row))
        counts = np.delete(counts, self.ids.eos)
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log(shares)).sum())


def held_out(folders: Sequence[str | Path]) -> Shards | None:
    """Open the held-out split of those folders that have one with tokens in it; None if none has."""
    folders = [folder for folder in folders if (Path(folder) / "valid.idx").exists()]
    folders = [folder for folder in folders if (ShardReader(folder, "valid").sizes > 1).any()]
    return Shards(folders, "valid") if folders else None


PUBLIC = ("pmid:", "pmcid:")  # ids that name an article wherever it stands


def require_apart(train: Shards, valid: Shards | None) -> None:
    """Refuse folders of which one trains on what another holds out; inside one, `biomlm corpus build` has seen to it.

    Any other document is known by its id and its tokens: two hospitals may number their notes alike.

    Raises:
        MismatchError: A held-out document is in the training split.
    """
    if valid is None or len(train.readers) == 1:
        return
    held = {str(document["id"]): number for number, document in enumerate(valid.documents())}
    leaks: dict[str, int] = {}
    for number, document in enumerate(train.documents()):
        name = str(document["id"])
        if name not in held:
            continue
        if name.startswith(PUBLIC) or np.array_equal(train.document(number), valid.document(held[name])):
            leaks[name] = number
    if leaks:
        name, number = next(iter(leaks.items()))
        (trained, _), (kept, _) = train.where(int(train.bounds[number])), valid.where(int(valid.bounds[held[name]]))
        raise MismatchError(
            f"{len(leaks)} of {len(held)} held-out documents are trained on, such as {name} of {kept}",
            file=trained,
            remedy="Build the documents of all folders in one `biomlm corpus build`, or with one --valid_fraction.",
        )


def _starts(sizes: Sequence[int] | npt.NDArray[np.integer]) -> I64:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
