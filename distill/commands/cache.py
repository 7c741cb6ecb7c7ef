"""`biomlm distill cache`: a teacher's answers for the micro-batches of a run, in files that several processes write side by side."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from biomlm.core import manifest, rng
from biomlm.core.errors import DataError, MismatchError
from biomlm.core.files import refuse_target, stage, write_json
from biomlm.core.progress import progress
from biomlm.core.summary import summary
from biomlm.distill.losses.targets import Targets, Whole, sample, top
from biomlm.distill.teachers.cache_blocks import encode, of_targets
from biomlm.distill.teachers.cache_config import AnswersConfig, CacheConfig, key_of
from biomlm.distill.teachers.cached import (
    NAME,
    STAGE,
    STEPS,
    Answered,
    check_of,
    file_of,
    hidden_name,
    read_index,
    write_blocks,
)
from biomlm.distill.teachers.teacher import Teachers, Wanted, load, teacher_inputs
from biomlm.model.device import choose
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.data.curriculum import Curriculum
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.training.run_folder import LATER
from biomlm.tokenizer.workers import pool


@dataclass(frozen=True)
class Asked:
    """What became of some steps.

    Args:
        micro_batches: Of these steps.
        tokens: Real tokens in them.
        masked: Predicted positions in them.
        bytes: Of their blocks.
    """

    micro_batches: int
    tokens: int
    masked: int
    bytes: int


class Asker:
    """Asks teachers about steps of a run.

    Args:
        config: What is asked.

    Raises:
        UserError: The shards or a teacher cannot be read, or do not fit.
    """

    def __init__(self, config: AnswersConfig):
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
        self.wanted = [Wanted(config.k > 0, tuple(config.hidden))] * len(models)
        self.curriculum = Curriculum(self.shards, config.run, segments=False)

    def answer(self, batch: Batch) -> bytes:
        """The block of one micro-batch."""
        answers = self.teachers(batch.to(self.device.torch), self.wanted)
        arrays = {"check": np.array([check_of(batch)], np.uint32)}
        if answers.targets is not None:
            assert isinstance(answers.targets, Whole)
            arrays |= of_targets(self.excerpt(answers.targets, batch), self.shards.vocab_size)
        for i, view in enumerate(answers.views):
            for layer, hidden_tu in view.hidden.items():
                arrays[hidden_name(i, layer)] = hidden_tu.float().cpu().numpy().astype(np.float16)
        return encode(arrays)

    def excerpt(self, whole: Whole, batch: Batch) -> Targets:
        """The k that are kept; draws are a function of the seed and the micro-batch."""
        log_p_mv = whole.log_probabilities(slice(None))
        if self.config.kind == "top":
            return top(log_p_mv, min(self.config.k, log_p_mv.shape[1]))
        shape = (len(log_p_mv), self.config.k)
        key = rng.key(self.config.seed, "teacher", batch.epoch, batch.index)
        random = rng.uniform(key, np.arange(math.prod(shape), dtype=np.uint64)).reshape(shape)
        return sample(log_p_mv, self.config.k, torch.from_numpy(random).to(log_p_mv.device))

    def write(self, folder: str, number: int) -> Asked:
        """Answer for one file's steps and write it."""
        steps = range(number * STEPS, min((number + 1) * STEPS, self.config.steps))
        batches = [batch for step in steps for batch in self.curriculum.step(step)]
        blocks = [Answered.to(batch, self.answer(batch)) for batch in batches]
        path = file_of(folder, number)
        write_blocks(path, blocks)
        return Asked(
            len(batches),
            sum(len(batch.packed.input_ids_t) for batch in batches),
            sum(len(batch.labels_m) for batch in batches),
            path.stat().st_size,
        )


_asker: Asker | None = None  # of a worker process


def _start(config: AnswersConfig) -> None:
    global _asker  # noqa: PLW0603 a worker's only state
    torch.set_num_threads(1)
    _asker = Asker(config)


def _write(folder: str, number: int) -> Asked:
    assert _asker is not None
    return _asker.write(folder, number)


def cache(config: CacheConfig) -> None:
    """Write a cache, or go on with writing it."""
    refuse_target(config.out, [*config.run.folders, *config.teacher], option="--out", ours=stage)
    asker, out = Asker(config), Path(config.out)
    key = key_of(config.run, asker.shards, asker.hashes)
    earlier = manifest.read_manifest(out, STAGE, finished=False) if (out / manifest.NAME).exists() else None
    record = manifest.begin(out, STAGE, config, asker.inputs, override=config.override, unrecorded=LATER)
    before = None if earlier is None else {**{k: v for k, v in asker.inputs.items() if k in LATER}, **earlier.inputs}
    if earlier is not None and (earlier.config_hash, before) != (record.config_hash, asker.inputs):
        for path in (out / "answers").glob("*.bin"):  # to other questions, which --override lets pass
            path.unlink()
    files = -(-config.steps // STEPS)
    if record.status != "done":
        facts = {
            "key": key | {"temperature": config.temperature, "steps": config.steps},
            "teachers": [asdict(shape) for shape in asker.teachers.configs],
            "layers": [list(want.layers) for want in asker.wanted],
            "predictions": config.k > 0,
            "files": files,
        }
        write_json(out / NAME, facts)
        counts = _fill(config, asker, out, files)
        paths = [out / NAME, *(file_of(out, i) for i in range(files))]
        record.finish(out, paths, {"steps": config.steps, "files": files, **counts})
    _show(out, record)


def _fill(config: CacheConfig, asker: Asker, out: Path, files: int) -> dict[str, int]:
    """Write the files that are missing or damaged; counts over all of them."""
    counts: Counter[str] = Counter()
    todo = []
    for number in range(files):
        try:
            index = read_index(file_of(out, number))
        except DataError:
            todo.append(number)
            continue
        counts.update(micro_batches=len(index), bytes=file_of(out, number).stat().st_size)
        counts.update(tokens=sum(b.tokens for b in index.values()), masked=sum(b.masked for b in index.values()))
    with ExitStack() as stack:
        bar = stack.enter_context(progress("biomlm distill cache", files, "files", files - len(todo)))
        write: Callable[[str, int], Asked] = asker.write
        made: Iterator[Asked] = map(partial(write, str(out)), todo)
        if config.workers > 1:
            made = stack.enter_context(pool(config.workers, _start, config)).map(partial(_write, str(out)), todo)
        for asked in made:
            counts.update(asdict(asked))
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
