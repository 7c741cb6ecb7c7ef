"""`biomlm distill cache`: write a teacher's outputs for the micro-batches of a run, in files that several processes write in parallel."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
import torch

from biomlm.core import manifest, rng
from biomlm.core.errors import DataError, MismatchError
from biomlm.core.files import refuse_target, stage, write_json
from biomlm.core.progress import progress
from biomlm.core.summary import summary
from biomlm.distill.losses.targets import Targets, Whole, sample, top
from biomlm.distill.teachers.cache_blocks import encode, encode_targets
from biomlm.distill.teachers.cache_config import CacheConfig, TeacherOutputsConfig, key_of
from biomlm.distill.teachers.cached import (
    NAME,
    STAGE,
    STEPS,
    EncodedOutputs,
    batch_checksum,
    block_file,
    hidden_name,
    read_index,
    write_blocks,
)
from biomlm.distill.teachers.teacher import TeacherRequest, Teachers, load, teacher_inputs
from biomlm.model.device import choose, fetch, send
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.data.curriculum import Curriculum
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.training.run_folder import LATER
from biomlm.tokenizer.workers import CONTEXT, pool
from biomlm.training.prefetch import Prefetcher


@dataclass(frozen=True)
class FileCounts:
    """What one file of the cache holds.

    Args:
        micro_batches: Their number.
        tokens: Real tokens in them.
        masked: Predicted positions in them.
        bytes: Size of the file.
    """

    micro_batches: int
    tokens: int
    masked: int
    bytes: int


class CacheBuilder:
    """Runs teachers on the micro-batches of a run and encodes their outputs.

    Args:
        config: The run's micro-batches, and which outputs are kept.

    Raises:
        UserError: The shards or a teacher cannot be read, or do not fit.
    """

    def __init__(self, config: TeacherOutputsConfig):
        self.config = config
        self.shards = Shards(config.run.folders, "train")
        paths = list(config.teacher)
        loaded = load(paths, self.shards, config.batch.max_length, config.k > 0)
        for path, teacher in zip(paths, loaded, strict=True):
            depth = teacher.config.num_hidden_layers
            if max(config.hidden, default=0) > depth:
                raise MismatchError(
                    f"hidden states of layer {max(config.hidden)} are asked for, and the teacher has {depth} layers",
                    file=path,
                    remedy="Give layers that it has to --hidden.",
                )
        self.hashes = [teacher.sha256 for teacher in loaded]
        self.inputs = {"shards": self.shards.fingerprint, **teacher_inputs(loaded)}
        self.device = choose(config.precision)
        models = [teacher.model for teacher in loaded]
        self.teachers = Teachers(models, self.device, self.shards.vocab_size, config.temperature)
        self.requests = [TeacherRequest(config.k > 0, tuple(config.hidden))] * len(models)
        self.curriculum = Curriculum(self.shards, config.run, segments=False)

    def encode_batch(self, batch: Batch) -> bytes:
        """Run the teachers on one micro-batch; its block of the cache."""
        outputs = self.teachers(batch.to(self.device.torch), self.requests)
        targets, whole = None, outputs.targets
        if whole is not None:
            assert isinstance(whole, Whole)
            targets = self.excerpt(whole, batch)
        hidden = {
            hidden_name(i, layer): hidden_tu.half()
            for i, states in enumerate(outputs.states)
            for layer, hidden_tu in states.hidden.items()
        }
        parts = [] if targets is None else list(vars(targets).values())
        copies = fetch([*parts, *hidden.values()])
        arrays = {"check": np.array([batch_checksum(batch)], np.uint32)}
        if targets is not None:
            arrays |= encode_targets(type(targets)(*copies[: len(parts)]), self.shards.vocab_size)
        states_of = zip(hidden, copies[len(parts) :], strict=True)
        return encode(arrays | {name: hidden_tu.numpy() for name, hidden_tu in states_of})

    def excerpt(self, whole: Whole, batch: Batch) -> Targets:
        """Keep k entries of each distribution; random draws are a function of the seed and the micro-batch."""
        log_p_mv = whole.log_probabilities(slice(None))
        if self.config.kind == "top":
            return top(log_p_mv, min(self.config.k, log_p_mv.shape[1]))
        shape = (len(log_p_mv), self.config.k)
        key = rng.key(self.config.seed, "teacher", batch.epoch, batch.index)
        random = rng.uniform(key, np.arange(math.prod(shape), dtype=np.uint64)).reshape(shape)
        return sample(log_p_mv, self.config.k, send(torch.from_numpy(random), log_p_mv.device))

    def _load(self, step: int) -> list[Batch]:
        """Make a step's micro-batches, in memory from which a copy to the device need not wait."""
        on_gpu = self.device.torch.type == "cuda"
        return [batch.pin() if on_gpu else batch for batch in self.curriculum.step(step)]

    def write(self, folder: str, number: int) -> FileCounts:
        """Run the teachers on one file's steps and write it."""
        first, stop = number * STEPS, min((number + 1) * STEPS, self.config.steps)
        with Prefetcher(self._load, first, stop) as steps:
            blocks = [EncodedOutputs.of(batch, self.encode_batch(batch)) for step in steps for batch in step]
        path = block_file(folder, number)
        write_blocks(path, blocks)
        return FileCounts(
            len(blocks),
            sum(block.tokens for block in blocks),
            sum(block.masked for block in blocks),
            path.stat().st_size,
        )


