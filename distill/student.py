"""Initialize a student from its teacher's weights: some of the layers, and where the student is narrower, a part of every width.

The residual stream is cut by one matrix R [h, H] in all layers, so that what one layer writes the next still reads: every weight
that reads the stream is multiplied by Rᵀ, every weight that writes it by R. R either picks coordinates, those with the largest weights
(weight subcloning, Samragh et al. 2023, arXiv 2312.09299), which layer-norms leave as they are, or turns the stream into the widest
directions of the word embeddings (truncated SVD), of which layer-norms only keep the diagonal. Heads, the coordinates inside
a head, and feed-forward neurons are picked by their weights in either case. docs/log.md has figures.

Shape suffixes: H teacher's and h student's width, n heads, d head size, i feed-forward neurons.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from biomlm.convert.load import Loaded
from biomlm.core.errors import MismatchError
from biomlm.distill.config import DistillConfig
from biomlm.distill.losses.layer_maps import layer_map, require_no_deeper
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.data.dataset import Shards
from biomlm.training.trainer import seed_weights

Tensors = dict[str, Tensor]
WORD_EMBEDDINGS = "encoder.word_embeddings.weight"
STUDENT_FIELDS = (  # what the student has of its own; all else of the arithmetic is the teacher's
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_dropout",
    "attention_dropout",
    "pad_token_id",
)


def from_teacher(teacher: Loaded, config: DistillConfig, reader: Shards) -> MaskedLM:
    """Make a student of parts of its teacher.

    Args:
        teacher: Over the shards' vocabulary.
        config: The student's shape, which layers it takes and how widths are cut.
        reader: The shards.

    Raises:
        MismatchError: The student is of another shape, deeper or wider.
    """
    wanted = config.model.resolve(reader.vocab_size, config.batch.max_length, reader.tokenizer.ids.pad)
    _require_smaller(wanted, teacher)
    student = replace(teacher.config, **{name: getattr(wanted, name) for name in STUDENT_FIELDS})
    layers = taken_layers(
        config.start_layers, student.num_hidden_layers, teacher.config.num_hidden_layers, str(teacher.source)
    )
    tensors = {name: tensor.detach() for name, tensor in teacher.model.state_dict().items()}
    tensors = cut_width(_with_layers(tensors, layers), teacher.config, student, config.start_width)
    seed_weights(config.seed)  # of rows behind the vocabulary
    model = MaskedLM(student)
    own = model.state_dict()
    for name in (WORD_EMBEDDINGS, "head.bias"):
        rows = own[name].clone()
        rows[: reader.vocab_size] = tensors[name][: reader.vocab_size]
        tensors[name] = rows
    model.load_state_dict(tensors)
    model.mask_padding_vocab(reader.vocab_size)
    return model


def _require_smaller(student: EncoderConfig, teacher: Loaded) -> None:
    require_no_deeper(student.num_hidden_layers, teacher.config.num_hidden_layers, teacher.source)
    if student.shape != teacher.config.shape:
        raise MismatchError(
            f"the student's shape is {student.shape}, this teacher's {teacher.config.shape}",
            file=teacher.source,
            remedy=f"Give --model.shape {teacher.config.shape}, or --start scratch.",
        )
    if student.rotary and student.head_size != teacher.config.head_size:
        raise MismatchError(
            f"the student's heads are {student.head_size} wide, this teacher's {teacher.config.head_size}, and rotary positions "
            "turn a head as a whole",
            file=teacher.source,
            remedy="Give the student heads of the same width by --model.num_attention_heads, or --start scratch.",
        )
    for name in ("hidden_size", "num_attention_heads", "head_size", "intermediate_size"):
        student_size, teacher_size = getattr(student, name), getattr(teacher.config, name)
        if student_size > teacher_size:
            raise MismatchError(
                f"the student's {name} is {student_size}, this teacher's only {teacher_size}",
                file=teacher.source,
                remedy="Give a smaller student by the options of --model, or --start scratch.",
            )


def taken_layers(text: str, student: int, teacher: int, source: str) -> list[int]:
    """Choose the teacher's layer, counted from 1, for each layer of the student.

    Raises:
        MismatchError: A layer is missing, or a student's layer is left without one or given several.
    """
    if text == "every":
        return [(i * teacher) // student + 1 for i in range(student)]
    pairs = layer_map(text, student, teacher, option="start_layers", source=source)
    for i in range(1, student + 1):
        sources = [b for a, b in pairs if a == i and b > 0]
        if len(sources) != 1:
            raise MismatchError(
                f"start_layers `{text}` gives the student's layer {i} of {student} {len(sources) or 'no'} "
                f"layer{'s' * (len(sources) > 1)} of the teacher's {teacher}",
                file=source,
                remedy="Name one for every layer of the student, or `every` or `uniform`.",
            )
    return [b for a, b in pairs if a > 0]


def _with_layers(tensors: Mapping[str, Tensor], layers: list[int]) -> Tensors:
    """Keep everything but the layers, and of these the given ones in the given order."""
    kept = {name: tensor for name, tensor in tensors.items() if ".layers." not in name}
    for i, layer in enumerate(layers):
        prefix = f"encoder.layers.{layer - 1}."
        kept |= {
            name.replace(prefix, f"encoder.layers.{i}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
    return kept


def cut_width(tensors: Tensors, teacher: EncoderConfig, student: EncoderConfig, how: str) -> Tensors:
    """Cut layers to the student's widths; where the widths are equal the tensors stay as they are.

    Args:
        tensors: A model of the teacher's widths and the student's layers.
        teacher: The widths that are cut.
        student: The widths to cut to.
        how: `important` or `svd`: which R.
    """
    r_hh = _residual(tensors, student.hidden_size, how)
    cut: Tensors = {}
    for name, tensor in tensors.items():
        if ".layers." not in name:
            cut[name] = _outside(name, tensor, r_hh)
    for i in range(student.num_hidden_layers):
        prefix = f"encoder.layers.{i}."
        layer = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        cut |= {prefix + name: tensor.contiguous() for name, tensor in _layer(layer, teacher, student, r_hh).items()}
    return cut


def _residual(tensors: Tensors, width: int, how: str) -> Tensor:
    """Choose R [h, H]."""
    words_vh = tensors[WORD_EMBEDDINGS].float()
    teacher_width = words_vh.shape[1]
    if width == teacher_width:
        return torch.eye(teacher_width)
    if how == "svd":
        values, vectors = torch.linalg.eigh(words_vh.T @ words_vh)  # right singular vectors, rising
        widest: Tensor = vectors[:, values.argsort(descending=True)[:width]].T
        return widest
    importance: Tensor = _unit(words_vh.square().sum(0))
    for name, tensor in tensors.items():
        if name.endswith(("qkv.weight", "up.weight")):
            importance = importance + _unit(tensor.square().sum(0))
        elif name.endswith(("out.weight", "down.weight")):
            importance = importance + _unit(tensor.square().sum(1))
    return torch.eye(teacher_width)[_largest(importance, width)]


def _unit(x: Tensor) -> Tensor:
    return x / x.sum()


def _largest(importance: Tensor, count: int) -> Tensor:
    """Give the indices of the largest values, ascending."""
    return importance.topk(count).indices.sort().values


def _norm_or_bias(tensor: Tensor, name: str, r_hh: Tensor) -> Tensor:
    """Cut a vector over the stream: a norm's weight, which multiplies it, keeps its diagonal; a bias, which is added, is mapped by R."""
    return r_hh.square() @ tensor if name.endswith("norm.weight") else r_hh @ tensor


