"""The encoder with a head for a task. Shape suffixes: t tokens, h hidden size, m labelled places, k labels."""

from torch import Tensor, nn

from biolm.model.encoder import MaskedLM
from biolm.model.packed import Packed


class TokenClassifier(nn.Module):
    """Dropout and one linear layer over the last hidden state, as transformers' RobertaForTokenClassification.

    Args:
        lm: The pretrained model; its masked-LM head is kept, untrained, so that the result is still a whole model.
        labels: Number of labels.
    """

    def __init__(self, lm: MaskedLM, labels: int):
        super().__init__()
        self.lm = lm
        self.dropout = nn.Dropout(lm.config.hidden_dropout)
        self.classifier = nn.Linear(lm.config.hidden_size, labels)
        nn.init.normal_(self.classifier.weight, std=lm.config.initializer_range)
        nn.init.zeros_(self.classifier.bias)
        lm.head.requires_grad_(False)

    def forward(self, packed: Packed, positions_m: Tensor) -> Tensor:
        """Logits [m, k] at the given places of the flat row."""
        hidden_th = self.lm.encoder(packed)[-1]
        return self.classifier(self.dropout(hidden_th[positions_m]))  # type: ignore[no-any-return]
