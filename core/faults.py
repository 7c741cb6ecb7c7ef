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
    kind = type(error).__qualname__
    if kind == "_RemoteTraceback":  # concurrent.futures': the text of a worker's traceback, its message included
        return "\n".join([kind, *FRAME.findall(str(error))])
    if isinstance(error, OSError):
        name = str(error.filename or "")
        shown = f": {name}" if name and len(name) <= LONGEST and name.isprintable() else ""
        return f"{kind}: {error.strerror or 'no reason given'}{shown}"
    return f"{kind}: {error}" if isinstance(error, QUIET) else f"{kind} (its message is kept back: it may quote data)"


def install() -> None:
    """Let exceptions that nobody catches, in threads too, be printed as `told`."""
    sys.excepthook = _print
    threading.excepthook = lambda args: _print(args.exc_type, args.exc_value, args.exc_traceback)


def _print(_kind: type[BaseException], error: BaseException | None, _trace: TracebackType | None, *_: Any) -> None:
    if error is not None:
        print(told(error), file=sys.stderr)
