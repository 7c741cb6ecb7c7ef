"""A rank that takes longer than the others, or for ever, or is killed: LATE_RANK, from the plan's step LATE_FROM on, counted from 1.

Ranks that are asked and do not answer are given up after three seconds.
"""

import os
import signal
import time

from torch import Tensor

from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.training.distributed import hang_detector
from biomlm.training.objective import LossDenominators

hang_detector.ANSWER = 3.0
RANK, FROM = os.environ.get("LATE_RANK", ""), int(os.environ.get("LATE_FROM", "1"))
SECONDS = os.environ.get("LATE_SECONDS", "")  # or none: it is killed
FIRST_LIFE = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
plain = PretrainObjective.forward


def forward(self: PretrainObjective, model: MaskedLM, batch: Batch, totals: LossDenominators) -> dict[str, Tensor]:
    if os.environ["RANK"] == RANK and FIRST_LIFE and batch.step + 1 >= FROM:
        time.sleep(float(SECONDS)) if SECONDS else os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, model, batch, totals)


PretrainObjective.forward = forward  # type: ignore[method-assign]