_builder: CacheBuilder | None = None  # of a worker process


def _start_worker(config: TeacherOutputsConfig, started: "Synchronized[int]") -> None:
    """Load a worker's own teachers; workers are dealt to the GPUs in turn."""
    global _builder  # noqa: PLW0603 a worker's only state
    torch.set_num_threads(1)
    with started.get_lock():
        number, started.value = started.value, started.value + 1
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    _builder = CacheBuilder(config)


def _write(folder: str, number: int) -> FileCounts:
    assert _builder is not None
    return _builder.write(folder, number)


def cache(config: CacheConfig) -> None:
    """Write a cache, or go on with writing it."""
    refuse_target(config.out, [*config.run.folders, *config.teacher], option="--out", ours=stage)
    builder, out = CacheBuilder(config), Path(config.out)
    key = key_of(config.run, builder.shards, builder.hashes)
    earlier = manifest.read_manifest(out, STAGE, finished=False) if (out / manifest.NAME).exists() else None
    record = manifest.begin(out, STAGE, config, builder.inputs, override=config.override, unrecorded=LATER)
    before = None if earlier is None else {**{k: v for k, v in builder.inputs.items() if k in LATER}, **earlier.inputs}
    if earlier is not None and (earlier.config_hash, before) != (record.config_hash, builder.inputs):
        for path in (out / "answers").glob("*.bin"):  # of another configuration, which --override allows
            path.unlink()
    files = -(-config.steps // STEPS)
    if record.status != "done":
        facts = {
            "key": key | {"temperature": config.temperature, "steps": config.steps},
            "teachers": [asdict(shape) for shape in builder.teachers.configs],
            "layers": [list(request.layers) for request in builder.requests],
            "predictions": config.k > 0,
            "files": files,
        }
        write_json(out / NAME, facts)
        counts = _fill(config, builder, out, files)
        paths = [out / NAME, *(block_file(out, i) for i in range(files))]
        record.finish(out, paths, {"steps": config.steps, "files": files, **counts})
    _show(out, record)


def _fill(config: CacheConfig, builder: CacheBuilder, out: Path, files: int) -> dict[str, int]:
    """Write the files that are missing or damaged; the counts are over all files."""
    counts: Counter[str] = Counter()
    missing = []
    for number in range(files):
        try:
            index = read_index(block_file(out, number))
        except DataError:
            missing.append(number)
            continue
        counts.update(micro_batches=len(index), bytes=block_file(out, number).stat().st_size)
        counts.update(tokens=sum(entry.tokens for entry in index.values()))
        counts.update(masked=sum(entry.masked for entry in index.values()))
    with ExitStack() as stack:
        bar = stack.enter_context(progress("biomlm distill cache", files, "files", files - len(missing)))
        write: Callable[[str, int], FileCounts] = builder.write
        written: Iterator[FileCounts] = map(partial(write, str(out)), missing)
        if config.workers > 1:
            workers = stack.enter_context(pool(config.workers, _start_worker, config, CONTEXT.Value("i")))
            written = workers.map(partial(_write, str(out)), missing)
        for file_counts in written:
            counts.update(asdict(file_counts))
            bar.advance(1, note=f"{counts['bytes'] / max(counts['tokens'], 1):.1f} B a token")
    return dict(counts)


def _show(out: Path, record: manifest.Manifest) -> None:
    counts = record.counts
    rows = {
        "steps": counts["steps"],
        "micro-batches": counts["micro_batches"],
        "tokens": counts["tokens"],
        "masked positions": counts["masked"],
        "bytes": counts["bytes"],
        "bytes a token": counts["bytes"] / max(counts["tokens"], 1),
    }
    summary(f"biomlm {STAGE} → {out}", rows)
