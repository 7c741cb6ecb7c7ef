"""What a cache's blocks refuse to hold."""

import resource
import zlib

import numpy as np
import orjson
import pytest
import torch

from biomlm.core.errors import DataError
from biomlm.distill.teachers.cache_blocks import decode, decode_targets, encode

INF = float("inf")


@pytest.mark.parametrize("name", ["hidden", "log_p"])
@pytest.mark.parametrize("value", [INF, float("nan")])
def test_an_overflow_of_the_teacher_is_not_written(name: str, value: float) -> None:
    with pytest.raises(DataError, match=rf"outputs \({name}\) leave the range of fp16.\nGive --precision fp32"):
        encode({name: np.array([[1.0, value]], np.float16)})


def test_that_nothing_is_left_of_a_distribution_may_be_said() -> None:
    assert decode(encode({"log_p": np.array([-1.0, -INF], np.float16)}))["log_p"].tolist() == [-1, -INF]
    with pytest.raises(DataError):
        encode({"hidden": np.array([-INF], np.float16)})


def block(shapes: object, body: bytes) -> bytes:
    header = orjson.dumps(shapes)
    return zlib.compress(len(header).to_bytes(4, "little") + header + body)


BIG = 1 << 31
LYING = {
    "a bomb": block([["hidden.0.1", "<f2", [BIG // 2]]], bytes(700 << 20)),
    "a size beyond its bytes": block([["hidden.0.1", "<f2", [BIG, BIG]]], b""),
    "a negative size": block([["check", "<u4", [-1]]], b"abcd"),
    "sizes whose product turns around": block([["check", "<u4", [1 << 32, 1 << 32]]], b""),
    "a text for a size": block([["check", "<u4", "many"]], b""),
    "no list": block({"check": 1}, b""),
    "cut off": encode({"check": np.zeros(9, np.uint32)})[:-5],
}


@pytest.mark.parametrize("name", LYING)
def test_a_block_that_lies_is_refused_before_it_takes_the_memory(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError):
        decode(LYING[name])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def targets(**arrays: list[object]) -> dict[str, np.ndarray]:
    kinds = {"sizes": "<u2", "drawn": "<u2", "times": "|u1", "entropy": "<f2", "ids": "<u2", "log_p": "<f2"}
    return {name: np.array(values, kinds[name]) for name, values in arrays.items()}


@pytest.mark.parametrize(
    "arrays",
    [
        targets(sizes=[1], drawn=[40], times=[1], entropy=[0.5]),
        targets(sizes=[2], drawn=[3], times=[1], entropy=[0.5]),
        targets(sizes=[65_535] * 9_000, drawn=[1], times=[1], entropy=[0.5] * 9_000),
        targets(sizes=[1], drawn=[3], times=[1]),
        targets(ids=[[3, 40]], log_p=[[-1, -1, -1]]),
        targets(ids=[[3, 4]], log_p=[[-1, -1]]),
        targets(ids=[3], log_p=[-1]),
    ],
)
def test_predictions_that_no_teacher_gave_are_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError, match="damaged"):
        decode_targets(arrays, 40, torch.device("cpu"))
