"""What one objective computes; `pretrain.objectives.base` sums them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.data.batches import Batch


class Term(nn.Module, ABC):
    """One summand of a loss.

    Layers of its own, its attributes, are trained with the model, saved beside it in a checkpoint's group `objective` under the
    attributes' names, taken over by a run that starts from that model, and carried along by `convert`.

    Args:
        name: Of its weight, and of its loss in the metrics.
        encoder: Shape of the model.
    """

    over = "masked"  # what its figures are means over: a field of `LossDenominators`

    def __init__(self, name: str, encoder: EncoderConfig):
        super().__init__()
        self.name, self.encoder = name, encoder

    @property
    def figures(self) -> Sequence[str]:
        """The names of what `forward` returns, as metrics have them; the first is the loss, and goes by the term's name."""
        return (self.name,)

    @abstractmethod
    def rows(self, batch: Batch) -> Tensor:
        """Return the flat positions at whose last hidden states it looks, [r]."""

    @abstractmethod
    def forward(self, model: MaskedLM, states_rh: Tensor, batch: Batch, slope: float) -> Sequence[Tensor]:
        """Compute its `figures` as sums over a micro-batch.

        Args:
            model: Whose head and embeddings it may use.
            states_rh: The last hidden states at `rows`.
            batch: The micro-batch.
            slope: What the loss's gradient will be multiplied by, for a loss that computes its gradient in advance.
        """

    @property
    def kinds(self) -> Sequence[str]:
        """Name the kinds of its examples, whose shares are told of a held-out split; none where all are of one kind."""
        return ()

    def counts(self, batch: Batch) -> Sequence[int]:
        """Count the examples of each of its `kinds`."""
        del batch
        return ()


def first_tokens(batch: Batch) -> Tensor:
    """Return the rows of the sequences' first tokens, [b]."""
    return batch.packed.cu_seqlens[:-1].long()
