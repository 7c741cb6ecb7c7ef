"""Faults of ours as text that can be logged and sent: where they happened, without the values that messages quote.

`KeyError`, `UnicodeDecodeError`, `int('…')` and the errors of many parsers quote what they stumbled over, which may be a line of a note.
So an exception is told by its frames and its kind; its message only where it is of a kind that quotes no values.
"""

import re
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

from biomlm.core.errors import UserError

FRAME = re.compile(r'  File "[^"]+", line \d+, in \S+')
PLACE = re.compile(r"\bline \d+(?:,? column \d+)?")
LONGEST = 255  # characters of a file's name; a longer one is text that was taken for a name


class TaskError(RuntimeError):
    """A fault inside a worker, as `told` there: it can be passed on and printed."""


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
    """An exception and its causes, oldest first, as Python prints them but without quoted values."""
    parts = []
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        parts = [told(cause), "", "then:", ""]
    frames = traceback.format_tb(error.__traceback__)
    return "\n".join([*parts, "Traceback (most recent call last):", *(f.rstrip() for f in frames), _line(error)])


def _line(error: BaseException) -> str:
    """The kind of an exception, with its message if that can be shown."""
    name = type(error).__qualname__
    if name == "_RemoteTraceback":  # concurrent.futures': the text of a worker's traceback, its message included
        return "\n".join([name, *FRAME.findall(str(error))])
    if isinstance(error, OSError):
        file = str(error.filename or "")
        shown = f": {file}" if file and len(file) <= LONGEST and file.isprintable() else ""
        return f"{name}: {error.strerror or 'no reason given'}{shown}"
    return f"{name}: {error}" if isinstance(error, QUIET) else f"{name} (its message is kept back: it may quote data)"


def kind(error: BaseException) -> str:
    """What a parser of a library says, as far as it quotes nothing: its exception's name and the line and column it names."""
    place = PLACE.search(str(error))
    return type(error).__qualname__ + (f" at {place[0]}" if place else "")


def install() -> None:
    """Let exceptions that nobody catches, in threads too, be printed as `told`."""
    sys.excepthook = _print
    threading.excepthook = lambda args: _print(args.exc_type, args.exc_value, args.exc_traceback)


def _print(_kind: type[BaseException], error: BaseException | None, _trace: TracebackType | None, *_: Any) -> None:
    if error is not None:
        print(told(error), file=sys.stderr)
