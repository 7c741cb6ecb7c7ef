"""fairseq's RoBERTa checkpoints, 0.6 to 0.12 and its forks: read from `.pt`, written so that the real fairseq loads them, 0.10 as well.

Names are those of `fairseq/models/roberta/model.py`. Earlier versions called the encoder `decoder`, its first layer-norm
`emb_layer_norm`, and kept query, key and value in one `in_proj`; wrappers of distributed training put their name in front. These
are brought to today's names first (as fairseq's own `upgrade_state_dict_named` does). Positions begin at row pad + 1 = 2.
"""

import errno
import os
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biomlm.convert.formats.source_checkpoint import SourceCheckpoint, sane
from biomlm.convert.names.table import (
    POSITIONS,
    TYPES,
    Stacked,
    Table,
    common_dtype,
    count_layers,
    from_native,
    to_native,
)
from biomlm.convert.safe_load.archive import scratch
from biomlm.convert.safe_load.unpickle import entries
from biomlm.core.errors import CheckpointError, MismatchError
from biomlm.core.files import write_text
from biomlm.model.config import Activation, EncoderConfig, Shape
from biomlm.tokenizer.formats import consistency
from biomlm.tokenizer.formats import folder as tokenizer_folder
from biomlm.tokenizer.formats.fairseq import FILES as TOKENIZER_FILES
from biomlm.tokenizer.formats.fairseq import order, read_dict
from biomlm.tokenizer.formats.folder import Tokenizer

