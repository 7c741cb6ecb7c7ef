"""Hugging Face folders of RoBERTa: `config.json` and `model.safetensors` or the older `pytorch_model.bin`, whole or in shards.

The names are those of transformers' `RobertaForMaskedLM`. Its positions begin at row pad + 1; its single token-type row is
added to every token, and where it is all zero the native model leaves it out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from biolm.convert import names, torchfile
from biolm.convert.names import TYPES, Table, common_dtype, from_native, to_native
from biolm.convert.parts import Parts, sane
from biolm.core.checkpoint import save_tensors
from biolm.core.errors import CheckpointError, ConfigError, MismatchError
from biolm.core.files import atomic_file, read_json, write_json
from biolm.model.config import EncoderConfig
from biolm.tokenizer import folder as tokenizer_folder

CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
BIN = "pytorch_model.bin"
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either will do
HEADS = "classification_heads."
LABELS = ("id2label", "label2id", "problem_type")
UNKNOWN = 3  # <unk> of RoBERTa's vocabularies
NEVER = -1e4  # a logit that no softmax notices, and that float16 can hold

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
        r"classifier(\.dense|\.out_proj)?": r"classification_heads.classifier\1",
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
    encoder_config(raw, path / CONFIG)  # another architecture is named before its weights are looked for
    weights, tensors = _tensors(path)
    return parts_of(path, raw, tensors, weights)


def has_weights(path: Path) -> bool:
    """Whether weights lie in a folder in one of Hugging Face's files."""
    return any((path / f"{name}{end}").is_file() for name in (SAFETENSORS, BIN) for end in ("", ".index.json"))


def parts_of(path: Path, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], weights: Path) -> Parts:
    """Translate tensors under transformers' names.

    Args:
        path: The folder, for its tokenizer.
        raw: Its `config.json`.
        tensors: All of the model's.
        weights: The file that they came from.

    Raises:
        CheckpointError: Another architecture, or tensors that do not fit it.
    """
    config = encoder_config(raw, path / CONFIG)
    native, rest = to_native(TABLE, tensors, config, weights)
    if config.type_vocab_size == 1 and not native[TYPES].any():
        del native[TYPES]
        config = EncoderConfig(**{**vars(config), "type_vocab_size": 0})
    facts: dict[str, Any] = {"dtype": common_dtype(native), "architectures": raw.get("architectures")}
    facts |= {name: raw[name] for name in LABELS if name in raw}
    if not _sensible(facts.get("id2label", {})):
        raise CheckpointError("its id2label does not number labels", file=path / CONFIG, remedy="Mend or remove it.")
    tokenizer = path if any(all((path / name).is_file() for name in names) for names in TOKENIZERS) else None
    return Parts("hf", config, native, weights, rest, tokenizer, facts)


def _sensible(labels: Any) -> bool:
    """Whether this is a table of numbers to names of one line."""
    return isinstance(labels, dict) and all(
        number.isdecimal() and isinstance(name, str) and len(name.splitlines()) <= 1 for number, name in labels.items()
    )


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
        config = EncoderConfig(
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
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f"a size of the model is missing or wrong ({error})".replace("\n", " "),
            file=file,
            remedy="Get the whole folder again.",
        ) from None
    return sane(config, file)


def _tensors(path: Path) -> tuple[Path, dict[str, Tensor]]:
    """The weights, from whichever files there are, and the first of those."""
    for name, reader in ((SAFETENSORS, read_safetensors), (BIN, read_bin)):
        files = [path / name] if (path / name).is_file() else _shards(path / f"{name}.index.json")
        if files:
            tensors: dict[str, Tensor] = {}
            for file in files:
                tensors |= reader(file)
            return files[0], tensors
    raise CheckpointError(
        f"there is neither {SAFETENSORS} nor {BIN} in this folder", file=path, remedy="Get the weights as well."
    )


def _shards(index: Path) -> list[Path]:
    """The files that an index names, each inside the index's folder; none if there is no index."""
    if not index.is_file():
        return []
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("the index has no weight_map", file=index, remedy="Get the whole folder again.")
    return [index.parent / Path(name).name for name in sorted(set(weight_map.values()))]


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


