"""Parts of the GPU benchmark that need the whole loop or a profiler: a run that is killed and goes on, and where a step's time goes."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import plain  # noqa: F401
import torch
from gpu_common import Line, Settings, batch_of, batches_of, clean, engine_of, one_step, wait
from safetensors.torch import load_file

from biomlm.core import checkpoint
from biomlm.pretrain.data.batches import Batch
from biomlm.training.config import GuardConfig, LoopConfig
from biomlm.training.selection import Selection
from biomlm.training.trainer import Trainer

STEPS, EVERY, PROFILED = 12, 3, 5


class RandomBatches:
    """The micro-batches of a run on random ids, in the loop's terms."""

    def __init__(self, settings: Settings):
        self.settings, self.encoder = settings, settings.encoder(settings.sizes[0])

    def names(self, step: int) -> Sequence[tuple[int, ...]]:
        """See `Batches`."""
        return [(0, step)]

    def make(self, name: tuple[int, ...]) -> Batch:
        """See `Batches`."""
        return batch_of(self.settings, self.encoder, name[1])

    def work(self, steps: int) -> float:
        """See `Batches`."""
        return float(steps * self.settings.tokens)

    def sizes(self, step: int) -> str:  # noqa: ARG002
        """See `Batches`."""
        return "random sequences"

    def title(self, name: tuple[int, ...]) -> str:
        """See `Batches`."""
        return f"batch {name[1]}"

    def smaller(self, step: int, fitting: int) -> str:  # noqa: ARG002
        """See `Batches`."""
        return "--tokens"

    def place(self, step: int) -> dict[str, Any]:  # noqa: ARG002
        """See `Batches`."""
        return {}

    def resume(self, step: int, place: Mapping[str, Any]) -> None:
        """See `Batches`."""

    def step_over(self, step: int, steps: int) -> None:
        """See `Batches`."""


def train(run: Path, settings: Settings) -> None:
    """Train in a folder, from its newest checkpoint on."""
    batches = RandomBatches(settings)
    numbers = {"log_every": 1, "eval_every": STEPS, "save_every": EVERY, "keep": 2, "keep_every": 0, "timeout": 600.0}
    config = LoopConfig(steps=STEPS, seed=0, guard=GuardConfig(), **numbers)  # type: ignore[arg-type]
    engine = engine_of(batches.encoder, settings.device)
    trainer = Trainer(run, engine, batches, evaluation=None, selection=Selection(), config=config, what="benchmark")
    trainer.resume()
    trainer.train()


def started(run: Path, settings: Settings) -> subprocess.Popen[bytes]:
    """The same in a process of its own."""
    numbers = {**asdict(settings), "device": None}
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import plain, torch\nfrom pathlib import Path\nfrom gpu_common import Settings\nfrom gpu_runs import train\n"
        "from biomlm.model.device import Device\n"
        f"device = Device(torch.device({settings.device.torch.type!r}), {settings.device.precision!r})\n"
        f"train(Path({str(run)!r}), Settings(**{{**{numbers!r}, 'device': device}}))\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for it; what it says last if it failed."""
    _, told = process.communicate()
    if process.returncode:
        raise RuntimeError(told.decode().strip().splitlines()[-1] if told else "it ended without a word")


def killed_and_resumed(settings: Settings) -> Iterator[Line]:
    """A run that `kill -9` ends after its first checkpoint and that goes on, against one that was left alone."""
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        for run in (whole, killed):
            run.mkdir()
        finish(started(whole, settings))
        process = started(killed, settings)
        while not checkpoint.steps(killed) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        after = max(checkpoint.steps(killed), default=0)
        finish(started(killed, settings))
        ends = [load_file(checkpoint.path_of(run, STEPS) / "model.safetensors") for run in (whole, killed)]
        far = max(float((ends[0][name] - ends[1][name]).abs().max()) for name in ends[0])
        figures = {"killed after step": after, "of": STEPS, "same bits": far == 0, "largest difference": far}
        yield Line("resume", settings.sizes[0], figures, "another model" if far > 1e-2 or not 0 < after < STEPS else "")


def profile(settings: Settings) -> Iterator[Line]:
    """The longest kernels of a step, and how long the device waits between kernels."""
    encoder = settings.encoder(settings.sizes[0])
    with clean(settings):
        engine = engine_of(encoder, settings.device)
        batches = batches_of(settings, encoder, PROFILED + 1)
        one_step(engine, batches[0], 0)
        activities = [torch.profiler.ProfilerActivity.CPU]
        if settings.on_gpu:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profiler:
            start = time.perf_counter()
            for number, batch in enumerate(batches[1:], 1):
                one_step(engine, batch, number)
            wait(settings.device)
            seconds = time.perf_counter() - start
    kind = torch.autograd.DeviceType.CUDA if settings.on_gpu else torch.autograd.DeviceType.CPU
    kernels = [event for event in profiler.events() if event.device_type == kind]
    totals = dict[str, tuple[float, int]]()
    for event in kernels:
        took = event.time_range.elapsed_us() if settings.on_gpu else event.self_cpu_time_total
        time_, count = totals.get(event.name, (0.0, 0))
        totals[event.name] = time_ + took, count + 1
    busy = sum(time_ for time_, _ in totals.values()) / 1e6
    figures = {
        "ms": 1e3 * seconds / PROFILED,
        "kernels": len(kernels) // PROFILED,
        "waiting": max(0.0, 1 - busy / seconds),
    }
    yield Line("profile", f"{settings.sizes[0]}, a step", figures)
    for name, (time_, count) in sorted(totals.items(), key=lambda item: -item[1][0])[:20]:
        figures = {"ms": time_ / 1e3 / PROFILED, "times": count / PROFILED, "of the step": time_ / 1e6 / seconds}
        yield Line("profile", name[:80], figures)
