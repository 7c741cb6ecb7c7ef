"""`biomlm tokenizer encode`: documents + tokenizer → token shards.

This process reads lines and writes ids; workers parse and encode blocks of lines, and their results are taken in order, so that
the bytes do not depend on the number of workers. Each file of documents becomes a part under `SHARDS/.parts`, whole or absent: an
interrupted run goes on behind the last one. In the end the parts are joined.
"""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from biomlm.core import manifest, summary
from biomlm.core.errors import DataError, MismatchError
from biomlm.core.files import atomic_dir, refuse_target, stage
from biomlm.core.progress import Bar, progress
from biomlm.corpus.documents import SPLITS, document_files
from biomlm.inputs.streams import open_lines
from biomlm.tokenizer import documents
from biomlm.tokenizer.config import EncodeConfig
from biomlm.tokenizer.encoding.pos import PosTable, Spacy, Tagger
from biomlm.tokenizer.encoding.word_cache import END, WordCache
from biomlm.tokenizer.formats import folder
from biomlm.tokenizer.shards import POS, REMEDY, STAGE, ShardWriter, id_type, map_tokens, read_index
from biomlm.tokenizer.workers import pool

BLOCK = 1 << 20  # bytes of lines given to a worker at a time
WAITING = 1 << 18  # words looked up at a time
PARTS = ".parts"
MOST_UNKNOWN = 0.5  # of a split's tokens: more are no text that a model could learn from


class Block(NamedTuple):
    """Lines of one file, for a worker."""

    path: Path
    first: int
    lines: list[bytes]


class Encoded(NamedTuple):
    """Documents as ids, as `ShardWriter.append` takes them."""

    tokens: npt.NDArray[Any]
    sizes: npt.NDArray[np.int32]
    doc_starts: npt.NDArray[np.int64]
    segment_starts: npt.NDArray[np.int64]
    docs: bytes
    pos: npt.NDArray[np.uint8] | None


class Encoder:
    """Encode blocks of documents; each worker has one.

    Args:
        tokenizer: Gives the ids.
        tagger: Gives the parts of speech, if they are wanted.
    """

    def __init__(self, tokenizer: folder.Tokenizer, tagger: Tagger | None):
        self.word_cache = WordCache(tokenizer)
        self.pos = PosTable(tagger, tokenizer) if tagger else None
        self.splits = tokenizer.splits_at_blanks
        self.dtype = id_type(tokenizer.vocab_size)

    def encode(self, block: Block) -> Encoded:
        """Encode a block: every sentence with its closing id, and a closing id alone behind every document."""
        items, waiting = 0, list[str]()
        ids, sizes, docs = list[npt.NDArray[Any]](), list[npt.NDArray[Any]](), list[bytes]()
        tags = list[npt.NDArray[np.uint8]]()
        doc_starts, segment_starts = list[int](), list[int]()

        def flush() -> None:
            new_ids, lengths = self.word_cache.encode(waiting)
            ids.append(new_ids.astype(self.dtype))
            sizes.append(lengths)
            if self.pos is not None:
                tags.append(self.pos.tags(waiting))
            waiting.clear()

        for number, line in enumerate(block.lines, start=block.first):
            document = documents.parse(line, block.path, number)
            doc_starts.append(items)
            front, last = documents.FIRST, -1
            for section, words in document.words():
                if section != last:
                    segment_starts.append(items)
                units = words if self.splits else [" ".join(words)]
                units[0] = front + units[0]
                waiting += units
                waiting.append(END)
                items, front, last = items + 1, "", section
                if len(waiting) > WAITING:
                    flush()
            if last == -1:
                segment_starts.append(items)
            waiting.append(END)
            items += 1
            docs.append(orjson.dumps({"id": document.id, "source": document.source, "links": list(document.links)}))
        flush()
        return Encoded(
            tokens=np.concatenate(ids),
            sizes=np.concatenate(sizes).astype(np.int32),
            doc_starts=np.array(doc_starts, dtype=np.int64),
            segment_starts=np.array(segment_starts, dtype=np.int64),
            docs=b"".join(line + b"\n" for line in docs),
            pos=np.concatenate(tags) if self.pos is not None else None,
        )


_encoder: Encoder | None = None


def _start_worker(tokenizer: str, pos: str) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    global _encoder  # noqa: PLW0603 (a worker process has one encoder for its lifetime)
    _encoder = Encoder(folder.load(tokenizer), Spacy(pos) if pos else None)


def _work(block: Block) -> Encoded:
    assert _encoder is not None
    return _encoder.encode(block)


def encode(config: EncodeConfig) -> None:
    """Run `biomlm tokenizer encode`.

    Raises:
        DataError: Documents or tokenizer cannot be read, or there are no documents.
        ConfigError: There is no such tagger.
    """
    refuse_target(config.out, [config.docs, config.tokenizer, config.pos], option="--out", ours=stage)
    docs_manifest = manifest.read_manifest(config.docs, "corpus build")
    tokenizer = folder.load(config.tokenizer)
    tagger = Spacy(config.pos) if config.pos else None
    inputs = {"docs": docs_manifest.fingerprint, "tokenizer": tokenizer.fingerprint}
    inputs |= {"pos": tagger.name, "pos as read": tagger.fingerprint} if tagger else {}
    record = manifest.begin(config.out, STAGE, config, inputs, unrecorded=["pos as read"])
    if record.status != "done":
        if not document_files(config.docs, "train"):
            raise DataError("the train split has no files", file=config.docs, remedy="Give a folder of documents.")
        counts, paths = _encode_all(config, tokenizer, tagger)
        record.finish(config.out, paths, counts)
        shutil.rmtree(Path(config.out) / PARTS, ignore_errors=True)
    rows = {f"{split}: {name}": value for split in SPLITS for name, value in record.counts[split].items()}
    summary.summary(f"biomlm {STAGE}: {config.out}", rows)


