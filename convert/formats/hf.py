"""Hugging Face folders: `config.json`, weights (`convert.formats.hf_weights`) and tokenizer.

`convert.names.hf_architectures` says which architectures, and their tensors' names. RoBERTa's single token-type row is added to every
token; where it is all zero the native model leaves it out.
"""

import atexit
import gc
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biomlm.convert import model_card
from biomlm.convert.checks.heads import Head, class_of, present
from biomlm.convert.checks.models import HuggingFace
from biomlm.convert.checks.tokenizers import TransformersRule, by_transformers
from biomlm.convert.formats import hf_weights
from biomlm.convert.formats.base import Folder, Format, Library, Target, copy_tokenizer
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint, TokenRule, sane
from biomlm.convert.names import hf_architectures, hf_config
from biomlm.convert.names.heads import HEAD_FACTS
from biomlm.convert.names.table import BIAS, FRONT, TYPES, WORDS, Stacked, common_dtype, from_native, to_native
from biomlm.convert.safe_load.archive import scratch
from biomlm.core.errors import CheckpointError, MismatchError, kind
from biomlm.core.files import read_json, write_json
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import SILENT
from biomlm.tokenizer.formats import vocab_txt
from biomlm.tokenizer.formats.folder import Tokenizer

CONFIG = "config.json"
SUFFIXES = (".json", ".safetensors", ".bin")
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either will do
HEADS = "classification_heads."
VOCABULARY, SETTINGS = "vocab.txt", "tokenizer_config.json"  # all that the first BERTs have
LABELS = ("id2label", "classifier_pooling")
POOLINGS = ("cls", "mean")
PROBLEMS = ("single_label_classification", "multi_label_classification", "regression")
LAST = (".out_proj.bias", ".classifier.bias")
WITH_HEAD = ("ForMaskedLM", "ForPreTraining", "LMHeadModel")


def detect(path: Path) -> bool:
    """Return whether this is a Hugging Face model folder."""
    return path.is_dir() and (path / CONFIG).is_file()


def read(path: Path) -> SourceCheckpoint:
    """Read a folder.

    Raises:
        CheckpointError: Another architecture, or tensors that do not fit it.
        UnsafeFileError: An old `.bin` that wants to run code.
    """
    raw = read_json(path / CONFIG, remedy="Give a folder that `save_pretrained` wrote.")
    encoder_config(raw, path / CONFIG)  # another architecture is named before its weights are looked for
    weights, tensors = hf_weights.read(path)
    return from_tensors(path, raw, tensors, weights)


def from_tensors(path: Path, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], weights: Path) -> SourceCheckpoint:
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
    architecture = hf_architectures.BY_SHAPE[config.shape]
    alone = not any(name.startswith(architecture.prefix) for name in tensors)
    prefix = architecture.prefix if alone else ""
    renamed = {prefix + re.sub(r"LayerNorm\.(gamma|beta)$", _leaf, name): value for name, value in tensors.items()}
    has_head = _names_head(raw) or architecture.table.foreign_names(BIAS)[0] in renamed
    native, extra = to_native(architecture.table, renamed, config, weights, has_head)
    if config.type_vocab_size == 1 and not native[TYPES].any():
        del native[TYPES]
        config = replace(config, type_vocab_size=0)
    facts: dict[str, Any] = {"dtype": common_dtype(native), "architectures": raw.get("architectures")}
    facts |= {name: raw[name] for name in (*LABELS, *HEAD_FACTS) if name in raw}
    _check_labels(facts, extra, path / CONFIG)
    tokenizer_dir, rule = _tokenizer(path, config.max_positions, architecture.model_type)
    return SourceCheckpoint("hf", config, native, weights, extra, tokenizer_dir, facts, has_head, token_rule=rule)


def _names_head(raw: Mapping[str, Any]) -> bool:
    """Return whether `config.json` names a class with a masked-LM head; one that is missing then is a fault."""
    stated = raw.get("architectures")
    return isinstance(stated, list) and any(str(name).endswith(WITH_HEAD) for name in stated)


def _tokenizer(path: Path, model_max_length: int, model_type: str) -> tuple[Path | None, TokenRule | None]:
    """Return the folder itself if its tokenizer is whole, or one made of `vocab.txt`, and transformers' reading; None without either."""
    if any(all((path / name).is_file() for name in names) for names in TOKENIZERS):
        return path, TransformersRule(path, model_type)
    if not (path / VOCABULARY).is_file():
        return None, None
    stated = read_json(path / SETTINGS) if (path / SETTINGS).is_file() else None
    folder = scratch()
    loaded = vocab_txt.write_folder(path / VOCABULARY, folder, model_max_length=model_max_length, settings=stated)
    return folder, TransformersRule(path, model_type, cased=not loaded.settings["do_lower_case"])


