"""`biolm distill`: shards + teacher → run folder."""

from pathlib import Path

from biolm.convert.load import load_model
from biolm.core.cli import Verb
from biolm.distill.config import DistillConfig
from biolm.distill.objective import DistillObjective, Teacher
from biolm.model.device import choose
from biolm.pretrain import run
from biolm.pretrain.loop import seed_weights
from biolm.tokenizer.shards import ShardReader

STAGE = "distill"


def distill(config: DistillConfig) -> None:
    """Distil, or go on with distilling, one student."""
    loaded = load_model(config.teacher)
    reader = ShardReader(config.shards, "train")
    run.require_same_vocabulary(loaded.tokenizer_dir, loaded.config.vocab_size, config.teacher, reader)
    run.require_positions(loaded.config.max_positions, config.teacher, config.batch.max_length)
    student = run.initial_model(config, reader)
    record = run.start(config, STAGE, reader, student, {"teacher": loaded.sha256})
    if record.status == "done":
        run.show(STAGE, Path(config.out))
        return
    teacher = Teacher(loaded.model, choose(config.precision).torch)
    seed_weights(config.seed + 1)  # the projection's, drawn apart so that the student starts as it would alone
    objective = DistillObjective(teacher, student.config.hidden_size, config.loss)
    run.train(config, record, reader, student, objective, teacher.model)


VERB = Verb(
    config=DistillConfig,
    run=distill,
    example="biolm distill --shards SHARDS --teacher RUN --model.size tiny --steps 200 --out STUDENT",
)
