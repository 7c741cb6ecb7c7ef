"""`biolm distill`: shards + teacher → run folder."""

from collections.abc import Callable
from pathlib import Path

from biolm.convert.load import Loaded
from biolm.core.cli import Verb
from biolm.distill import student as students
from biolm.distill.config import DistillConfig
from biolm.distill.objective import DistillObjective
from biolm.distill.teacher import Teachers, load
from biolm.model.device import choose
from biolm.model.encoder import MaskedLM
from biolm.pretrain import run
from biolm.pretrain.batches import Batch
from biolm.pretrain.loop import seed_weights
from biolm.pretrain.shards import Shards

STAGE = "distill"


def distill(config: DistillConfig) -> None:
    """Distil, or go on with distilling, one student."""
    reader = Shards(config.folders, "train")
    loaded = load(config.teachers, reader, config.batch.max_length, config.loss.uses("kl"))
    student = initial_student(config, loaded, reader)
    device = choose(config.precision)
    models = [teacher.model for teacher in loaded]
    answerer = Teachers(models, device, reader.vocab_size, config.loss.temperature, config.teacher_compile)
    seed_weights(config.seed + 1)  # the projections', drawn apart so that the student starts as it would alone
    objective = DistillObjective(
        answerer, student.config, config.loss, reader.vocab_size, share_of_run(config), config.teachers
    )
    hashes = {f"teacher {i}" if i else "teacher": teacher.sha256 for i, teacher in enumerate(loaded)}
    record = run.start(config, STAGE, reader, student, hashes)
    if record.status == "done":
        run.show(STAGE, Path(config.out))
        return
    run.train(config, record, reader, student, objective, models[0] if models else None)


def initial_student(config: DistillConfig, teachers: list[Loaded], reader: Shards) -> MaskedLM:
    """Random weights, those of `init`, or parts of the first teacher."""
    if config.start == "teacher":
        return students.from_teacher(teachers[0], config, reader)
    return run.initial_model(config, reader)


def share_of_run(config: DistillConfig) -> Callable[[Batch], float]:
    """The share of the run that is over before a micro-batch."""
    weights = (config.loss.kl, config.loss.mlm, config.loss.hidden, config.loss.embeddings, config.loss.relations)
    if not any(isinstance(weight, str) for weight in weights):
        return lambda _: 0.0
    last = max(config.steps - 1, 1)
    return lambda batch: batch.step / last


VERB = Verb(
    config=DistillConfig,
    run=distill,
    example="biolm distill --shards SHARDS --teacher RUN --model.size tiny --steps 200 --out STUDENT",
)
