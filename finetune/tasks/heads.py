"""The encoder with a head for a task. Shape suffixes: t tokens, h hidden size, m labelled places, k labels."""

from collections import OrderedDict
from copy import deepcopy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biomlm.model.encoder import EncoderModel, Head, MaskedLM
from biomlm.model.packed import Packed

M = TypeVar("M", bound=nn.Module)


class PredictionHead(nn.Module):
    """The masked-LM head's dense layer and norm, trained on as the first layer of ModernBERT's classifiers.

    Args:
        head: Whose weights it starts from.
    """

    def __init__(self, head: Head):
        super().__init__()
        self.dense, self.norm, self.approximate = deepcopy(head.dense), deepcopy(head.norm), head.approximate

    def forward(self, x_mh: Tensor) -> Tensor:
        """Map [m, h] → [m, h]."""
        return self.norm(F.gelu(self.dense(x_mh), approximate=self.approximate))  # type: ignore[no-any-return]


class Classifier(EncoderModel):
    """The last hidden states at some places through a pooler or prediction head, dropout and the outputs' layers, named as transformers
    names them.

    Args:
        lm: The pretrained model; its masked-LM head is kept, untrained, so that the result is still a whole model.
        classifier: The outputs' layers.
        pooler: What comes before dropout; None for nothing. Pretrained where the source has one (see `training.fit.build_model`).
    """

    def __init__(self, lm: MaskedLM, classifier: nn.Module, pooler: nn.Module | None = None):
        super().__init__()
        self.lm, self.config = lm, lm.config
        self.__dict__["encoder"] = lm.encoder  # found here too, while its weights are named once, under `lm`
        self.pooler = pooler or nn.Identity()
        self.prediction_head = PredictionHead(lm.head) if lm.config.features.prediction_head else nn.Identity()
        self.dropout = nn.Dropout(lm.config.hidden_dropout)
        self.classifier = classifier
        lm.head.requires_grad_(False)

    def forward(self, packed: Packed, positions_m: Tensor) -> Tensor:
        """Compute outputs [m, k] at the given places of the flat row; to predict, the head computes in fp32 whatever the encoder does.

        They are written and compared with each other: in bf16 3.14159 becomes 3.140625, and likely labels tie.
        """
        states_mh = self.lm.encoder(packed, positions_m)[-1]
        if self.training:
            return self.classifier(self.dropout(self._prepared(states_mh)))  # type: ignore[no-any-return]
        with torch.autocast(states_mh.device.type, enabled=False):
            return self.classifier(self._prepared(states_mh.float()))  # type: ignore[no-any-return]

    def _prepared(self, states_mh: Tensor) -> Tensor:
        return self.prediction_head(self.pooler(states_mh))  # type: ignore[no-any-return]


class TokenClassifier(Classifier):
    """One linear layer, as transformers' RobertaForTokenClassification.

    Args:
        lm: The pretrained model.
        labels: Number of labels.
    """

    def __init__(self, lm: MaskedLM, labels: int):
        super().__init__(lm, _initialize(lm, nn.Linear(lm.config.hidden_size, labels)))


def sequence_classifier(lm: MaskedLM, labels: int) -> Classifier:
    """Build the head that transformers puts on the first token's state for a model of this shape.

    It is BertForSequenceClassification's pooler and outputs, ModernBertForSequenceClassification's prediction head and outputs, or
    RobertaForSequenceClassification's classification head.

    Args:
        lm: The pretrained model.
        labels: Number of outputs.
    """
    width = lm.config.hidden_size
    dense = OrderedDict[str, nn.Module](dense=nn.Linear(width, width), activation=nn.Tanh())
    if lm.config.features.pooler:
        pooler = _initialize(lm, nn.Sequential(dense))
        return Classifier(lm, _initialize(lm, nn.Linear(width, labels)), pooler)
    if lm.config.features.prediction_head:
        return Classifier(lm, _initialize(lm, nn.Linear(width, labels)))
    dense |= OrderedDict(dropout=nn.Dropout(lm.config.hidden_dropout), out_proj=nn.Linear(width, labels))
    return Classifier(lm, _initialize(lm, nn.Sequential(dense)))


def _initialize(lm: MaskedLM, head: M) -> M:
    """Draw initial weights for the head as the model's own are drawn."""
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=lm.config.initializer_range)
            nn.init.zeros_(layer.bias)
    return head
