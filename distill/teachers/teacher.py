"""Answer for a micro-batch: by models that run beside the student, or from a folder made ahead of time (`distill.teachers.cached`)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from biomlm.convert.load import Loaded, load_model
from biomlm.core.errors import MismatchError
from biomlm.core.manifest import digest
from biomlm.distill.losses.relations import QKV, captured
from biomlm.distill.losses.targets import Targets, Whole
from biomlm.model.compute import require_compiler
from biomlm.model.config import EncoderConfig
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.training.run_folder import require_positions, require_same_vocabulary
from biomlm.tokenizer.formats import folder as tokenizer_folder


@dataclass(frozen=True)
class Wanted:
    """What the losses need of a teacher.

    Args:
        predictions: Its softened predictions at the masked positions.
        layers: Its hidden states after these layers; 0 is the embeddings' output.
        relation_layer: Queries, keys and values of this layer, counted from 1; None for none.
    """

    predictions: bool
    layers: tuple[int, ...] = ()
    relation_layer: int | None = None


@dataclass(frozen=True)
class View:
    """What one teacher sees in a micro-batch.

    Args:
        hidden: Layer → its hidden states [t, u]; or of each word [w, u], where the teacher has another vocabulary.
        qkv: Queries, keys and values [t, u] of the relation layer, or None.
        word_of_t: The word that each of the student's tokens belongs to, -1 for none; None where both have the same tokens.
    """

    hidden: dict[int, Tensor] = field(default_factory=dict)
    qkv: QKV | None = None
    word_of_t: Tensor | None = None


@dataclass(frozen=True)
class Answers:
    """What the teachers have to say of a micro-batch.

    Args:
        targets: Their predictions, or None where not wanted.
        views: One of each teacher.
    """

    targets: Targets | None
    views: Sequence[View]


class Answerer(ABC):
    """Teachers, present or recorded. Not a module: an objective that holds it neither trains, moves nor saves it.

    Args:
        configs: The shape of each teacher.
    """

    def __init__(self, configs: Sequence[EncoderConfig]):
        self.configs = list(configs)

    @abstractmethod
    def require(self, wanted: Sequence[Wanted]) -> None:
        """Refuse what cannot be answered; `wanted` has one entry for each teacher."""

    @abstractmethod
    def __call__(self, batch: Batch, wanted: Sequence[Wanted]) -> Answers:
        """Answer for a micro-batch; `wanted` has one entry for each teacher."""


class Teachers(Answerer):
    """Frozen models that read the masked micro-batch in inference mode, with their heads on the masked positions only.

    Args:
        models: One or more over the same vocabulary; their weights are converted to the device's precision once.
        device: Its precision is taken; the models follow the first micro-batch to its device, which is each process's own.
        vocab_size: Pieces of the vocabulary; logits of rows behind it are cut off.
        temperature: What predictions are softened by.
        compiled: Whether to use torch.compile.

    Raises:
        ConfigError: Nothing here can compile.
    """

    def __init__(
        self,
        models: Sequence[MaskedLM],
        device: Device,
        vocab_size: int,
        temperature: float = 1.0,
        compiled: bool = False,
    ):
        super().__init__([model.config for model in models])
        self.vocab_size, self.temperature = vocab_size, temperature
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(device.precision, torch.float32)
        self.models = [model.to(dtype).eval().requires_grad_(False) for model in models]
        self.at = torch.device("cpu")
        if compiled:
            require_compiler(device)
            for model in self.models:
                model.encoder.compile_layers()

    def require(self, wanted: Sequence[Wanted]) -> None:
        """See `Answerer`: `load` has refused teachers without a head, and `objective.Alignment` layers that they lack."""

    def __call__(self, batch: Batch, wanted: Sequence[Wanted]) -> Answers:
        """See `Answerer`."""
        if self.at != batch.packed.input_ids_t.device:
            self.at = batch.packed.input_ids_t.device
            self.models = [model.to(self.at) for model in self.models]
        with torch.inference_mode(), torch.autocast(self.at.type, enabled=False):
            seen = [self._look(i, batch, w) for i, w in enumerate(wanted)]
        # An inference tensor may not be saved for a backward pass; hidden states are, and so are copied. Logits are not.
        views = [
            View({layer: x.clone() for layer, x in view.hidden.items()}, view.qkv and _copies(view.qkv))
            for _, view in seen
        ]
        logits = tuple(logits_mv for logits_mv, _ in seen if logits_mv is not None)
        return Answers(Whole(logits, self.temperature) if logits else None, views)

    def _look(self, i: int, batch: Batch, wanted: Wanted) -> tuple[Tensor | None, View]:
        model = self.models[i]
        with ExitStack() as stack:
            kept: list[QKV] = []
            if wanted.relation_layer is not None:
                kept = stack.enter_context(captured(model.encoder, wanted.relation_layer))
            hidden = model.encoder(batch.packed)
        view = View({layer: hidden[layer] for layer in wanted.layers}, kept[0] if kept else None)
        if not wanted.predictions:
            return None, view
        return model.logits(hidden[-1][batch.positions_m])[:, : self.vocab_size], view


def _copies(qkv: QKV) -> QKV:
    q, k, v = qkv
    return q.clone(), k.clone(), v.clone()


def load(paths: Sequence[str], reader: Shards, max_length: int, predictions: bool) -> list[Loaded]:
    """Read the teachers, and refuse those that cannot answer for these shards.

    Args:
        paths: Models of any kind.
        reader: The shards.
        max_length: Longest sequence in tokens.
        predictions: Whether their predictions are wanted.

    Raises:
        UserError: One cannot be read, has another vocabulary, too few positions, or no head where predictions are wanted.
    """
    loaded = [load_model(path) for path in paths]
    for path, teacher in zip(paths, loaded, strict=True):
        _require_same_pieces(teacher, reader)
        require_same_vocabulary(teacher.tokenizer_dir, teacher.config.vocab_size, path, reader)
        require_positions(teacher.config.max_positions, path, max_length)
        if predictions:
            require_head(teacher)
    return loaded


def teacher_inputs(loaded: Sequence[Loaded]) -> dict[str, str]:
    """What a manifest says of the teachers: the file of each one's weights, and all that was read of all of them."""
    inputs = {f"teacher {i}" if i else "teacher": teacher.sha256 for i, teacher in enumerate(loaded)}
    return inputs | ({"teachers as read": digest([teacher.fingerprint for teacher in loaded])} if loaded else {})


def _require_same_pieces(teacher: Loaded, reader: Shards) -> None:
    """Refuse a vocabulary of another size or order, and name where the two part.

    Raises:
        MismatchError: It is one.
    """
    if teacher.tokenizer_dir is None:
        return
    theirs, ours = tokenizer_folder.load(teacher.tokenizer_dir).pieces, reader.tokenizer.pieces
    if theirs == ours:
        return
    problem = f"the shards have {len(ours)} pieces, this teacher {len(theirs)}"
    if len(theirs) == len(ours):
        i = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
        problem = f"id {i} is {ours[i]!r} in the shards and {theirs[i]!r} in this teacher"
    raise MismatchError(
        problem,
        file=teacher.source,
        remedy="Encode the documents with the teacher's tokenizer, or align hidden states on whole words: --vocabulary words.",
    )


def require_head(teacher: Loaded) -> None:
    """Refuse a teacher without a masked-LM head.

    Raises:
        MismatchError: It has none.
    """
    if not teacher.has_head:
        raise MismatchError(
            "the loss asks for its predictions, and it has no masked-LM head",
            file=teacher.source,
            remedy="Give --loss.kl 0: its hidden states, embeddings and relations can be learnt from.",
        )
