"""`biomlm distill`: shards + teacher → run folder."""

from pathlib import Path

from biomlm.convert.load import Loaded, load_model
from biomlm.core.files import refuse_target, stage
from biomlm.distill import student as students
from biomlm.distill.config import DistillConfig
from biomlm.distill.objective import DistillObjective
from biomlm.distill.teachers.cache_config import key_of
from biomlm.distill.teachers.cached import CachedTeachers
from biomlm.distill.teachers.cross_vocabulary import WordAlignedTeachers
from biomlm.distill.teachers.teacher import Teachers, TeacherSource, load, teacher_inputs
from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.training import run_folder
from biomlm.pretrain.training.initial_model import initial_model
from biomlm.training.distributed.process_group import join
from biomlm.training.resolved import device_of
from biomlm.training.trainer import seed_weights

STAGE = "distill"


def distill(config: DistillConfig) -> None:
    """Distil one student, or go on with an interrupted run."""
    sources = [*config.folders, *config.teachers, config.cache, config.init or "", config.longer or ""]
    refuse_target(config.out, sources, option="--out", ours=stage)
    reader = Shards(config.folders, "train")
    same = config.vocabulary == "same"
    if same:
        loaded = load(config.teachers, reader, config.batch.max_length, config.loss.compares_predictions)
    else:
        loaded = [load_model(path) for path in config.teachers]
    inputs = teacher_inputs(loaded)
    student, origin = initial_student(config, loaded, reader)
    inputs |= origin
    if config.cache:
        cached = CachedTeachers(config.cache)
        source: TeacherSource = cached
        cached.require_key(key_of(config, reader, [teacher.sha256 for teacher in loaded]), config.steps)
        inputs["cache"] = cached.manifest.fingerprint
        for teacher in loaded:  # evaluated at the end, where the student is
            teacher.model.to(device_of(config.out, config.precision, join(config.timeout)).torch)
    else:
        source = running_teachers(config, loaded, reader)
    seed_weights(config.seed + 1)  # of the projections: the student starts as it would without them
    paths = config.teachers or [config.cache] * len(source.configs)
    objective = DistillObjective(
        source, student.config, config.loss, vocab_size=reader.vocab_size, steps=config.steps, sources=paths
    )
    record = run_folder.start(config, STAGE, reader, student, inputs=inputs)
    if record.status == "done":
        run_folder.show(STAGE, Path(config.out))
        return
    comparable = same and loaded and loaded[0].has_head
    run_folder.train(
        config, record, reader, student, objective=objective, teacher=loaded[0].model if comparable else None
    )


def running_teachers(config: DistillConfig, loaded: list[Loaded], reader: Shards) -> TeacherSource:
    """Set up the teachers that run beside the student."""
    device = device_of(config.out, config.precision, join(config.timeout))
    if config.vocabulary == "words":
        return WordAlignedTeachers(loaded, device, reader.tokenizer)
    models = [teacher.model for teacher in loaded]
    return Teachers(models, device, reader.vocab_size, config.loss.temperature, compiled=config.teacher_compile)


def initial_student(config: DistillConfig, teachers: list[Loaded], reader: Shards) -> tuple[MaskedLM, dict[str, str]]:
    """Make the student, of random weights, those of `init` or parts of the first teacher's; and name the input they come from."""
    if config.start == "teacher":
        return students.from_teacher(teachers[0], config, reader), {}
    return initial_model(config, reader)