def read_bin(file: Path) -> dict[str, Tensor]:
    """The tensors of one file of `torch.save`.

    Raises:
        UnsafeFileError: It wants to run code.
        CheckpointError: It is damaged, or no dictionary of tensors.
    """
    state = torchfile.load(file)
    if not isinstance(state, dict):
        raise CheckpointError("this holds no tensors by name", file=file, remedy="Get the file again.")
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


(WORDS,), (BIAS,) = (TABLE.foreign(name) for name in (names.WORDS, names.BIAS))


def write(parts: Parts, folder: Path, dtype: torch.dtype) -> list[Path]:
    """Write `config.json` and `model.safetensors` into a folder; their paths.

    Tokenizer pieces that the model has no id for (`Tokenizer.outside`) get rows of their own behind the others: the unknown token's
    embedding, and a bias that keeps them from being predicted.
    """
    tensors = from_native(TABLE, parts.tensors, parts.rest, front=parts.config.pad_token_id + 1)
    extra = _outside(parts)
    if extra:
        words, bias = tensors[WORDS], tensors[BIAS]
        tensors[WORDS] = torch.cat([words, words[UNKNOWN].expand(extra, -1)])
        tensors[BIAS] = torch.cat([bias, bias.new_full((extra,), NEVER)])
    if not parts.config.type_vocab_size:
        tensors[TABLE.foreign(TYPES)[0]] = torch.zeros(1, parts.config.hidden_size)
    tensors |= _rest(parts)
    write_json(folder / CONFIG, config_json(parts, tensors[WORDS].shape[0], dtype))
    with atomic_file(folder / SAFETENSORS) as tmp:
        save_tensors(tmp, {name: value.to(dtype) for name, value in tensors.items()}, {"format": "pt"})
    return [folder / CONFIG, folder / SAFETENSORS]


def _rest(parts: Parts) -> dict[str, Tensor]:
    """The pooler and the classification head, under the names of RobertaForSequenceClassification.

    Raises:
        MismatchError: There are several heads.
    """
    heads = sorted({name.split(".")[1] for name in parts.rest if name.startswith(HEADS)})
    if len(heads) > 1:
        raise MismatchError(
            f"it has {len(heads)} classification heads ({', '.join(heads)}), and a Hugging Face folder holds one",
            file=parts.weights,
            remedy="Convert to native, or remove all but one.",
        )
    tensors = {f"roberta.{name}": value for name, value in parts.rest.items() if name.startswith("pooler.")}
    return tensors | {
        f"classifier.{name.split('.', 2)[2]}": value for name, value in parts.rest.items() if name.startswith(HEADS)
    }


def _labels(parts: Parts) -> dict[str, Any]:
    """The classes' names; where the source has none, their numbers, from which transformers knows how many there are."""
    rows = next((len(value) for name, value in parts.rest.items() if name.endswith(".out_proj.bias")), 0)
    stated = {name: parts.facts[name] for name in LABELS if name in parts.facts}
    return stated or ({"id2label": {str(i): f"LABEL_{i}" for i in range(rows)}} if rows else {})


def _outside(parts: Parts) -> int:
    """Ids of the tokenizer beyond the model's."""
    if parts.tokenizer_dir is None:
        return 0
    loaded = tokenizer_folder.load(parts.tokenizer_dir)
    return max(0, loaded.vocab_size + loaded.outside - parts.config.vocab_size)


def config_json(parts: Parts, rows: int, dtype: torch.dtype) -> dict[str, Any]:
    """`config.json` for transformers' RobertaForMaskedLM; `rows` of the embeddings."""
    config = parts.config
    return {
        "architectures": ["RobertaForMaskedLM"],
        "model_type": "roberta",
        "vocab_size": rows,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions + config.pad_token_id + 1,
        "type_vocab_size": max(1, config.type_vocab_size),
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.hidden_dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "layer_norm_eps": config.layer_norm_eps,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
        "torch_dtype": str(dtype).removeprefix("torch."),
        **_labels(parts),
    }
