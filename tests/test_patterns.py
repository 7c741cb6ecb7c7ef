"""No text stops the engine: every regular expression of every room takes time in proportion to what it reads.

Each pattern meets strings that are made from its own pieces, repeated; one that looks at the same characters again and again takes
four times as long for twice the length, and a page of dots or brackets would hold up a build for hours.
"""

import functools
import importlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = sorted(path.parent for path in ROOT.glob("*/py.typed"))
FILES = [path for room in ROOMS for path in sorted(room.rglob("*.py")) if not path.name.startswith("__")]
LENGTH = 2000
AT_ONCE = 0.001  # seconds; a pattern that goes over 2,000 characters once takes a twentieth of this
RATIO = 2.5
REPEATED = [*'.[(\\a1A-,<&~ \n"', "1.", "(a", "[,", "a.", "A1", "2001-", "a ", " ,"]
SAMPLES = {"SPACE": " ", "DIGIT": "1", "WORD": "a", "NOT_SPACE": "b", "NOT_DIGIT": "c", "NOT_WORD": "."}


def defined(value: Any) -> Iterator["re.Pattern[Any]"]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from defined(item)
    elif isinstance(value, dict):
        yield from defined(list(value.values()))


@functools.cache
def texts() -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in FILES}


def uses(name: str) -> set[str]:
    """How a pattern is called; one that stands in a table is searched for."""
    methods = {method for text in texts().values() for method in re.findall(rf"\b{name}\.(\w+)\(", text)}
    return {"match" if method in ("match", "fullmatch") else "finditer" for method in methods} or {"finditer"}


PATTERNS = {
    f"{path.relative_to(ROOT).as_posix()}-{name}-{number}": (name, pattern)
    for path in FILES
    if "re.compile(" in texts()[path]
    for module in [importlib.import_module(".".join(("biomlm", *path.relative_to(ROOT).with_suffix("").parts)))]
    for name, value in vars(module).items()
    for number, pattern in enumerate(defined(value))
}


def example(parsed: Any) -> str:
    """A string that a part of a pattern accepts, as far as one can be had without thinking."""
    return "".join(_example(str(operation), argument) for operation, argument in parsed)


def _example(operation: str, argument: Any) -> str:
    match operation:
        case "LITERAL":
            return chr(argument)
        case "IN":
            kind, value = str(argument[0][0]), argument[0][1]
            if kind == "CATEGORY":
                return SAMPLES[str(value).removeprefix("CATEGORY_")]
            return {"LITERAL": lambda: chr(value), "RANGE": lambda: chr(value[0])}.get(kind, lambda: "~")()
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            return example(argument[2])
        case "SUBPATTERN":
            return example(argument[3])
        case "BRANCH":
            return example(argument[1][0])
        case "ATOMIC_GROUP":
            return example(argument)
        case "ANY" | "NOT_LITERAL":
            return "~"
    return ""


def pieces(parsed: Any) -> Iterator[str]:
    """What a pattern repeats or chooses from, its beginnings, and the same of what it is made of."""
    parts = list(parsed)
    yield from (example(parts[:end]) for end in range(1, len(parts) + 1))
    for operation, argument in parts:
        match str(operation):
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                yield from pieces(argument[2])
            case "SUBPATTERN":
                yield from pieces(argument[3])
            case "ATOMIC_GROUP":
                yield from pieces(argument)
            case "BRANCH":
                for branch in argument[1]:
                    yield from pieces(branch)


def adversaries(pattern: "re.Pattern[Any]") -> Iterator[tuple[str, str, str]]:
    """A beginning, what is repeated behind it, and an end that nothing expects."""
    source = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    own = {piece for piece in pieces(_parser.parse(source, pattern.flags & ~re.UNICODE)) if piece}
    beginnings = ["", *sorted(own, key=len)[:12]]
    for repeated in sorted(own | set(REPEATED)):
        for beginning in beginnings:
            for end in ("", "\x01"):
                yield beginning, repeated, end


def seconds(pattern: "re.Pattern[Any]", method: str, string: str, *, times: int = 1) -> float:
    text = string if isinstance(pattern.pattern, str) else string.encode("latin-1", "replace")
    spent = []
    for _ in range(times):
        started = time.process_time()
        if method == "match":
            pattern.fullmatch(text)
            pattern.match(text)
        else:
            for _match in pattern.finditer(text):
                pass
        spent.append(time.process_time() - started)
    return min(spent)


def growth(pattern: "re.Pattern[Any]", method: str, string: Callable[[int], str], length: int) -> float:
    """How many times as long a text of twice the length takes."""
    once, twice = (seconds(pattern, method, string(times * length), times=3) for times in (1, 2))
    return twice / once


def slow(pattern: "re.Pattern[Any]", method: str) -> Iterator[tuple[float, str]]:
    for beginning, repeated, end in adversaries(pattern):

        def string(length: int, parts: tuple[str, str, str] = (beginning, repeated, end)) -> str:
            return parts[0] + parts[1] * (length // len(parts[1]) + 1) + parts[2]

        if seconds(pattern, method, string(LENGTH)) < AT_ONCE:
            continue
        # Where a loop is bounded, only a text much longer than the bound shows that the time is in proportion.
        ratio = min(growth(pattern, method, string, length) for length in (LENGTH, 4 * LENGTH))
        if ratio > RATIO:
            yield ratio, f"{beginning!r} + {repeated!r} × n + {end!r}"
            return


@pytest.mark.parametrize("place", PATTERNS)
def test_the_time_of_a_pattern_is_in_proportion_to_the_text(place: str) -> None:
    name, pattern = PATTERNS[place]
    assert not [(method, case) for method in sorted(uses(name)) for case in slow(pattern, method)]


def test_a_pattern_that_climbs_back_is_seen() -> None:
    assert list(slow(re.compile(r"\s+$"), "finditer"))
    assert list(slow(re.compile(r"(a|b)*c(a|b)*d"), "finditer"))
    assert not list(slow(re.compile(r"a+b"), "match"))
