"""Hugging Face folders of RoBERTa: `config.json` and `model.safetensors` (whole or in shards) or the older `pytorch_model.bin`.

The names are those of transformers' `RobertaForMaskedLM`. Its positions begin at row pad + 1; its single token-type row is
added to every token, and where it is all zero the native model leaves it out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from biolm.convert.names import TYPES, Table, to_native
from biolm.convert.parts import Parts
from biolm.core.errors import CheckpointError
from biolm.core.files import read_json
from biolm.model.config import EncoderConfig

CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
BIN = "pytorch_model.bin"
TOKENIZER = "tokenizer.json"

TABLE = Table(
    modules={
        "encoder.word_embeddings": ("roberta.embeddings.word_embeddings",),
        "encoder.position_embeddings": ("roberta.embeddings.position_embeddings",),
        "encoder.token_type_embeddings": ("roberta.embeddings.token_type_embeddings",),
        "encoder.embedding_norm": ("roberta.embeddings.LayerNorm",),
        "encoder.layers.*.attention.qkv": (
            "roberta.encoder.layer.*.attention.self.query",
            "roberta.encoder.layer.*.attention.self.key",
            "roberta.encoder.layer.*.attention.self.value",
        ),
        "encoder.layers.*.attention.out": ("roberta.encoder.layer.*.attention.output.dense",),
        "encoder.layers.*.attention_norm": ("roberta.encoder.layer.*.attention.output.LayerNorm",),
        "encoder.layers.*.mlp.up": ("roberta.encoder.layer.*.intermediate.dense",),
        "encoder.layers.*.mlp.down": ("roberta.encoder.layer.*.output.dense",),
        "encoder.layers.*.mlp_norm": ("roberta.encoder.layer.*.output.LayerNorm",),
        "head.dense": ("lm_head.dense",),
        "head.norm": ("lm_head.layer_norm",),
        "head": ("lm_head",),
    },
    tied={"lm_head.decoder.weight": "encoder.word_embeddings.weight", "lm_head.decoder.bias": "head.bias"},
    rest={
        r"roberta\.pooler\.dense": "pooler.dense",
        r"classifier\.(dense|out_proj)": r"classification_heads.classifier.\1",
        r"classification_heads\.(\w+)\.(dense|out_proj)": r"classification_heads.\1.\2",
    },
    ignored={r"roberta\.embeddings\.(position_ids|token_type_ids)": lambda _: True},
)


def detect(path: Path) -> bool:
    """Whether this is a Hugging Face model folder."""
    return path.is_dir() and (path / CONFIG).is_file()


def read(path: Path) -> Parts:
    """Read a folder.

    Raises:
        CheckpointError: Another architecture, or tensors that do not fit it.
        UnsafeFileError: An old `.bin` that wants to run code.
    """
    raw = read_json(path / CONFIG, remedy="Give a folder that `save_pretrained` wrote.")
    config = encoder_config(raw, path / CONFIG)
    weights, tensors = _tensors(path)
    native, rest = to_native(TABLE, tensors, config, weights)
    if config.type_vocab_size == 1 and not native[TYPES].any():
        del native[TYPES]
        config = EncoderConfig(**{**vars(config), "type_vocab_size": 0})
    facts: dict[str, Any] = {"dtype": _dtype(native), "architectures": raw.get("architectures")}
    facts |= {name: raw[name] for name in ("id2label", "label2id", "problem_type") if name in raw}
    tokenizer = path if (path / TOKENIZER).is_file() else None
    return Parts("hf", config, native, weights, rest, tokenizer, facts)


def encoder_config(raw: Mapping[str, Any], file: Path) -> EncoderConfig:
    """Read the encoder's shape from `config.json`.

    Raises:
        CheckpointError: It is not RoBERTa, or a RoBERTa that computes something else.
    """
    wanted: dict[str, tuple[Any, ...]] = {
        "model_type": ("roberta",),
        "hidden_act": ("gelu", None),
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
        "tie_word_embeddings": (True, None),
    }
    for name, accepted in wanted.items():
        if raw.get(name) not in accepted:
            raise CheckpointError(
                f"{name} is {raw.get(name)!r}; only {accepted[0]!r} can be read",
                file=file,
                remedy="Give an encoder of RoBERTa's architecture.",
            )
    pad = raw.get("pad_token_id", 1)
    try:
        return EncoderConfig(
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            num_hidden_layers=raw["num_hidden_layers"],
            num_attention_heads=raw["num_attention_heads"],
            intermediate_size=raw["intermediate_size"],
            max_positions=raw["max_position_embeddings"] - pad - 1,
            type_vocab_size=raw.get("type_vocab_size", 1),
            hidden_dropout=raw.get("hidden_dropout_prob", 0.1),
            attention_dropout=raw.get("attention_probs_dropout_prob", 0.1),
            layer_norm_eps=raw.get("layer_norm_eps", 1e-12),
            initializer_range=raw.get("initializer_range", 0.02),
            pad_token_id=pad,
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"a size of the model is missing or no number ({error})", file=file, remedy="Get the whole folder again."
        ) from None


def _tensors(path: Path) -> tuple[Path, dict[str, Tensor]]:
    """The weights, from whichever files there are, and the first of those."""
    for name in (SAFETENSORS, f"{SAFETENSORS}.index.json"):
        if (path / name).is_file():
            files = [path / SAFETENSORS] if name == SAFETENSORS else _shards(path / name)
            tensors: dict[str, Tensor] = {}
            for file in files:
                tensors |= read_safetensors(file)
            return files[0], tensors
    raise CheckpointError(
        f"there is neither {SAFETENSORS} nor {BIN} in this folder", file=path, remedy="Get the weights as well."
    )


def _shards(index: Path) -> list[Path]:
    """The files that an index names, each inside the index's folder."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError("the index has no weight_map", file=index, remedy="Get the whole folder again.")
    return [index.parent / Path(name).name for name in sorted(set(names.values()))]


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of one file, mapped into memory rather than read.

    Raises:
        CheckpointError: It is missing, truncated or something else.
    """
    try:
        return load_file(file)
    except (SafetensorError, FileNotFoundError) as error:
        raise CheckpointError(
            f"this is not a whole safetensors file ({error})", file=file, remedy="Get it again."
        ) from None


def _dtype(tensors: Mapping[str, Tensor]) -> str:
    return str(next(iter(tensors.values())).dtype).removeprefix("torch.")