def _outside(name: str, tensor: Tensor, r_hh: Tensor) -> Tensor:
    """Cut a tensor of the embeddings, the final norm or the head."""
    if name == "head.bias":
        return tensor
    if name == "head.dense.weight":
        return r_hh @ tensor @ r_hh.T
    return _norm_or_bias(tensor, name, r_hh) if tensor.ndim == 1 else tensor @ r_hh.T


def _layer(layer: Tensors, teacher: EncoderConfig, student: EncoderConfig, r_hh: Tensor) -> Tensors:
    rows = _attention_rows(layer, teacher, student)
    inner = teacher.hidden_size
    qkv_rows = torch.cat([rows["qk"], rows["qk"] + inner, rows["v"] + 2 * inner])
    neurons = _neurons(layer, teacher, student)
    up_rows = torch.cat([neurons, neurons + teacher.intermediate_size]) if teacher.features.gated else neurons
    cut: Tensors = {}
    for name, tensor in layer.items():
        part = name.rpartition(".")[0]
        if part in ("attention.qkv", "mlp.up"):
            kept = tensor[qkv_rows if part == "attention.qkv" else up_rows]
            cut[name] = kept @ r_hh.T if kept.ndim == 2 else kept
        elif tensor.ndim == 2:
            cut[name] = r_hh @ tensor[:, rows["v"] if part == "attention.out" else neurons]
        else:
            cut[name] = _norm_or_bias(tensor, name, r_hh)
    scale = (student.head_size / teacher.head_size) ** 0.25  # of queries and keys each: scores are divided by √d
    for name in ("attention.qkv.weight", "attention.qkv.bias"):
        if name in cut and scale != 1:
            cut[name] = cut[name].clone()
            cut[name][: 2 * student.hidden_size] *= scale
    return cut


def _attention_rows(layer: Tensors, teacher: EncoderConfig, student: EncoderConfig) -> dict[str, Tensor]:
    """Choose the rows of queries and keys, and of values, to keep: whole heads first, then coordinates inside each head."""
    n, d = teacher.num_attention_heads, teacher.head_size
    q, k, v = layer["attention.qkv.weight"].square().sum(1).view(3, n, d).unbind()
    out = layer["attention.out.weight"].square().sum(0).view(n, d)
    heads = _largest((v.sum(1) * out.sum(1)), student.num_attention_heads)
    rows = {}
    for name, importance in (("qk", q * k), ("v", v * out)):
        kept = torch.stack([_largest(importance[head], student.head_size) for head in heads])
        rows[name] = (heads[:, None] * d + kept).flatten()
    return rows


def _neurons(layer: Tensors, teacher: EncoderConfig, student: EncoderConfig) -> Tensor:
    up = layer["mlp.up.weight"].square().sum(1).view(-1, teacher.intermediate_size).sum(0)
    down = layer["mlp.down.weight"].square().sum(0)
    return _largest(up * down, student.intermediate_size)
