"""Show progress with rate and time left: a bar on a terminal, a line every few seconds in a log file.

All of it goes to standard error, so that a verb's standard output stays its result.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

LOG_EVERY = 5.0  # seconds between lines when standard error is not a terminal

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class Bar(Protocol):
    """The bar that the body of `progress` advances."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Count `amount` more units; `note` (a loss, a file's name) is shown beside the bar."""


def human(amount: float) -> str:
    """Format an amount: 1,234,567 → `1.23M`."""
    for size, letter in UNITS:
        if abs(amount) >= size:
            return f"{amount / size:.3g}{letter}"
    return f"{amount:.3g}"


def clock(seconds: float) -> str:
    """Format a time: 75 → `1:15`; 3700 → `1:01:40`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{human(task.speed or 0)} {task.fields['unit']}/s")


class _TerminalBar:
    def __init__(self, display: Progress, what: str, total: float, unit: str, done: float):
        self.display = display
        self.task = display.add_task(what, total=total, unit=unit, note="")
        display.update(self.task, completed=done)

    def advance(self, amount: float = 1, note: str = "") -> None:
        """See `Bar`."""
        self.display.update(self.task, advance=amount, note=note)


class _LogBar:
    """Prints a line every `LOG_EVERY` seconds, and one at the end of anything that took longer than two seconds."""

    def __init__(self, what: str, total: float, unit: str, done: float, now: Callable[[], float] = time.monotonic):
        self.what, self.total, self.unit, self.now = what, total, unit, now
        self.first = self.done = done
        self.note, self.start = "", now()
        self.last_printed = self.start

    def advance(self, amount: float = 1, note: str = "") -> None:
        """See `Bar`."""
        self.done += amount
        self.note = note or self.note
        if self.now() - self.last_printed >= LOG_EVERY:
            self.last_printed = self.now()
            self.print_line()

    def print_line(self) -> None:
        """Print progress, rate and time left."""
        seconds = max(self.now() - self.start, 1e-9)
        rate = (self.done - self.first) / seconds
        left = f"{clock((self.total - self.done) / rate)} left" if rate else "? left"
        share = f"{self.done / self.total:4.0%}" if self.total else ""
        line = f"{self.what}  {share}  {human(rate)} {self.unit}/s  {clock(seconds)} gone  {left}  {self.note}"
        print(line.rstrip(), file=sys.stderr, flush=True)


@contextmanager
def progress(what: str, total: float, unit: str, done: float = 0) -> Iterator[Bar]:
    """Show how far a loop is.

    Args:
        what: The verb or step, as shown.
        total: Units in all.
        unit: What is counted: `B`, `documents`, `tokens`, `steps`.
        done: Units already done when a run is resumed.
    """
    if not sys.stderr.isatty():
        bar = _LogBar(what, total, unit, done)
        yield bar
        if bar.now() - bar.start > 2:
            bar.print_line()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=Console(stderr=True)) as display:
        yield _TerminalBar(display, what, total, unit, done)
