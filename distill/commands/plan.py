"""`biomlm distill plan`: estimate the size and time of a cache of a teacher's outputs before it is written."""

import time

from biomlm.core.summary import summary
from biomlm.distill.commands.cache import CacheBuilder
from biomlm.distill.teachers.cache_config import TeacherOutputsConfig

STEPS = 4  # that are measured


def plan(config: TeacherOutputsConfig) -> None:
    """Run the teachers on the first steps, and scale their size and time up to all."""
    builder, size, tokens, masked, seconds = CacheBuilder(config), 0, 0, 0, 0.0
    measured = range(min(config.steps, STEPS))
    for step in measured:
        for batch in builder.curriculum.step(step):
            start = time.perf_counter()
            size += len(builder.encode_batch(batch))
            seconds += time.perf_counter() - start
            tokens, masked = tokens + len(batch.packed.input_ids_t), masked + len(batch.labels_m)
    scale = config.steps / len(measured)
    rows = {
        "steps": config.steps,
        "steps asked for this estimate": len(measured),
        "tokens": round(tokens * scale),
        "masked positions": round(masked * scale),
        "bytes": round(size * scale),
        "bytes a token": size / max(tokens, 1),
        "hours of one process": seconds * scale / 3600,
    }
    summary("biomlm distill plan", rows)
