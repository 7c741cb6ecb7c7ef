"""The encoder with a head for a task. Shape suffixes: t tokens, h hidden size, m labelled places, k labels."""

import torch
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


class SequenceClassifier(nn.Module):
    """RoBERTa's classification head over the state of each sequence's first token, as transformers' RobertaForSequenceClassification.

    Args:
        lm: The pretrained model; its masked-LM head is kept, untrained.
        labels: Number of outputs.
    """

    def __init__(self, lm: MaskedLM, labels: int):
        super().__init__()
        self.lm = lm
        self.classifier = ClassificationHead(lm, labels)
        lm.head.requires_grad_(False)

    def forward(self, packed: Packed, positions_m: Tensor) -> Tensor:
        """Outputs [m, k] at the given places of the flat row."""
        return self.classifier(self.lm.encoder(packed)[-1][positions_m])  # type: ignore[no-any-return]


class PooledClassifier(nn.Module):
    """Pooler over the state of each sequence's first token, dropout, the outputs: transformers' BertForSequenceClassification.

    Args:
        lm: The pretrained model; its masked-LM head is kept, untrained.
        labels: Number of outputs.
    """

    def __init__(self, lm: MaskedLM, labels: int):
        super().__init__()
        self.lm = lm
        self.pooler = Pooler(lm)
        self.dropout = nn.Dropout(lm.config.hidden_dropout)
        self.classifier = nn.Linear(lm.config.hidden_size, labels)
        nn.init.normal_(self.classifier.weight, std=lm.config.initializer_range)
        nn.init.zeros_(self.classifier.bias)
        lm.head.requires_grad_(False)

    def forward(self, packed: Packed, positions_m: Tensor) -> Tensor:
        """Outputs [m, k] at the given places of the flat row."""
        pooled_mh = self.pooler(self.lm.encoder(packed)[-1][positions_m])
        return self.classifier(self.dropout(pooled_mh))  # type: ignore[no-any-return]


class Pooler(nn.Module):
    """A layer with tanh, pretrained where the source has one (see `loop.build`)."""

    def __init__(self, lm: MaskedLM):
        super().__init__()
        self.dense = nn.Linear(lm.config.hidden_size, lm.config.hidden_size)
        nn.init.normal_(self.dense.weight, std=lm.config.initializer_range)
        nn.init.zeros_(self.dense.bias)

    def forward(self, x_mh: Tensor) -> Tensor:
        """[m, h] → [m, h]."""
        return torch.tanh(self.dense(x_mh))


def sequence_classifier(lm: MaskedLM, labels: int) -> nn.Module:
    """The head that transformers puts on a model of this shape."""
    return (PooledClassifier if lm.config.shape in ("bert", "megatron-bert") else SequenceClassifier)(lm, labels)


class ClassificationHead(nn.Module):
    """Dropout, a layer with tanh, dropout, the outputs."""

    def __init__(self, lm: MaskedLM, labels: int):
        super().__init__()
        self.dropout = nn.Dropout(lm.config.hidden_dropout)
        self.dense = nn.Linear(lm.config.hidden_size, lm.config.hidden_size)
        self.out_proj = nn.Linear(lm.config.hidden_size, labels)
        for layer in (self.dense, self.out_proj):
            nn.init.normal_(layer.weight, std=lm.config.initializer_range)
            nn.init.zeros_(layer.bias)

    def forward(self, x_mh: Tensor) -> Tensor:
        """[m, h] → [m, k]."""
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(x_mh)))))  # type: ignore[no-any-return]
