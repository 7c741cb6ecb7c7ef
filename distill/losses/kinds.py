"""Names of losses that a configuration chooses from."""

from typing import Literal

Distance = Literal["cosine", "mse"]
Kind = Literal["minilm", "minilmv2"]
Weight = float | str  # of a part: a number, or `a..b`: linearly from a to b over the run's steps
