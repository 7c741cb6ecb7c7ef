"""What a cache's blocks refuse to hold."""

import numpy as np
import pytest

from biomlm.core.errors import DataError
from biomlm.distill.teachers.cache_blocks import decode, encode

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
