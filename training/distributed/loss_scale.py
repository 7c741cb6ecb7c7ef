"""Dynamic loss scaling for fp16 (Micikevicius et al. 2018, arXiv 1710.03740), with `torch.amp.GradScaler`'s constants.

The loop decides on the host whether a step counts, from the gradient's norm, so the scale is a plain number that a checkpoint holds.
"""

from biomlm.core.errors import DataError

START = 65_536.0
INTERVAL = 2_000  # good steps after which the scale is doubled
FLOOR = 2.0**-14  # a gradient that overflows even so is no matter of scale (fairseq's default floor is 1e-4)


class LossScale:
    """What the loss is multiplied by, so that small gradients survive in fp16."""

    def __init__(self) -> None:
        self.factor, self.good_steps = START, 0

    def good(self) -> None:
        """Count a step without overflow."""
        self.good_steps += 1
        if self.good_steps == INTERVAL:
            self.factor, self.good_steps = 2 * self.factor, 0

    def overflowed(self) -> None:
        """Halve the scale.

        Raises:
            DataError: It is at its floor.
        """
        self.factor, self.good_steps = self.factor / 2, 0
        if self.factor < FLOOR:
            raise DataError(
                "the fp16 loss scale fell to its floor: gradients overflow whatever it is",
                remedy="Lower --optim.lr or give --precision fp32; the last checkpoint is whole.",
            )
