"""What a user can get wrong, as exceptions: each message names the file, the record where there is one, and the remedy.

`biomlm.core.cli` prints these in one or two lines and exits with 2; any other exception is our own fault and keeps its traceback.
No message may contain the text of a document: name it by file, position and id.
"""

from pathlib import Path
from typing import Any


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
        super().__init__(f"{where}{problem}.\n{remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (type(self), self.problem, {"file": self.file, "record": self.record, "remedy": self.remedy})

    def anew(self) -> "UserError":
        """The same error without the traceback and the causes of this one."""
        return _again(type(self), self.problem, {"file": self.file, "record": self.record, "remedy": self.remedy})


def _again(cls: type[UserError], problem: str, rest: dict[str, Any]) -> UserError:
    """Make an error again on the other side of a process border: keyword arguments do not travel by themselves."""
    return cls(problem, **rest)


class ConfigError(UserError):
    """An option that is unknown, has a wrong type or contradicts another."""


class DataError(UserError):
    """Input that cannot be read at all, or is not what the stage needs."""


class MismatchError(UserError):
    """Two things that must belong together do not: shards of another tokenizer, a run of another configuration."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of an unknown kind."""


class TemporaryError(UserError):
    """A run that was asked to stop, or lost a process: nothing is wrong with it, and the same command goes on."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h, for schedulers that requeue by exit code


class UnsafeFileError(UserError):
    """A file from outside that wants to run code or to write outside its folder."""


class ConversionError(UserError):
    """A conversion whose numerical check failed: nothing was written."""
