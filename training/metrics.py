"""What a run logs while it trains: records in `metrics.jsonl`, the progress bar, and a line about ranks that hold the others up.

Only rank 0 logs anything. Figures are summed between records; the sums are part of a checkpoint, so that a resumed run writes the
same records.
"""

import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from biomlm.core.metrics import MetricsWriter
from biomlm.core.progress import Bar, human, progress
from biomlm.training.rank_batches import FINGERPRINT

SLOW = 1.5  # a rank that takes this many times as long as the others' median is named
SLOW_RECORDS = 3  # in so many records running


class MetricsLogger:
    """Metrics and progress of one process's part of a run.

    Args:
        run: The run folder.
        what: The verb, as the progress bar shows it.
        steps: Of the whole run.
        work: Steps → tokens that so many are expected to read, by which progress is counted.
        speaks: Whether this is rank 0.
        peak: Floating-point operations a second at best, of all ranks together; None to leave utilisation out.
    """

    def __init__(
        self, run: Path, what: str, steps: int, work: Callable[[int], float], *, speaks: bool, peak: float | None
    ):
        self.run, self.what, self.steps, self.work, self.speaks, self.peak = run, what, steps, work, speaks, peak
        self.window: dict[str, float] = defaultdict(float)  # sums since the last record
        self.counts: dict[str, int] = defaultdict(int)  # of steps in each of these sums
        self.fingerprint = 0
        self.slow = (0, 0)  # the slowest rank, and in how many records running
        self.waited, self.started = 0.0, time.monotonic()
        self.tokens = self.flops = 0  # computed since then
        self.said = ""  # of the sizes of steps
        self.stage_began = (self.started, 0)  # when, and after how many of these tokens
        self.metrics: MetricsWriter | None = None
        self.worked, self.loss = 0.0, math.nan  # as the bar shows them
        self.bar: Bar | None = None
        self.open, self.shown = ExitStack(), ExitStack()

    def begin(self, step: int) -> None:
        """Start recording after `step` steps."""
        self.started, self.worked = time.monotonic(), self.work(step)
        if self.speaks:
            self.metrics = self.open.enter_context(MetricsWriter(self.run, step))
            self.bar = self.shown.enter_context(progress(self.what, self.work(self.steps), "tokens", self.worked))

    def __enter__(self) -> "MetricsLogger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open.close()
        self.shown.close()

    @property
    def seconds(self) -> float:
        """The seconds since recording began."""
        return time.monotonic() - self.started

    @property
    def speed(self) -> float:
        """The real tokens a second since recording began."""
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def mfu(self) -> float | None:
        """The model FLOPs utilisation since recording began (see `model.flops`); None if there is nothing to relate them to."""
        return None if self.peak is None else self.flops / max(self.seconds, 1e-9) / self.peak

    def log_work(self, tokens: int, flops: int) -> None:
        """Count a step's tokens and FLOPs, whether or not it updated the weights."""
        self.tokens += tokens
        self.flops += flops

    def sizes(self, step: int, sizes: str) -> None:
        """Say what steps read, in these words, if that is another than before from `step` on, counted from 0."""
        if sizes == self.said:
            return
        now, (began, before) = time.monotonic(), self.stage_began
        if self.speaks:
            speed = f"; {human((self.tokens - before) / (now - began))} real tokens/s before" if self.said else ""
            print(f"{self.what}: from step {step + 1}: {sizes}{speed}", file=sys.stderr)
        self.said, self.stage_began = sizes, (now, self.tokens)

    def step(self, done: int, figures: dict[str, float], fingerprint: int) -> None:
        """Count a step that moved the weights.

        Args:
            done: Steps done.
            figures: Its means, without those over nothing.
            fingerprint: Of its batches.
        """
        for name, value in figures.items():
            self.window[name] += value
            self.counts[name] += 1
        self.log_batches(fingerprint)
        if self.bar is not None:
            self.loss = figures.get("loss", self.loss)
            mfu = "" if self.mfu is None else f"  MFU {self.mfu:.0%}"
            note = f"step {done:,} of {self.steps:,}  loss {self.loss:.3f}{mfu}"
            self.bar.advance(self.work(done) - self.worked, note=note)
            self.worked = self.work(done)

    def log_batches(self, fingerprint: int) -> None:
        """Add the fingerprint of a step's batches, whether or not it updated the weights."""
        self.fingerprint = (self.fingerprint + fingerprint) & FINGERPRINT

    def log(self, step: int, tokens: int, busy: list[float]) -> None:
        """Write the means since the last record.

        Args:
            step: Steps done.
            tokens: Tokens of the whole run.
            busy: Seconds that each rank computed by itself in the last step.
        """
        if self.metrics is not None:
            means = {name: value / self.counts[name] for name, value in self.window.items()}
            rates = {
                "tokens": tokens,
                "tokens_per_second": round(self.speed, 1),
                **({} if self.mfu is None else {"mfu": round(self.mfu, 4)}),
                "data_wait": round(self.waited / self.seconds, 4),
            }
            seen = {"batches": f"{self.fingerprint:016x}"}
            self.metrics.write(step, "train", {**means, **rates, **self._slowest(busy), **seen})
        self.window.clear()
        self.counts.clear()
        self.fingerprint = 0

    def _slowest(self, busy: list[float]) -> dict[str, float]:
        if len(busy) == 1:
            return {}
        rank = max(range(len(busy)), key=lambda r: busy[r])
        ratio = busy[rank] / max(statistics.median(b for r, b in enumerate(busy) if r != rank), 1e-9)
        self.slow = (rank, self.slow[1] + 1 if rank == self.slow[0] and ratio >= SLOW else int(ratio >= SLOW))
        if self.slow[1] == SLOW_RECORDS:
            print(f"{self.what}: rank {rank} takes {ratio:.1f} times as long as the others", file=sys.stderr)
        return {"slowest_rank": rank, "slowest_ratio": round(ratio, 3)}

    def valid(self, step: int, figures: dict[str, float]) -> None:
        """Write an evaluation."""
        if self.metrics is not None:
            self.metrics.write(step, "valid", figures)

    def event(self, step: int, what: str, figures: dict[str, float]) -> None:
        """Write and say what a guard did."""
        if self.metrics is not None:
            self.metrics.write(step, "guard", {"event": what, **figures})
            print(f"{self.what}: step {step}: {what}", file=sys.stderr)

    def truncate(self, step: int) -> None:
        """Remove all records after `step`."""
        if self.metrics is not None:
            self.open.close()
            self.metrics = self.open.enter_context(MetricsWriter(self.run, step))

    @staticmethod
    def fresh() -> dict[str, Any]:
        """Return what a checkpoint holds of one that has logged nothing since its last record."""
        return {"window": {}, "window_counts": {}, "fingerprint": 0}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return {"window": dict(self.window), "window_counts": dict(self.counts), "fingerprint": self.fingerprint}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what a checkpoint holds."""
        self.window.clear()
        self.window.update(state["window"])
        self.counts.clear()
        self.counts.update(state["window_counts"] if "window_counts" in state else _same(state))
        self.fingerprint = state["fingerprint"]


def _same(state: Mapping[str, Any]) -> dict[str, int]:
    """Return the counts of a checkpoint of earlier versions, which took every figure from every step."""
    return dict.fromkeys(state["window"], state["window_steps"])
