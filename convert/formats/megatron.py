"""Megatron-LM's BERT: tensor-parallel ranks merged, query, key and value brought into order, names to those of transformers' MegatronBert.

A model of one rank is read from that rank's file as well.

A folder holds `latest_checkpointed_iteration.txt` and `iter_0000123/mp_rank_00/model_optim_rng.pt` (or `release/…`), a file for each rank.
Each rank has its own heads. In one rank's `query_key_value`, rows are ordered [3, heads, head size] in checkpoint version 0,
[heads, head size, 3] in version 1 and [heads, 3, head size] from version 2 on (megatron/checkpointing.py, fix_query_key_value_ordering).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biomlm.convert.checks.tokenizers import TransformersRule
from biomlm.convert.formats import hf
from biomlm.convert.formats.base import Folder, Format, SavedFile
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.names.hf_architectures import MEGATRON
from biomlm.convert.safe_load import torch_file
from biomlm.convert.safe_load.unpickle import entries
from biomlm.core.errors import CheckpointError, kind
from biomlm.core.files import read_json
from biomlm.model.config import Activation

FILE = "model_optim_rng.pt"
LATEST = "latest_checkpointed_iteration.txt"
RANKS = f"mp_rank_*/{FILE}"
EPS = 1e-5  # Megatron's default
# Under which arguments Megatron-LM's BERT computes what transformers' MegatronBert does (megatron/training/arguments.py).
DEMANDS = {
    "apply_residual_connection_post_layernorm": False,
    "apply_layernorm_1p": False,
    "normalization": "LayerNorm",
    "swiglu": False,
    "squared_relu": False,
    "glu_activation": None,
    "use_rotary_position_embeddings": False,
    "position_embedding_type": "learned_absolute",
    "untie_embeddings_and_output_weights": False,
}

LAYER = r"language_model\.(?:transformer|encoder)\.layers\.(\d+)\."
NAMES = (
    (r"language_model\.embedding\.tokentype_embeddings\.weight", "bert.embeddings.token_type_embeddings.weight"),
    (r"language_model\.embedding\.(word|position)_embeddings\.weight", r"bert.embeddings.\1_embeddings.weight"),
    (rf"{LAYER}input_layernorm\.(\w+)", r"bert.encoder.layer.\1.attention.ln.\2"),
    (rf"{LAYER}post_attention_layernorm\.(\w+)", r"bert.encoder.layer.\1.ln.\2"),
    (rf"{LAYER}(?:self_)?attention\.(query|key|value)\.(\w+)", r"bert.encoder.layer.\1.attention.self.\2.\3"),
    (rf"{LAYER}(?:self_)?attention\.dense\.(\w+)", r"bert.encoder.layer.\1.attention.output.dense.\2"),
    (rf"{LAYER}mlp\.dense_h_to_4h\.(\w+)", r"bert.encoder.layer.\1.intermediate.dense.\2"),
    (rf"{LAYER}mlp\.dense_4h_to_h\.(\w+)", r"bert.encoder.layer.\1.output.dense.\2"),
    (r"language_model\.(?:transformer|encoder)\.final_layernorm\.(\w+)", r"bert.encoder.ln.\1"),
    (r"language_model\.pooler\.dense\.(\w+)", r"bert.pooler.dense.\1"),
    (r"lm_head\.dense\.(\w+)", r"cls.predictions.transform.dense.\1"),
    (r"lm_head\.layernorm\.(\w+)", r"cls.predictions.transform.LayerNorm.\1"),
    (r"lm_head\.bias", "cls.predictions.bias"),
    (r"binary_head\.(\w+)", r"cls.seq_relationship.\1"),
)
# What a rank holds a part of: rows (its outputs), or columns (its inputs). All else every rank holds whole.
BY_ROWS = re.compile(r".*(word_embeddings\.weight|dense_h_to_4h\.\w+|lm_head\.bias)")
BY_COLUMNS = re.compile(r".*(attention\.dense|dense_4h_to_h)\.weight")
QKV = re.compile(r"(.*attention)\.query_key_value\.(weight|bias)")


def detect(path: Path) -> bool:
    """Return whether this is a folder that Megatron-LM wrote, or one iteration of it."""
    return path.is_dir() and any(_iteration(path).glob(RANKS))


def _iteration(path: Path) -> Path:
    latest = path / LATEST
    if not latest.is_file():
        return path
    iteration = latest.read_text(encoding="utf-8", errors="replace").strip()
    return path / (f"iter_{int(iteration):07d}" if iteration.isdecimal() else Path(iteration).name)


def read(path: Path) -> SourceCheckpoint:
    """Read a checkpoint.

    Raises:
        UnsafeFileError: A file wants to run code.
        CheckpointError: It is damaged, no BERT, or one that the native model cannot compute.
    """
    files = sorted(_iteration(path).glob(RANKS))
    return _from_ranks(path, files, [torch_file.load(file) for file in files])


def holds(state: Any) -> bool:
    """Return whether a file of `torch.save` is a rank of Megatron-LM's by itself, as GatorTron's `MegatronBERT.pt` is."""
    return "language_model" in entries(entries(state).get("model"))


def read_file(state: Any, file: Path, tokenizer: Path | None = None) -> SourceCheckpoint:
    """Read the only rank of a model, with the tokenizer beside it or the one given (see `read`)."""
    source = _from_ranks(file.parent, [file], [state])
    if tokenizer is None:
        return source
    return replace(source, tokenizer_dir=tokenizer, token_rule=TransformersRule(tokenizer, MEGATRON.model_type))


def _from_ranks(path: Path, files: Sequence[Path], states: Sequence[Any]) -> SourceCheckpoint:
    """Merge what the ranks hold.

    Args:
        path: The folder, for configuration and tokenizer.
        files: Of the ranks, in order.
        states: What each holds.
    """
    if not all(isinstance(state, dict) and isinstance(state.get("model"), dict) for state in states):
        raise _refused(files[0], "this holds no model of Megatron-LM")
    args = entries(states[0].get("args"))
    raw = _config(args, path / hf.CONFIG)
    try:
        if args.get("tensor_model_parallel_size", len(files)) != len(files):
            raise _refused(path, f"{len(files)} of {args['tensor_model_parallel_size']} ranks are here")
        ranks = [flatten(state["model"]) for state in states]
        version = float(states[0].get("checkpoint_version", 0))
        merged = merge(ranks, int(raw["num_attention_heads"]), version)
        words, positions = (merged[f"bert.embeddings.{x}_embeddings.weight"] for x in ("word", "position"))
        raw |= {"vocab_size": len(words), "max_position_embeddings": len(positions)}
        types = merged.get("bert.embeddings.token_type_embeddings.weight")
        raw["type_vocab_size"] = 0 if types is None else len(types)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise _refused(files[0], f"its ranks do not fit together ({kind(error)})") from None
    source = hf.from_tensors(path, raw, merged, files[0])
    head: Activation = "gelu_tanh" if args.get("openai_gelu") else "gelu"  # the fused kernel is in the layers alone
    config = replace(source.config, head_activation=head if args else source.config.head_activation)
    return replace(source, kind="megatron", config=config, facts=source.facts | {"step": states[0].get("iteration", 0)})


def _config(args: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Make `config.json` from the training's arguments; the first checkpoints have none, and need a `config.json` beside them.

    Raises:
        DataError: There is neither.
        CheckpointError: They make another model.
    """
    if not args:
        return read_json(file, remedy="This checkpoint has no arguments: put transformers' config.json beside it.")
    for name, demanded in DEMANDS.items():
        if args.get(name, demanded) not in (demanded, None):
            problem, remedy = f"its {name} is {args[name]!r}", f"Only {demanded!r} is what MegatronBert computes."
            raise CheckpointError(problem, file=file, remedy=remedy)
    tanh = args.get("openai_gelu") or args.get("bias_gelu_fusion")
    hidden = args.get("hidden_size")
    return {
        "model_type": MEGATRON.model_type,
        "hidden_act": "gelu_new" if tanh else "gelu",
        "hidden_size": hidden,
        "num_hidden_layers": args.get("num_layers"),
        "num_attention_heads": args.get("num_attention_heads"),
        "intermediate_size": args.get("ffn_hidden_size") or (4 * hidden if isinstance(hidden, int) else None),
        "layer_norm_eps": args.get("layernorm_epsilon", EPS),
        "hidden_dropout_prob": args.get("hidden_dropout", 0.1),
        "attention_probs_dropout_prob": args.get("attention_dropout", 0.1),
    }


