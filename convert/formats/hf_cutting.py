"""Make a `tokenizer.json` cut running text into words as a model's training fold was cut, so that a pipeline reads what `predict` reads.

The rule (`tokenizer.encoding.cutting`) becomes a pattern of words in front of the tokenizer's own splitting. Of words that were read apart,
each gets the blank in front that byte-level BPE distinguishes; else blanks stay where the text has some, a run of them as one.
"""

import re
from collections.abc import Mapping
from typing import Any

from biomlm.tokenizer.encoding.cutting import Cutting

PLAIN = r"[\p{L}\p{N}]"  # what Python calls a letter or digit
BLANK = r"[\s\x1c-\x1f]"
MARK = r"[^\s\x1c-\x1f\p{L}\p{N}]"
CHUNK = r"[^\s\x1c-\x1f]*"
MOST = (
    8  # marks in a row: further on nothing is looked for a letter or digit that makes them marks inside or at the end
)


def words(cutting: Cutting) -> str:
    """Write the rule as a pattern of one word."""
    behind = "|".join(f"(?<={PLAIN}{MARK * n})" for n in range(MOST))
    nothing_before = "".join(f"(?<!{PLAIN}{MARK * n})" for n in range(MOST))
    ahead, nothing_ahead = f"(?={CHUNK}{PLAIN})", f"(?!{CHUNK}{PLAIN})"
    holding = [
        f"{PLAIN}+",
        *(f"(?:{behind}){re.escape(mark)}{ahead}" for mark in cutting.inside),
        *(f"{nothing_before}{re.escape(mark)}{ahead}" for mark in cutting.front),
        *(f"(?:{behind}){re.escape(mark)}{nothing_ahead}" for mark in cutting.end),
    ]
    return f"(?:{'|'.join(holding)})+|{MARK}"


def cut_as_trained(state: Mapping[str, Any], cutting: Cutting) -> dict[str, Any] | None:
    """Change the content of a `tokenizer.json`; None where its kind of splitting is not known to be changed rightly.

    Args:
        state: The content.
        cutting: The rule.
    """
    own = state["pre_tokenizer"] or {}
    if own.get("type") == "BertPreTokenizer":
        return {**state, "pre_tokenizer": _sequence("pretokenizers", _split(words(cutting)), own)}
    if own.get("type") != "ByteLevel" or state["normalizer"]:
        return None
    finish = {**state["post_processor"], "add_prefix_space": True, "trim_offsets": not cutting.apart}
    if cutting.apart:
        split = _sequence("pretokenizers", _split(words(cutting)), {**own, "add_prefix_space": True})
        return {**state, "pre_tokenizer": split, "post_processor": finish}
    pattern = f" ?(?:{words(cutting)})"
    one_blank = {"type": "Replace", "pattern": {"Regex": f"{BLANK}+"}, "content": " "}
    in_front = {"type": "Prepend", "prepend": " "}
    only_one = {"type": "Replace", "pattern": {"Regex": "^  "}, "content": " "}
    split = _sequence("pretokenizers", _split(pattern), {**own, "add_prefix_space": False})
    blanks = _sequence("normalizers", one_blank, in_front, only_one)
    return {**state, "normalizer": blanks, "pre_tokenizer": split, "post_processor": finish}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True}


def _sequence(name: str, *parts: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", name: list(parts)}