def _encode_all(
    config: EncodeConfig, tokenizer: folder.Tokenizer, tagger: Tagger | None
) -> tuple[dict[str, Any], list[Path]]:
    out = Path(config.out)
    parts = {
        split: [(file, _part(out, split, file)) for file in document_files(config.docs, split)] for split in SPLITS
    }
    todo = [pair for pairs in parts.values() for pair in pairs]
    new = partial(ShardWriter, dtype=id_type(tokenizer.vocab_size), pos=tagger is not None)
    done = sum(file.stat().st_size for file, part in todo if part.exists())
    with (
        progress("encode", sum(file.stat().st_size for file, _ in todo), "B", done) as bar,
        _workers(config, tokenizer, tagger) as results,
    ):
        for file, part in todo:
            if not part.exists():
                _encode_file(file, part, new, results, bar)
    counts, paths = {}, []
    for split, pairs in parts.items():
        writer = _join(new(out / split), [part for _, part in pairs])
        counts[split] = _counts(writer, tokenizer, config.tokenizer)
        paths += writer.paths
    folder.copy(config.tokenizer, out / "tokenizer")
    paths += sorted((out / "tokenizer").iterdir())
    if (out / "tokenizer" / "dict.txt").exists():
        shutil.copyfile(out / "tokenizer" / "dict.txt", out / "dict.txt")
        paths.append(out / "dict.txt")
    return counts, paths


def _part(out: Path, split: str, file: Path) -> Path:
    return out / PARTS / f"{split}-{file.name.removesuffix('.jsonl.gz')}"


Work = Callable[[Iterable[Block]], Iterator[Encoded]]


@contextmanager
def _workers(config: EncodeConfig, tokenizer: folder.Tokenizer, tagger: Tagger | None) -> Iterator[Work]:
    """Give a function that encodes blocks in order, in this process or in others; few blocks wait at any time."""
    workers = config.workers or os.cpu_count() or 1
    if workers == 1:
        encoder = Encoder(tokenizer, tagger)
        yield lambda blocks: map(encoder.encode, blocks)
        return
    with pool(workers, _start_worker, config.tokenizer, config.pos) as processes:

        def work(blocks: Iterable[Block]) -> Iterator[Encoded]:
            waiting: deque[Future[Encoded]] = deque()
            for block in blocks:
                waiting.append(processes.submit(_work, block))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        yield work


def _encode_file(file: Path, part: Path, new: Callable[[Path], ShardWriter], work: Work, bar: Bar) -> None:
    with atomic_dir(part) as tmp, new(tmp / "part") as writer:
        for encoded in work(_blocks(file, bar)):
            writer.append(*encoded)


def _blocks(path: Path, bar: Bar) -> Iterator[Block]:
    """Cut a file into blocks of whole lines, moving the bar by the compressed bytes read."""
    with path.open("rb") as file:
        first, size, consumed = 1, 0, 0
        lines: list[bytes] = []
        for line in open_lines(file, remedy=documents.REMEDY):
            lines.append(line)
            size += len(line)
            if size >= BLOCK:
                yield Block(path, first, lines)
                bar.advance(file.tell() - consumed)
                first, size, consumed = first + len(lines), 0, file.tell()
                lines = []
        if lines:
            yield Block(path, first, lines)
        bar.advance(path.stat().st_size - consumed)


def _join(writer: ShardWriter, parts: list[Path]) -> ShardWriter:
    """Write the parts of a split as one, and return the closed writer."""
    with writer:
        for part in parts:
            source = part / "part"
            dtype, sizes = read_index(source.with_suffix(".idx"))
            doc_starts, segment_starts = (
                np.load(source.with_suffix(f".{name}.npy"), allow_pickle=False)[:-1]
                for name in ("doc_index", "segments")
            )
            with source.with_suffix(".docs.jsonl.gz").open("rb") as file:
                docs = b"".join(open_lines(file, remedy=REMEDY))
            pos = np.load(source.with_suffix(POS), mmap_mode="r", allow_pickle=False) if writer.has_pos else None
            writer.append(map_tokens(source.with_suffix(".bin"), dtype), sizes, doc_starts, segment_starts, docs, pos)
    return writer


def _counts(writer: ShardWriter, tokenizer: folder.Tokenizer, place: str) -> dict[str, Any]:
    """Count documents, sentences and tokens of one split, for the manifest.

    Raises:
        MismatchError: Most tokens are unknown to the vocabulary.
    """
    tokens = map_tokens(writer.paths[0], writer.dtype)
    frequency = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for start in range(0, len(tokens), BLOCK):
        frequency += np.bincount(tokens[start : start + BLOCK], minlength=tokenizer.vocab_size)
    frequency[tokenizer.ids.eos] = 0
    if (unknown := frequency[tokenizer.ids.unk] / max(frequency.sum(), 1)) > MOST_UNKNOWN:
        raise MismatchError(
            f"{unknown:.0%} of the tokens are unknown to this vocabulary of {tokenizer.vocab_size:,} pieces",
            file=place,
            remedy="Give a tokenizer that is whole, and of the language of the documents.",
        )
    share = frequency[frequency > 0] / max(frequency.sum(), 1)
    documents = sum(map(len, writer.doc_starts))
    return {
        "documents": documents,
        "sentences": writer.items - documents,
        "tokens": int(frequency.sum()),
        "unigram_entropy": float(0.0 - (share * np.log(share)).sum()),
    }