PAIR = ("vocab.json", "merges.txt")
PAD = 1  # fairseq's Dictionary: <s> 0, <pad> 1, </s> 2, <unk> 3
EPS = 1e-5  # fairseq leaves torch.nn.LayerNorm's default
PREFERRED = ("model.pt", "checkpoint_best.pt", "checkpoint_last.pt")
HEADS = "classification_heads."
DEMANDS = {
    "no_scale_embedding": True,
    "no_token_positional_embeddings": False,
}  # under which fairseq computes what the native model does
HEAD_DEMANDS = {
    "pooler_activation_fn": "tanh",
    "spectral_norm_classification_head": False,
}  # and its classification heads
HEAD_NAMES = r"classification_heads\.\w+\.(dense|out_proj)\.(weight|bias)"
LABELS = Path("label", "dict.txt")
ACTIVATIONS: dict[str, Activation] = {  # fairseq/utils.py, get_activation_fn
    "gelu": "gelu",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
E_ = "encoder.sentence_encoder"

VERSION = f"{E_}.version"  # below 2, or missing, fairseq leaves the final norm of a prenorm model out
# 0.12 allocates these for its fused inference kernels and never fills them.
UNUSED = r"encoder\.sentence_encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)"


def _table(norms: Mapping[str, tuple[str, ...]]) -> Table:
    """Make the table of RoBERTa with its first layer-norm, its last or both."""
    return Table(
        modules={
            "encoder.word_embeddings": (f"{E_}.embed_tokens",),
            "encoder.position_embeddings": (f"{E_}.embed_positions",),
            "encoder.layers.*.attention.qkv": tuple(f"{E_}.layers.*.self_attn.{x}_proj" for x in "qkv"),
            "encoder.layers.*.attention.out": (f"{E_}.layers.*.self_attn.out_proj",),
            "encoder.layers.*.attention_norm": (f"{E_}.layers.*.self_attn_layer_norm",),
            "encoder.layers.*.mlp.up": (f"{E_}.layers.*.fc1",),
            "encoder.layers.*.mlp.down": (f"{E_}.layers.*.fc2",),
            "encoder.layers.*.mlp_norm": (f"{E_}.layers.*.final_layer_norm",),
            "head.dense": ("encoder.lm_head.dense",),
            "head.norm": ("encoder.lm_head.layer_norm",),
            "head": ("encoder.lm_head",),
            **norms,
        },
        tied={"encoder.lm_head.weight": "encoder.word_embeddings.weight"},
        extra_names={r"classification_heads\.(\w+)\.(dense|out_proj)": r"classification_heads.\1.\2"},
        behind_padding=True,
        ignored={re.escape(VERSION): lambda _: True, UNUSED: lambda tensor: not tensor.any()},
    )


# fairseq's prenorm RoBERTa normalises what goes into each sub-layer and the output. Its architecture `roberta_prenorm` does not normalise
# the embeddings, which is Megatron BERT's shape; any other with `--encoder-normalize-before` does, as Hugging Face's RobertaPreLayerNorm.
FIRST = {"encoder.embedding_norm": (f"{E_}.layernorm_embedding",)}
LAST = {"encoder.final_norm": (f"{E_}.layer_norm",)}
TABLES: dict[Shape, Table] = {
    "roberta": _table(FIRST),
    "roberta-prelayernorm": _table(FIRST | LAST),
    "megatron-bert": _table(LAST),
}

# What `checkpoint_utils._upgrade_state_dict` asks of every checkpoint.
HISTORY = {"criterion_name": "MaskedLmLoss", "optimizer_name": "FairseqAdam", "lr_scheduler_state": {"best": None}}

OLD_NAMES = (
    (r"^(module\.|_fsdp_wrapped_module\.|_fpw_module\.)+", ""),
    (r"\.(_fsdp_wrapped_module|_fpw_module|_checkpoint_wrapped_module)(?=\.)", ""),
    (r"^decoder\.(?=sentence_encoder\.|lm_head\.)", "encoder."),
    (r"\.emb_layer_norm\.", ".layernorm_embedding."),
)

# What 0.10 reads, and later versions as well.
AGED = ((r"^encoder\.(?=sentence_encoder\.|lm_head\.)", "decoder."), (r"\.layernorm_embedding\.", ".emb_layer_norm."))

# Settings of the training that a model card may show; others (paths above all) stay where they are.
TASK = ("arch", "task", "sample_break_mode", "tokens_per_sample", "mask_prob", "dropout", "attention_dropout", "seed")
OPTIMISER = ("max_update", "warmup_updates", "weight_decay", "adam_betas", "adam_eps", "clip_norm", "fp16", "bf16")


def detect(path: Path) -> bool:
    """Return whether this is a checkpoint file, or a folder that holds one."""
    return path.is_file() or (path.is_dir() and any(path.glob("*.pt")))


def read(state: Any, file: Path, tokenizer: Path | None = None) -> SourceCheckpoint:
    """Translate an opened checkpoint, with the dictionary and the BPE that lie beside it.

    Args:
        state: What the file holds.
        file: The `.pt` file.
        tokenizer: A folder with those of `dict.txt`, `encoder.json` and `vocab.bpe` that are not beside the checkpoint.

    Raises:
        CheckpointError: It is no RoBERTa.
        MismatchError: The dictionary is not the checkpoint's.
    """
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        remedy = "Give the file that fairseq-train wrote; or, if it is transformers', its folder with config.json."
        raise _refused(file, f"this holds no fairseq model, but {_contents(state)}", remedy)
    tensors = modern({k: v for k, v in state["model"].items() if isinstance(v, Tensor)})
    settings = _settings(state)
    config = encoder_config(tensors, settings, file)
    native, extra = to_native(TABLES[config.shape], tensors, config, file)
    facts: dict[str, Any] = {"dtype": common_dtype(native)}
    facts["settings"] = {k: settings[k] for k in (*TASK, *OPTIMISER) if isinstance(settings.get(k), (str, int, float))}
    facts |= _labels(file.parent / LABELS)
    history = state.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else None
    if isinstance(last, dict) and isinstance(last.get("num_updates"), int):
        facts["updates"] = last["num_updates"]
    beside = _tokenizer([*([tokenizer] if tokenizer else []), file.parent], config, file)
    place, loaded = beside or (tokenizer, None)
    mean = _running_mean(state)
    averaged = (lambda: read({**state, "model": mean, "extra_state": None}, file, tokenizer)) if mean else None
    return SourceCheckpoint("fairseq", config, native, file, extra, place, facts, tokenizer=loaded, averaged=averaged)


def _running_mean(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read the weights that fairseq's `--store-ema` kept (`fairseq/trainer.py`), in float32 where `--ema-fp32` did; none without it."""
    extra = entries(state.get("extra_state"))
    kept = {name: value for name, value in entries(extra.get("ema")).items() if isinstance(value, Tensor)}
    precise = {
        name: value for name, value in entries(extra.get("ema_fp32_params")).items() if isinstance(value, Tensor)
    }
    floats = {name for name, value in kept.items() if value.is_floating_point()}
    return {**kept, **precise} if floats <= precise.keys() else kept


def _contents(state: Any) -> str:
    """Describe what a file holds instead of a fairseq checkpoint, by its names."""
    if not isinstance(state, dict):
        return "a tensor" if isinstance(state, Tensor) else f"a {type(state).__name__}"
    names = [str(name)[:60] for name in state]
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "") if names else "nothing"


def choose(path: Path) -> Path:
    """Choose the file itself, or the one checkpoint of a folder.

    Raises:
        CheckpointError: There are several, and none has a preferred name.
    """
    if path.is_file():
        return path
    names = sorted(p.name for p in path.glob("*.pt"))
    preferred = [name for name in PREFERRED if name in names] or (names if len(names) == 1 else [])
    if not preferred:
        some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise _refused(path, f"this folder holds {len(names)} checkpoints: {some}", "Give the path of one of them.")
    return path / preferred[0]


def modern(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring the names of earlier versions and of wrappers to those of 0.12."""
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        new = name
        for pattern, replacement in OLD_NAMES:
            new = re.sub(pattern, replacement, new)
        if match := re.fullmatch(r"(.*\.self_attn)\.in_proj_(weight|bias)", new):
            for letter, rows in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{match[1]}.{letter}_proj.{match[2]}"] = rows
        else:
            renamed[new] = value
    return renamed


def _settings(state: Mapping[str, Any]) -> dict[str, Any]:
    """Read the training's settings, flat: from `args` (before 0.10), or from the sections of `cfg`, the model's last."""
    sections = entries(state.get("cfg"))
    flat: dict[str, Any] = {}
    for name in (*(n for n in sections if n != "model"), "model"):
        flat |= entries(sections.get(name))
    return {**flat, **entries(state.get("args"))}


def encoder_config(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], file: Path) -> EncoderConfig:
    """Read the encoder's shape from its tensors; the number of heads, which they do not show, from the settings.

    Raises:
        CheckpointError: It is no RoBERTa, or one that the native model cannot compute.
    """
    words, positions = tensors.get(f"{E_}.embed_tokens.weight"), tensors.get(f"{E_}.embed_positions.weight")
    up = tensors.get(f"{E_}.layers.0.fc1.weight")
    arch = settings.get("arch") or settings.get("_name")
    if words is None or positions is None or up is None or words.ndim != 2 or positions.ndim != 2 or up.ndim != 2:
        other = f" but {arch}" if isinstance(arch, str) else ""
        remedy = "Give an encoder; BART, decoders and others cannot be converted."
        raise _refused(file, f"this is not fairseq's RoBERTa{other}", remedy)
    if settings.get("untie_weights_roberta", False) is not False:
        raise _refused(file, "its decoder is not tied to the embeddings", "Give a model with a tied decoder.")
    classifies = any(name.startswith(HEADS) for name in tensors)
    for name, demanded in {**DEMANDS, **(HEAD_DEMANDS if classifies else {})}.items():
        if settings.get(name, demanded) != demanded:
            problem = f"its {name} is {settings[name]!r}"
            raise _refused(file, problem, f"Only {demanded!r} is computed alike everywhere.")
    activation = settings.get("activation_fn", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise _refused(file, f"its activation_fn is {activation!r}", f"{', '.join(ACTIVATIONS)} can be converted.")
    heads = settings.get("encoder_attention_heads")
    if type(heads) is not int or heads < 1 or words.shape[1] % heads:
        remedy = "Give the file that fairseq-train wrote, with its settings (`args` or `cfg`)."
        raise _refused(file, "its settings do not say how many attention heads there are", remedy)
    config = EncoderConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        num_hidden_layers=count_layers(list(tensors), rf"{re.escape(E_)}\.layers\.(\d+)\."),
        num_attention_heads=heads,
        intermediate_size=up.shape[0],
        max_positions=positions.shape[0] - PAD - 1,
        hidden_dropout=_number(settings.get("dropout"), 0.1),
        attention_dropout=_number(settings.get("attention_dropout"), 0.1),
        layer_norm_eps=EPS,
        pad_token_id=PAD,
        shape=_shape(tensors, file),
        activation=ACTIVATIONS[activation],
        head_activation=ACTIVATIONS[activation],
    )
    return sane(config, file)


def _shape(tensors: Mapping[str, Tensor], file: Path) -> Shape:
    """Tell RoBERTa from the two kinds of prenorm by the norms that there are."""
    if f"{E_}.layer_norm.weight" not in tensors:
        return "roberta"
    version = tensors.get(VERSION, torch.ones(1)).flatten()
    if not len(version) or not version[0] >= 2:
        problem = "it is a prenorm model of before version 2, whose final norm fairseq leaves out"
        raise _refused(file, problem, "Load and save it with fairseq 0.12 first.")
    return "roberta-prelayernorm" if f"{E_}.layernorm_embedding.weight" in tensors else "megatron-bert"


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) else default


def _tokenizer(folders: list[Path], config: EncoderConfig, file: Path) -> tuple[Path, Tokenizer] | None:
    """Make a tokenizer folder of fairseq's three files, each from the first folder that has it, and load it; None if there is no BPE.

    The published `roberta.base.tar.gz` has `dict.txt` but no BPE, which is GPT-2's: then `--tokenizer` says where that lies. In place of
    `encoder.json` and `vocab.bpe` there may be `vocab.json` and `merges.txt`, or the `tokenizer.json` of a folder with the model's ids.

    Raises:
        MismatchError: The dictionary is not the checkpoint's, or there is none and the tokenizer's order cannot be that of one.
        DataError: The dictionary is not the tokenizer's.
    """
    files = [next((f / name for f in folders if (f / name).is_file()), None) for name in TOKENIZER_FILES]
    dict_txt, encoder_json, vocab_bpe = files
    if dict_txt:
        ids = len(order([symbol for symbol, _ in read_dict(dict_txt)]))
        if ids != config.vocab_size:
            raise MismatchError(
                f"{dict_txt} makes {ids} ids and the checkpoint has {config.vocab_size} embeddings",
                file=file,
                remedy="Give the dictionary that the model was trained with.",
            )
    if dict_txt and encoder_json and vocab_bpe:
        target = scratch()
        return target, tokenizer_folder.from_fairseq(dict_txt, encoder_json, vocab_bpe, target, config.max_positions)
    pair = next((f for f in folders if all((f / name).is_file() for name in PAIR)), None)
    if dict_txt and pair:
        target = scratch()
        return target, tokenizer_folder.from_dictionary(dict_txt, pair, target, config.max_positions)
    return _given(folders[:-1], dict_txt, config, file)


def _given(
    folders: list[Path], dict_txt: Path | None, config: EncoderConfig, file: Path
) -> tuple[Path, Tokenizer] | None:
    """Load the tokenizer folder given, whose ids must be the model's."""
    if not folders or not tokenizer_folder.is_folder(folders[0]):
        return None
    loaded = tokenizer_folder.load(folders[0])
    if dict_txt and tokenizer_folder.is_byte_level(loaded):
        target = scratch()
        return target, tokenizer_folder.from_dictionary(dict_txt, folders[0], target, config.max_positions)
    if dict_txt:
        consistency.check_dictionary(dict_txt, loaded.hf)
    elif tokenizer_folder.in_order_of_learning(loaded):
        raise MismatchError(
            f"the pieces of {folders[0]} are numbered as they were learnt, fairseq's by a dictionary, and there is no dict.txt",
            file=file,
            remedy="Put the dictionary that the model was trained with beside it, or into the tokenizer's folder.",
        )
    return folders[0], loaded


def write(source: SourceCheckpoint, folder: Path, dtype: torch.dtype) -> list[Path]:
    """Write `model.pt` into a folder that is not in place yet, and `label/dict.txt` if it has a classification head; their paths.

    Token types, which fairseq's RoBERTa lacks, are added to the positions.

    Raises:
        MismatchError: The shape, the padding id, the norms' eps, the token types or a head are none of fairseq's.
    """
    _refuse_what_fairseq_lacks(source)
    native = Stacked(source.tensors)
    types = native.pop(TYPES, None)
    if types is not None and types[0].any():
        native[POSITIONS] = native[POSITIONS] + types[0]
    tensors = from_native(TABLES[source.config.shape], native, source.extra_tensors, front=PAD + 1)
    tensors |= {name: value for name, value in source.extra_tensors.items() if name.startswith(HEADS)}
    tensors = {name: _own(value.to(dtype)) for name, value in tensors.items()}
    tensors["encoder.lm_head.weight"] = tensors[f"{E_}.embed_tokens.weight"]
    tensors = aged(tensors) if source.config.shape == "roberta" else tensors | {VERSION: torch.tensor([3.0])}
    state: dict[str, Any] = {
        "args": Namespace(**settings(source.config)),
        "cfg": None,  # 0.10 and later make it from `args`, which every version reads
        "model": tensors,
        "optimizer_history": [HISTORY | {"num_updates": source.facts.get("updates") or source.facts.get("step") or 0}],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
    }
    _save(state, folder / PREFERRED[0])
    labels = source.facts.get("id2label")
    if not isinstance(labels, dict) or not any(name.startswith(HEADS) for name in source.extra_tensors):
        return [folder / PREFERRED[0]]
    write_text(folder / LABELS, "".join(f"{labels[i]} 1\n" for i in sorted(labels, key=int)))
    return [folder / PREFERRED[0], folder / LABELS]


def aged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors the names that every version from 0.10 on reads; prenorm, which 0.10 lacks, keeps 0.12's."""
    return {re.sub(*AGED[1], re.sub(*AGED[0], name)): value for name, value in tensors.items()}


def _refuse_what_fairseq_lacks(source: SourceCheckpoint) -> None:
    config = source.config
    odd = [name for name in source.extra_tensors if name.startswith(HEADS) and not re.fullmatch(HEAD_NAMES, name)]
    lacks = {
        f"encoder of shape {config.shape}": config.shape not in TABLES,
        "encoder without a masked-LM head": not source.has_head,
        f"model with {config.type_vocab_size} token types": config.type_vocab_size > 1,
        f"layer-norm with eps {config.layer_norm_eps}": config.layer_norm_eps != EPS,
        f"padding id {config.pad_token_id}": config.pad_token_id != PAD,
        f"head with a tensor {odd[0] if odd else ''}": bool(odd),
    }
    for what, lacking in lacks.items():
        if lacking:
            remedy = "Convert to Hugging Face's format instead."
            raise MismatchError(f"fairseq has no {what}", file=source.weights, remedy=remedy)


def _own(tensor: Tensor) -> Tensor:
    """Give the tensor a storage of its own: `torch.save` writes the whole storage that a view is part of."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _save(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:  # how torch's zip writer says that the disk is full
        if "inline_container" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None


def settings(config: EncoderConfig) -> dict[str, Any]:
    """Give the settings that fairseq needs to build the same model: the names of `roberta_base` in `fairseq/models/roberta/model.py`."""
    return {
        "arch": "roberta_prenorm" if config.shape == "megatron-bert" else "roberta_base",
        "task": "masked_lm",
        "criterion": "masked_lm",
        "seed": 1,  # 0.10's task asks for it
        "data": ".",
        "encoder_layers": config.num_hidden_layers,
        "encoder_embed_dim": config.hidden_size,
        "encoder_ffn_embed_dim": config.intermediate_size,
        "encoder_attention_heads": config.num_attention_heads,
        "max_positions": config.max_positions,
        "tokens_per_sample": config.max_positions,
        "dropout": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": 0.0,
        "pooler_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "activation_fn": next(name for name, meant in ACTIVATIONS.items() if meant == config.activation),
        "pooler_activation_fn": "tanh",
        "encoder_normalize_before": config.pre_norm,
        "layernorm_embedding": config.shape != "megatron-bert",
        "untie_weights_roberta": False,
    }


def _labels(file: Path) -> dict[str, Any]:
    """Read the classes of a classification head, if `label/dict.txt` lies beside the checkpoint, as Hugging Face writes them."""
    if not file.is_file():
        return {}
    names = [name for name, _ in read_dict(file)]
    return {"id2label": {str(i): name for i, name in enumerate(names)}, "label2id": {n: i for i, n in enumerate(names)}}


def _refused(file: Path, problem: str, remedy: str) -> CheckpointError:
    return CheckpointError(problem, file=file, remedy=remedy)
