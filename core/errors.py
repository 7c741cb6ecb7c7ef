"""Exceptions for the mistakes of a user, whose messages name the file, the record where there is one, and the remedy; and the tracebacks
of our own faults without quoted values.

`biomlm.core.cli` prints the former in one or two lines and exits with 2; any other exception is our own fault and keeps its traceback.
No message may contain the text of a document: name it by file, position and id. `KeyError`, `UnicodeDecodeError`, `int('…')` and the errors
of many parsers quote the value that they failed on, which may be a line of a note: so `told` prints an exception's frames and its kind, and
its message only where that kind quotes no values.
"""

import re
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

FRAME = re.compile(r'  File "[^"]+", line \d+, in \S+')
PLACE = re.compile(r"\bline \d+(?:,? column \d+)?")
MOST_SHOWN = 2000  # characters of a line of an error
LONGEST = 255  # characters of a file's name; a longer one is text that was taken for a name


class UserError(ValueError):
    """A mistake that the user can mend.

    Args:
        problem: What is wrong, as one sentence without a full stop.
        file: The file or folder it is about.
        record: Where in that file: a line, a byte offset, a PMID, a row id. Never its text.
        remedy: What to do about it, as an imperative sentence.
    """

    exit_code = 2

    def __init__(self, problem: str, *, file: str | Path | None = None, record: str | int | None = None, remedy: str):
        self.problem, self.file, self.record, self.remedy = problem, file, record, remedy
        where = "" if file is None else f"{file}: " if record is None else f"{file} ({record}): "
        super().__init__(f"{printable(where + problem)}.\n{printable(remedy)}")

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (type(self), self.problem, {"file": self.file, "record": self.record, "remedy": self.remedy})

    def anew(self) -> "UserError":
        """Make the same error without the traceback and the causes of this one."""
        return _again(type(self), self.problem, {"file": self.file, "record": self.record, "remedy": self.remedy})


def printable(text: str, most: int = MOST_SHOWN) -> str:
    """Write line ends, and what else a terminal may not show, as escapes: a file from a stranger may hold any of it, without end."""
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:most])
    return shown + "…" * (len(text) > most)


def shown_name(name: object) -> str:
    """Write the name of a file for an error; one that is longer than any file's is text that was taken for a name, and is not shown."""
    text = printable(str(name or "output"))
    return text if max(map(len, text.split("/"))) <= LONGEST else f"a name of {len(text):,} characters"


def _again(cls: type[UserError], problem: str, rest: dict[str, Any]) -> UserError:
    """Make an error again on the other side of a process border: keyword arguments do not travel by themselves."""
    return cls(problem, **rest)


class ConfigError(UserError):
    """An option that is unknown, has a wrong type or contradicts another."""


class DataError(UserError):
    """Input that cannot be read at all, or is not what the stage needs."""


HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
FILE_NAME = re.compile(r"\.(pt|bin|safetensors|gz|tgz|zip|ckpt|nemo|json)$")


def no_model(path: str | Path) -> DataError:
    """Make the refusal of a model or tokenizer that is not there; one of the Hugging Face Hub is to be carried over by hand."""
    name = str(path)
    remedy = "Check the path."
    if HUB_NAME.fullmatch(name) and not FILE_NAME.search(name):
        folder = name.rpartition("/")[2]
        remedy = f"Where there is internet: `hf download {name} --local-dir {folder}`. Carry that folder here and give its path."
    return DataError("there is no such file or folder, and nothing is downloaded", file=path, remedy=remedy)


class MismatchError(UserError):
    """Two things that must belong together do not: shards of another tokenizer, a run of another configuration."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of an unknown kind."""


class TemporaryError(UserError):
    """A run that was asked to stop, or lost a process: nothing is wrong with it, and the same command goes on."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h, for schedulers that requeue by exit code


class StoppedError(TemporaryError):
    """A signal asked the command to stop; what it has done is saved."""


class KeyboardStopError(StoppedError):
    """Ctrl-C did, and the rest is the same."""

    exit_code = 130


class UnsafeFileError(UserError):
    """A file from outside that wants to run code or to write outside its folder."""


class ConversionError(UserError):
    """A conversion whose numerical check failed: nothing was written."""


class TaskError(RuntimeError):
    """A fault inside a worker, in the words of `told`: it can be passed on and printed."""


# What a room knows of exceptions of a library's that are nobody's fault, such as a lost process: exception → what to end with, or None.
explanations: list[Callable[[BaseException], UserError | None]] = []


def explained(error: BaseException) -> UserError | None:
    """Return what to end with instead of an exception that a room can explain; None if none can."""
    return next(filter(None, (explain(error) for explain in explanations)), None)


QUIET: tuple[type[BaseException], ...] = (
    UserError,
    AssertionError,
    RuntimeError,
    ImportError,
    AttributeError,
    NameError,
    MemoryError,
    ZeroDivisionError,
)


def told(error: BaseException) -> str:
    """Format an exception and its causes, oldest first, as Python prints them but without quoted values."""
    parts = []
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        parts = [told(cause), "", "then:", ""]
    frames = traceback.format_tb(error.__traceback__)
    return "\n".join([*parts, "Traceback (most recent call last):", *(f.rstrip() for f in frames), _line(error)])


def _line(error: BaseException) -> str:
    """Name the kind of an exception, with its message if that can be shown."""
    name = type(error).__qualname__
    if name == "_RemoteTraceback":  # concurrent.futures': the text of a worker's traceback, its message included
        return "\n".join([name, *FRAME.findall(str(error))])
    if isinstance(error, OSError):
        file = str(error.filename or "")
        shown = f": {file}" if file and len(file) <= LONGEST and file.isprintable() else ""
        return f"{name}: {error.strerror or 'no reason given'}{shown}"
    return f"{name}: {error}" if isinstance(error, QUIET) else f"{name} (its message is kept back: it may quote data)"


def kind(error: BaseException) -> str:
    """Describe the exception of a library's parser without its message: its name, and the line and column it gives."""
    place = PLACE.search(str(error))
    return type(error).__qualname__ + (f" at {place[0]}" if place else "")


def install() -> None:
    """Let exceptions that nobody catches, in threads too, be printed as `told`."""
    sys.excepthook = _print
    threading.excepthook = lambda args: _print(args.exc_type, args.exc_value, args.exc_traceback)


def _print(_kind: type[BaseException], error: BaseException | None, _trace: TracebackType | None, *_: Any) -> None:
    if error is not None:
        print(told(error), file=sys.stderr)