def flatten(model: Mapping[str, Any], prefix: str = "", depth: int = 6) -> dict[str, Tensor]:
    """Flatten a rank's nested dictionaries into one, names joined by dots."""
    flat: dict[str, Tensor] = {}
    for name, value in model.items():
        if isinstance(value, Tensor):
            flat[f"{prefix}{name}"] = value
        elif isinstance(value, dict) and depth:
            flat |= flatten(value, f"{prefix}{name}.", depth - 1)
    return flat


def merge(ranks: list[dict[str, Tensor]], heads: int, version: float) -> dict[str, Tensor]:
    """Merge all ranks' parts into one model, under transformers' names.

    Args:
        ranks: The tensors of each rank.
        heads: Attention heads in all.
        version: Megatron's `checkpoint_version`.

    Raises:
        ValueError: The parts do not fit together.
    """
    merged: dict[str, Tensor] = {}
    for name in ranks[0]:
        parts = [rank[name] for rank in ranks]
        if match := QKV.fullmatch(name):
            ordered = [in_order(part, heads // len(ranks), version) for part in parts]  # each [3, rows, …]
            for which, rows in zip(("query", "key", "value"), torch.cat(ordered, dim=1), strict=True):
                merged[_renamed(f"{match[1]}.{which}.{match[2]}")] = rows
        elif BY_ROWS.fullmatch(name):
            merged[_renamed(name)] = _joined(parts, 0)
        elif BY_COLUMNS.fullmatch(name):
            merged[_renamed(name)] = _joined(parts, 1)
        elif all(torch.equal(part, parts[0]) for part in parts):
            merged[_renamed(name)] = parts[0]
        else:
            raise ValueError(f"{name} differs between ranks")
    return merged


def in_order(part: Tensor, heads: int, version: float) -> Tensor:
    """Reorder one rank's `query_key_value`, [3 · rows, …], to [3, rows, …] with rows by head."""
    trailing = part.shape[1:]
    size = len(part) // (3 * heads)
    views: dict[int, Callable[[], Tensor]] = {
        0: lambda: part.view(3, heads, size, *trailing),
        1: lambda: part.view(heads, size, 3, *trailing).movedim(2, 0),
        2: lambda: part.view(heads, 3, size, *trailing).movedim(1, 0),
    }
    return views[min(int(version), 2)]().reshape(3, heads * size, *trailing)


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _renamed(name: str) -> str:
    """Give transformers' name; Megatron's own where there is none, so that it is refused by that name."""
    for pattern, replacement in NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return name


def _refused(file: Path, problem: str) -> CheckpointError:
    return CheckpointError(problem, file=file, remedy="Give the whole folder of a BERT that Megatron-LM wrote.")


FORMAT = Format(Folder(detect, read))
ONE_FILE = Format(SavedFile(holds, read_file))
