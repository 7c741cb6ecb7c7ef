"""`biomlm distill plan`: what a cache of a teacher's answers would take, before it is written."""

import time

from biomlm.core.summary import summary
from biomlm.distill.commands.cache import Asker
from biomlm.distill.teachers.cache_config import AnswersConfig

STEPS = 4  # that are asked for the estimate


def plan(config: AnswersConfig) -> None:
    """Ask about the first steps, and take their size and time for all."""
    asker, size, tokens, masked, seconds = Asker(config), 0, 0, 0, 0.0
    asked = range(min(config.steps, STEPS))
    for step in asked:
        for batch in asker.curriculum.step(step):
            start = time.perf_counter()
            size += len(asker.answer(batch))
            seconds += time.perf_counter() - start
            tokens, masked = tokens + len(batch.packed.input_ids_t), masked + len(batch.labels_m)
    times = config.steps / len(asked)
    rows = {
        "steps": config.steps,
        "steps asked for this estimate": len(asked),
        "tokens": round(tokens * times),
        "masked positions": round(masked * times),
        "bytes": round(size * times),
        "bytes a token": size / max(tokens, 1),
        "hours of one process": seconds * times / 3600,
    }
    summary("biomlm distill plan", rows)
