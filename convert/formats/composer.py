"""Checkpoints of Composer's Trainer, with which ModernBERT was trained: its own encoder (FlexBERT), or any class of transformers.

`state` holds `model` (transformers' names behind `model.`) and `integrations`, where Composer keeps `config.json` and the tokenizer's files
(composer/models/huggingface.py). FlexBERT's names and settings are not those of transformers' ModernBERT, which computes the same as its
rotary, gated, pre-LN form without biases (ModernBERT's repository, src/bert_layers).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from biomlm.convert.checks.tokenizers import TransformersRule
from biomlm.convert.formats import hf
from biomlm.convert.formats.base import Format, SavedFile
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.names.hf_architectures import MODERN
from biomlm.convert.safe_load.archive import scratch
from biomlm.core.errors import CheckpointError
from biomlm.core.files import read_json, write_json, write_text
from biomlm.tokenizer.formats import folder as tokenizer_folder

NAMES = (
    (r"^model\.bert\.encoder\.layers\.", "model.layers."),
    (r"^model\.bert\.", "model."),
    (r"^model\.(?=head|decoder)", ""),
)
# FlexBERT's settings under which it computes what ModernBERT does.
DEMANDS = {
    "attention_layer": "rope",
    "bert_layer": "prenorm",
    "embedding_layer": "sans_pos",
    "mlp_layer": "glu",
    "normalization": "layernorm",
    "embed_norm": True,
    "final_norm": True,
    "skip_first_prenorm": True,
    "rotary_emb_interleaved": False,
    "head_pred_bias": False,
    "rotary_emb_dim": None,
    "rotary_emb_scale_base": None,
}
KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "pad_token_id": "pad_token_id",
    "initializer_range": "init_std",
    "mlp_dropout": "mlp_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "hidden_activation": "hidden_act",
    "classifier_activation": "head_pred_act",
    "attention_bias": "attn_qkv_bias",
    "mlp_bias": "mlp_in_bias",
    "global_attn_every_n_layers": "global_attn_every_n_layers",
    "local_attention": "sliding_window",
    "global_rope_theta": "rotary_emb_base",
}
FILES = {f"{stem}.json" for stem in ("tokenizer", "tokenizer_config", "special_tokens_map", "vocab")} | {"vocab.txt"}


def holds(state: Any) -> bool:
    """Return whether an opened checkpoint is Composer's."""
    inner = state.get("state") if isinstance(state, dict) else None
    return isinstance(inner, dict) and isinstance(inner.get("model"), dict)


def read(state: Mapping[str, Any], file: Path, given: Path | None = None) -> SourceCheckpoint:
    """Translate an opened checkpoint.

    Args:
        state: What the file holds.
        file: The file.
        given: A tokenizer folder to take in the place of the one that it holds.

    Raises:
        CheckpointError: It is of another architecture, or nothing tells its shape.
    """
    inner = state["state"]
    stated = _dictionary(_dictionary(inner.get("integrations")).get("huggingface"))
    raw = _dictionary(_dictionary(_dictionary(stated.get("model")).get("config")).get("content"))
    if (file.parent / hf.CONFIG).is_file():
        raw = read_json(file.parent / hf.CONFIG)
    elif not raw:
        remedy = f"Put transformers' {hf.CONFIG} beside it."
        raise CheckpointError("this checkpoint does not hold its model's configuration", file=file, remedy=remedy)
    if labels := _dictionary(raw.get("id2label")):  # with numbers, where JSON has text
        raw = raw | {"id2label": {str(number): name for number, name in labels.items()}}
    tensors = {name: value for name, value in inner["model"].items() if isinstance(value, Tensor)}
    flex = any(name.startswith("model.bert.encoder.layers.") for name in tensors)
    tensors = {_renamed(name) if flex else name.removeprefix("model."): value for name, value in tensors.items()}
    tokenizer = _tokenizer(_dictionary(stated.get("tokenizer")))
    if flex and raw.get("model_type") != MODERN.model_type:
        raw = modern(raw, file)
        if tokenizer:  # FlexBERT's own is BERT's default, whatever the tokenizer
            raw["pad_token_id"] = tokenizer_folder.load(tokenizer).ids.pad
    source = hf.from_tensors(file.parent, raw, tensors, file)
    own = given or tokenizer
    source = replace(source, kind="composer")
    if own:
        source = replace(source, tokenizer_dir=own, token_rule=TransformersRule(own, MODERN.model_type))
    mean = _running_mean(inner.get("algorithms"))
    if not mean:
        return source
    changed = {**inner, "model": {**inner["model"], **mean}, "algorithms": None}
    return replace(source, averaged=lambda: read({**state, "state": changed}, file, given))


def _running_mean(algorithms: Any) -> dict[str, Tensor]:
    """Read the weights that Composer's EMA algorithm keeps (composer/algorithms/ema/ema.py); none if it did not run."""
    pairs = algorithms.items() if isinstance(algorithms, dict) else algorithms if isinstance(algorithms, list) else ()
    for _, state in (pair for pair in pairs if isinstance(pair, (tuple, list)) and len(pair) == 2):
        kept = _dictionary(_dictionary(state).get("ema_model"))
        named = {**_dictionary(kept.get("parameters")), **_dictionary(kept.get("buffers"))}
        if named:
            return {name: value for name, value in named.items() if isinstance(value, Tensor)}
    return {}


def modern(flex: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Make ModernBERT's `config.json` from FlexBERT's settings.

    Raises:
        CheckpointError: They make something else.
    """
    norms = _dictionary(flex.get("norm_kwargs"))
    for key, demanded in DEMANDS.items():
        if flex.get(key, demanded) != demanded:
            problem, remedy = f"its {key} is {flex[key]!r}", f"Only {demanded!r} is what ModernBERT computes."
            raise CheckpointError(problem, file=file, remedy=remedy)
    local = flex.get("local_attn_rotary_emb_base", -1)
    theta = {"local_rope_theta": flex.get("rotary_emb_base") if local in (-1, None) else local}
    stated = {name: flex[key] for name, key in KEYS.items() if key in flex}
    return (
        {"model_type": MODERN.model_type, "norm_eps": norms.get("eps", 1e-5), "norm_bias": norms.get("bias", False)}
        | stated
        | theta
    )


def _renamed(name: str) -> str:
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _tokenizer(files: Mapping[str, Any]) -> Path | None:
    """Write the tokenizer's files that a checkpoint holds into a scratch folder."""
    folder = scratch()
    for stem, stored in files.items():
        entry = _dictionary(stored)
        name, content = f"{stem}{entry.get('file_extension')}", entry.get("content")
        if name in FILES and isinstance(content, dict):
            write_json(folder / name, content)
        elif name in FILES and isinstance(content, list):
            write_text(folder / name, "\n".join(map(str, content)))
    return folder if (folder / "tokenizer.json").is_file() else None


def _dictionary(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


FORMAT = Format(SavedFile(holds, read))
