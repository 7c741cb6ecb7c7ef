"""Compute teachers' outputs for a micro-batch by models that run beside the student; `distill.teachers.cached` reads them from a folder."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from biomlm.convert.load import Loaded, load_model
from biomlm.core.errors import MismatchError
from biomlm.core.manifest import digest
from biomlm.distill.losses.captured import QKV, captured
from biomlm.distill.losses.targets import Targets, Whole
from biomlm.model.compute import attention_kernel, require_compiler
from biomlm.model.config import EncoderConfig
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.training.initial_model import require_positions, require_same_vocabulary
from biomlm.tokenizer.formats import folder as tokenizer_folder


@dataclass(frozen=True)
class TeacherRequest:
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
class TeacherStates:
    """One teacher's states for a micro-batch.

    Args:
        hidden: Layer → its hidden states [t, u]; or of each word [w, u], where the teacher has another vocabulary.
        qkv: Queries, keys and values [t, u] of the relation layer, or None.
        word_of_t: The word that each of the student's tokens belongs to, -1 for none; None where both have the same tokens.
    """

    hidden: dict[int, Tensor] = field(default_factory=dict)
    qkv: QKV | None = None
    word_of_t: Tensor | None = None


@dataclass(frozen=True)
class TeacherOutputs:
    """The teachers' outputs for a micro-batch.

    Args:
        targets: Their predictions, or None where not requested.
        states: One entry for each teacher.
    """

    targets: Targets | None
    states: Sequence[TeacherStates]


class TeacherSource(ABC):
    """Where the outputs of teachers come from: running models or a cache.

    It is no `nn.Module`, so that an objective that holds it neither trains, moves nor saves the teachers.

    Args:
        configs: The shape of each teacher.
    """

    def __init__(self, configs: Sequence[EncoderConfig]):
        self.configs = list(configs)

    @abstractmethod
    def require(self, requests: Sequence[TeacherRequest]) -> None:
        """Refuse requests that cannot be met; there is one for each teacher."""

    @abstractmethod
    def __call__(self, batch: Batch, requests: Sequence[TeacherRequest]) -> TeacherOutputs:
        """Give the outputs for a micro-batch; there is one request for each teacher."""


class Teachers(TeacherSource):
    """Frozen models that read the masked micro-batch in inference mode, with their heads on the masked positions only.

    Args:
        models: One or more over the same vocabulary; their weights are converted to the device's precision once.
        device: Its precision is taken; the models follow the first micro-batch to its device, which is each process's own.
        vocab_size: Pieces of the vocabulary; logits of rows behind it are cut off.
        temperature: What predictions are softened by.
        compiled: Whether to use torch.compile.

    Raises:
        ConfigError: torch.compile does not work on this machine.
    """

    def __init__(
        self,
        models: Sequence[MaskedLM],
        device: Device,
        vocab_size: int,
        temperature: float = 1.0,
        *,
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
                model.encoder.compile_layers(attention_kernel(model.encoder, device))

    def require(self, requests: Sequence[TeacherRequest]) -> None:
        """See `TeacherSource`: `load` has refused teachers without a head, and `objective.Alignment` layers that they lack."""

    def __call__(self, batch: Batch, requests: Sequence[TeacherRequest]) -> TeacherOutputs:
        """See `TeacherSource`."""
        if self.at != batch.packed.input_ids_t.device:
            self.at = batch.packed.input_ids_t.device
            self.models = [model.to(self.at) for model in self.models]
        with torch.inference_mode(), torch.autocast(self.at.type, enabled=False):
            outputs = [self._forward(model, batch, r) for model, r in zip(self.models, requests, strict=True)]
        # An inference tensor may not be saved for a backward pass; hidden states are, and so are copied. Logits are not.
        states = [
            TeacherStates({layer: x.clone() for layer, x in one.hidden.items()}, one.qkv and _cloned(one.qkv))
            for _, one in outputs
        ]
        logits = tuple(logits_mv for logits_mv, _ in outputs if logits_mv is not None)
        return TeacherOutputs(Whole(logits, self.temperature) if logits else None, states)

    def _forward(self, model: MaskedLM, batch: Batch, request: TeacherRequest) -> tuple[Tensor | None, TeacherStates]:
        with ExitStack() as stack:
            captures: list[QKV] = []
            if request.relation_layer is not None:
                captures = stack.enter_context(captured(model.encoder, request.relation_layer))
            hidden = model.encoder(batch.packed)
        states = TeacherStates({n: hidden[n] for n in request.layers}, captures[0] if captures else None)
        if not request.predictions:
            return None, states
        return model.logits(hidden[-1][batch.positions_m])[:, : self.vocab_size], states


def _cloned(qkv: QKV) -> QKV:
    q, k, v = qkv
    return q.clone(), k.clone(), v.clone()


def load(paths: Sequence[str], reader: Shards, max_length: int, predictions: bool) -> list[Loaded]:
    """Read the teachers, and refuse those that do not fit these shards.

    Args:
        paths: Models of any kind.
        reader: The shards.
        max_length: Longest sequence in tokens.
        predictions: Whether their predictions are needed.

    Raises:
        UserError: One cannot be read, has another vocabulary, too few positions, or no head where predictions are needed.
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
    """Give a manifest's entries for the teachers: the hash of each one's weights, and one of all files that were read of them."""
    inputs = {f"teacher {i}" if i else "teacher": teacher.sha256 for i, teacher in enumerate(loaded)}
    return inputs | ({"teachers as read": digest([teacher.fingerprint for teacher in loaded])} if loaded else {})


def _require_same_pieces(teacher: Loaded, reader: Shards) -> None:
    """Refuse a vocabulary of another size or order, and name the first difference.

    Raises:
        MismatchError: The teacher has one.
    """
    if teacher.tokenizer_dir is None:
        return
    shard_pieces, teacher_pieces = reader.tokenizer.pieces, tokenizer_folder.load(teacher.tokenizer_dir).pieces
    if teacher_pieces == shard_pieces:
        return
    problem = f"the shards have {len(shard_pieces)} pieces, this teacher {len(teacher_pieces)}"
    if len(teacher_pieces) == len(shard_pieces):
        i = next(i for i, (a, b) in enumerate(zip(shard_pieces, teacher_pieces, strict=True)) if a != b)
        problem = f"id {i} is {shard_pieces[i]!r} in the shards and {teacher_pieces[i]!r} in this teacher"
    raise MismatchError(
        problem,
        file=teacher.source,
        remedy="Encode the documents with the teacher's tokenizer, or align hidden states on whole words: --vocabulary words.",
    )


def require_head(teacher: Loaded) -> None:
    """Refuse a teacher without a masked-LM head.

    Raises:
        MismatchError: The teacher has none.
    """
    if not teacher.has_head:
        raise MismatchError(
            "the loss asks for its predictions, and it has no masked-LM head",
            file=teacher.source,
            remedy="Give --loss.kl 0: its hidden states, embeddings and relations can be learnt from.",
        )