def _check_labels(facts: Mapping[str, Any], extra_tensors: Mapping[str, Tensor], file: Path) -> None:
    """Refuse what says of a head what it is not.

    Raises:
        CheckpointError: `id2label` is no table of numbers to names of one line, one for each output; or there is no such pooling or kind
            of problem.
    """
    labels = facts.get("id2label", {})
    named = isinstance(labels, dict) and all(
        isinstance(name, str) and len(name.splitlines()) <= 1 for name in labels.values()
    )
    problem = (
        ""
        if named and sorted(labels) == sorted(map(str, range(len(labels))))
        else "its id2label does not number labels"
    )
    rows = {head.classes for head in present(extra_tensors, facts) if head.kind in ("sequence", "tokens")}
    if not problem and labels and rows and rows != {len(labels)}:
        problem = f"its id2label names {len(labels)} labels, and its classifier has {min(rows)} outputs"
    for name, known in (("classifier_pooling", POOLINGS), ("problem_type", PROBLEMS)):
        if not problem and facts.get(name) not in (None, *known):
            problem = f"its {name} is none of {', '.join(known)}"
    if problem:
        raise CheckpointError(problem, file=file, remedy="Mend or remove it.")


def _leaf(match: re.Match[str]) -> str:
    """Give today's name of a layer-norm's parameter; the first BERT of PyTorch kept TensorFlow's names."""
    return "LayerNorm.weight" if match[1] == "gamma" else "LayerNorm.bias"


def encoder_config(raw: Mapping[str, Any], file: Path) -> EncoderConfig:
    """Read the encoder's shape from `config.json`.

    Raises:
        CheckpointError: It is no architecture of ours, or one that computes something else.
    """
    architecture = hf_config.of(raw, file)
    try:
        config = EncoderConfig(**hf_config.fields(architecture, raw))
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # a ConfigError is a ValueError
        raise CheckpointError(
            f"a size of the model is missing or wrong ({getattr(error, 'problem', kind(error))})",
            file=file,
            remedy="Get the whole folder again.",
        ) from None
    return sane(config, file)


def refuse(source: SourceCheckpoint) -> None:
    """Refuse a model with more classification heads than a folder holds.

    Raises:
        MismatchError: There are several.
    """
    heads = sorted({name.split(".")[1] for name in source.extra_tensors if name.startswith(HEADS)})
    if len(heads) > 1:
        raise MismatchError(
            f"it has {len(heads)} classification heads ({', '.join(heads)}), and a Hugging Face folder holds one",
            file=source.weights,
            remedy="Convert to native, or remove all but one.",
        )


def has_place(name: str, config: EncoderConfig) -> bool:
    """Return whether a folder stores a tensor of `extra_tensors`."""
    architecture = hf_architectures.BY_SHAPE[config.shape]
    if name == FRONT:
        return architecture.table.behind_padding
    return name.startswith((HEADS, *architecture.extra_names))


def write(source: SourceCheckpoint, folder: Path, dtype: torch.dtype) -> list[Path]:
    """Write `config.json` and `model.safetensors` into a folder that is not in place yet; their paths.

    Tokenizer pieces that the model has no id for (`Tokenizer.outside`) get rows of their own behind the others: the unknown token's
    embedding, and a bias that keeps them from being predicted.
    """
    architecture = hf_architectures.BY_SHAPE[source.config.shape]
    front = source.config.pad_token_id + 1 if architecture.table.behind_padding else 0
    native = Stacked(source.tensors)
    tokenizer = source.tokenizer
    extra = max(0, tokenizer.vocab_size + tokenizer.outside - source.config.vocab_size) if tokenizer else 0
    if tokenizer and extra:
        words = native[WORDS]
        native[WORDS] = torch.cat([words, words[tokenizer.ids.unk].expand(extra, -1)])
        if source.has_head:
            native[BIAS] = torch.cat([native[BIAS], native[BIAS].new_full((extra,), SILENT)])
    if not source.config.type_vocab_size and architecture.has_types:
        native[TYPES] = torch.zeros(1, source.config.hidden_size)
    tensors = from_native(architecture.table, native, source.extra_tensors, front) | _extra_tensors(source)
    if all(name.startswith(architecture.prefix) for name in tensors):
        tensors = {name.removeprefix(architecture.prefix): value for name, value in tensors.items()}
    config = replace(source.config, vocab_size=len(native[WORDS]))
    stated = hf_config.keys(config) | _classes(source) | _ids(source, tokenizer) | _labels(source) | _dtype(dtype)
    write_json(folder / CONFIG, stated)
    return [folder / CONFIG, *hf_weights.write(folder, tensors, dtype)]


def _extra_tensors(source: SourceCheckpoint) -> dict[str, Tensor]:
    """Give the pooler, the next-sentence head and the classification head, under the names of transformers' classes."""
    extra_tensors = _as_choice(source)
    tensors = {
        name.replace(neutral, own, 1): extra_tensors[name]
        for neutral, own in hf_architectures.BY_SHAPE[source.config.shape].extra_names.items()
        for name in extra_tensors
        if name.startswith(neutral)
    }
    return tensors | {
        f"classifier.{name.split('.', 2)[2]}": value for name, value in extra_tensors.items() if name.startswith(HEADS)
    }


