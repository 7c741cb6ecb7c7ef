"""Compare a stage's `expect:` with the facts about its folder.

expect:
  tokenizer: {model: BPE, splits: ByteLevel, size: 1000, ids: {"<mask>": 999}}    # a mapping: each of these keys
  sources: [notes, pmc, pubmed]                                                   # a list: these and no others
  batches: {masks: {rate: 0.15, mask: 0.8}, longest: [100, 128]}                  # a share: within chance of it; [low, high]: a range
  tensors: {cls.seq_relationship.weight: [2, 128]}
  inputs: {init: present}                                                         # whatever it is
  scores: null                                                                    # not asked, though the parent's recipe does
"""

import difflib
import math
from collections.abc import Iterator
from typing import Any

from biomlm.core.errors import MismatchError
from biomlm.launch.expectations.facts import FACTS
from biomlm.launch.recipe import Stage
from biomlm.launch.sourced import Value

PRESENT, ABSENT = "present", "absent"
ERRORS = 4  # standard errors that chance may move a share by: 1 in 16,000
NEARLY = 1e-6  # relative difference of numbers that are equal
RANGE = 2  # numbers that say a range


class _Nothing:
    """What a fact has where it has no such key."""

    def __str__(self) -> str:
        return "nothing"


NOTHING = _Nothing()


def require_known(stage: Stage) -> None:
    """Refuse an expectation that no fact answers, before anything is run.

    Raises:
        ConfigError: There is no such fact, or the stage has no output to have facts about.
    """
    expect = stage.expect or stage.only_at_smoke.get("expect")
    for name, value in (expect.entries if expect else {}).items():
        if name not in FACTS:
            close = difflib.get_close_matches(name, FACTS, n=1, cutoff=0.5)
            hint = f"Did you mean {close[0]}?" if close else f"There are {', '.join(FACTS)}."
            raise value.refused(f"stage {stage.name}: there is no fact `{name}` to expect", hint)
        if not stage.outputs:
            raise value.refused(f"stage {stage.name} has no output to expect {name} of", "Give it an out.")


def check(stage: Stage) -> None:
    """Compare all that a stage expects with what its folder holds.

    Raises:
        MismatchError: Something is otherwise; stage, key, expected and got are named.
    """
    for name, expected in (stage.expect.entries if stage.expect else {}).items():
        if expected.data is None:
            continue
        for key, value, got in differences(name, expected, FACTS[name](stage.outputs[0])):
            raise MismatchError(
                f"stage {stage.name}: expected {key} {value.plain}, got {_shown(got)}",
                file=value.place.file,
                record=f"line {value.place.line}",
                remedy=f"{stage.outputs[0]} is not what the recipe says of its system: mend the stage, or what it expects.",
            )


def differences(key: str, expected: Value, got: Any) -> Iterator[tuple[str, Value, Any]]:
    """Yield key, expected value and what there is instead, wherever they differ."""
    if isinstance(expected.data, dict):
        for name, value in expected.data.items():
            inner = got.get(name, NOTHING) if isinstance(got, dict) else NOTHING
            yield from differences(f"{key}.{name}", value, inner)
    elif isinstance(got, list) and isinstance(expected.data, list) and any(isinstance(item, dict) for item in got):
        if len(got) != len(expected.data):
            yield key, expected, got
        for number, (value, item) in enumerate(zip(expected.data, got, strict=False)):
            yield from differences(f"{key}[{number}]", value, item)
    elif not _agrees(expected.plain, got):
        yield key, expected, got


def _agrees(expected: Any, got: Any) -> bool:
    if expected == ABSENT or got is NOTHING:
        return bool(expected == ABSENT) and got is NOTHING
    if expected == PRESENT:
        return True
    if isinstance(got, dict) and got.keys() == {"share", "of"}:
        return _is_share(expected, got["share"], got["of"])
    if _is_number(got) and isinstance(expected, list) and len(expected) == RANGE:
        return bool(expected[0] <= got <= expected[1])
    if _is_number(got) and _is_number(expected):
        return math.isclose(got, expected, rel_tol=NEARLY)
    return bool(expected == got) and type(expected) is type(got)


def _is_share(expected: Any, share: float, of: int) -> bool:
    """Whether a share is within chance of the one that is expected, or in the range."""
    if isinstance(expected, list) and len(expected) == RANGE:
        return bool(expected[0] <= share <= expected[1])
    return of > 0 and bool(abs(share - expected) <= ERRORS * math.sqrt(expected * (1 - expected) / of))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(got: Any) -> str:
    if isinstance(got, dict) and got.keys() == {"share", "of"}:
        return f"{got['share']:g} (of {got['of']:,})"
    return str(got)
