"""Names of losses that a configuration chooses from."""

from typing import Literal

Distance = Literal["cosine", "mse"]
Kind = Literal["minilm", "minilmv2"]