def _as_choice(source: SourceCheckpoint) -> dict[str, Tensor]:
    """Give RoBERTa's classification head the names of a pooler and one layer, which compute the same, where it scores choices.

    transformers' RobertaForMultipleChoice has those.
    """
    choosing = [head.module for head in _heads(source) if head.kind == "multiple_choice"]
    renamed = {
        f"{module}.{old}.{leaf}": f"{new or module}.{leaf}"
        for module in choosing
        for old, new in (("dense", "pooler.dense"), ("out_proj", ""))
        for leaf in ("weight", "bias")
    }
    return {renamed.get(name, name): tensor for name, tensor in source.extra_tensors.items()}


def _heads(source: SourceCheckpoint) -> list[Head]:
    kept = {name: tensor for name, tensor in source.extra_tensors.items() if has_place(name, source.config)}
    return present(kept, source.facts)


def _classes(source: SourceCheckpoint) -> dict[str, list[str]]:
    """Name the class for the model: its classifier's, else its masked-LM head's, else the encoder's."""
    architecture = hf_architectures.BY_SHAPE[source.config.shape]
    return {"architectures": [class_of(_heads(source), architecture, has_head=source.has_head)]}


def _labels(source: SourceCheckpoint) -> dict[str, Any]:
    """Give the labels' names and their kind; where the source has no names, numbers, by which transformers counts the labels."""
    rows = next((len(value) for name, value in source.extra_tensors.items() if name.endswith(LAST)), 0)
    stated = {name: source.facts[name] for name in LABELS if name in source.facts}
    stated |= source.head_facts  # without a problem_type transformers guesses softmax, and a sigmoid for one output
    if rows and "id2label" not in stated:
        stated["id2label"] = {str(i): f"LABEL_{i}" for i in range(rows)}
    if "id2label" in stated:
        stated["label2id"] = {name: int(i) for i, name in stated["id2label"].items()}
    return stated


def _ids(source: SourceCheckpoint, tokenizer: Tokenizer | None) -> dict[str, int]:
    """Give special ids as `config.json` names them; without a tokenizer, the usual ones."""
    architecture = hf_architectures.BY_SHAPE[source.config.shape]
    if tokenizer is None:
        return dict(architecture.usual_ids)
    return {key: getattr(tokenizer.ids, role) for key, role in architecture.special_ids.items()}


def _dtype(dtype: torch.dtype) -> dict[str, str]:
    return {"torch_dtype": str(dtype).removeprefix("torch.")}


def write_tokenizer(source: SourceCheckpoint, folder: Path) -> None:
    """Write the tokenizer, so that it reads words as the model does."""
    copy_tokenizer(source, folder)
    if source.word_state:
        _cut_as_trained(folder, source.word_state, has_types=source.config.type_vocab_size > 1)
    elif source.reads_words:
        _set_prefix_space(folder)


def _cut_as_trained(folder: Path, state: Mapping[str, Any], *, has_types: bool) -> None:
    """Write `tokenizer.json`, and the class that reads all of it: those of one kind make their own splitting from the vocabulary."""
    settings = folder / SETTINGS
    names = ["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"]
    stated = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names, "add_prefix_space": True}
    write_json(settings, read_json(settings) | stated)
    (folder / "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False, indent=2), encoding="utf-8")


def _set_prefix_space(folder: Path) -> None:
    """Make byte-level BPE read a text's first word like the others, with a blank in front, in each of its files."""
    settings, file = folder / SETTINGS, folder / "tokenizer.json"
    write_json(settings, read_json(settings) | {"add_prefix_space": True})
    if file.exists():
        state: dict[str, Any] = read_json(file)
        for part in (state["pre_tokenizer"], state["post_processor"] or {}):
            if "add_prefix_space" in part:
                part["add_prefix_space"] = True
        file.write_text(json.dumps(state, ensure_ascii=False, indent=2), encoding="utf-8")


def _preload() -> None:
    """Import the parts of transformers that take seconds."""
    from transformers import AutoTokenizer, PreTrainedModel  # noqa: F401

    atexit.register(gc.freeze)  # or the collector goes through all of it once more when the program ends, for 0.4 s


FORMAT = Format(
    Folder(detect, read, SUFFIXES),
    Target(
        write=write,
        refuse=refuse,
        has_place=has_place,
        head_activation=hf_config.head_activation,
        write_tokenizer=write_tokenizer,
        token_ids=by_transformers,
        reads_words=True,
        library=Library(
            preload=_preload,
            reads=lambda source: source.weights.name == hf_weights.SAFETENSORS,
            load=lambda source, dtype: HuggingFace(source.weights.parent, source.config, source.has_head, dtype),
        ),
        card=model_card.write,
    ),
)
