"""fairseq's RoBERTa checkpoints, 0.6 to 0.12 and its forks: read from `.pt`, written so that the real fairseq loads them, 0.10 as well.

`convert.names.fairseq` has the names of the tensors, `convert.names.fairseq_settings` those of the settings. It is recognised last, as
whatever file no other format knows; reading refuses the rest.
"""

import errno
import os
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biomlm.convert.checks.fairseq_reference import FairseqFiles
from biomlm.convert.checks.tokenizers import TransformersRule
from biomlm.convert.formats.base import Format, SavedFile, Target
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint, TokenRule
from biomlm.convert.names import fairseq_settings
from biomlm.convert.names.fairseq import ARCHITECTURES, E_, HEADS, TABLES, VERSION, aged, modern
from biomlm.convert.names.fairseq_settings import EPS, PAD, encoder_config, refused
from biomlm.convert.names.table import (
    FRONT,
    POSITIONS,
    TYPES,
    Stacked,
    common_dtype,
    from_native,
    to_native,
)
from biomlm.convert.safe_load.archive import scratch
from biomlm.convert.safe_load.unpickle import entries
from biomlm.core.errors import MismatchError
from biomlm.core.files import write_text
from biomlm.model.config import EncoderConfig
from biomlm.tokenizer.formats import consistency, fairseq_folder
from biomlm.tokenizer.formats import folder as tokenizer_folder
from biomlm.tokenizer.formats.fairseq import FILES as TOKENIZER_FILES
from biomlm.tokenizer.formats.fairseq import order, read_dict, read_vocab
from biomlm.tokenizer.formats.folder import Tokenizer

PAIR = ("vocab.json", "merges.txt")
FILE = "model.pt"
HEAD_NAMES = r"classification_heads\.\w+\.(dense|out_proj)\.(weight|bias)"
LABELS = Path("label", "dict.txt")
PADDING = r"madeupword\d+"
# What `checkpoint_utils._upgrade_state_dict` asks of every checkpoint.
HISTORY = {"criterion_name": "MaskedLmLoss", "optimizer_name": "FairseqAdam", "lr_scheduler_state": {"best": None}}

# Settings of the training that a model card may show; others (paths above all) stay where they are.
TASK = ("arch", "task", "sample_break_mode", "tokens_per_sample", "mask_prob", "dropout", "attention_dropout", "seed")
OPTIMISER = ("max_update", "warmup_updates", "weight_decay", "adam_betas", "adam_eps", "clip_norm", "fp16", "bf16")


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
        raise refused(file, f"this holds no fairseq model, but {_contents(state)}", remedy)
    tensors = modern({k: v for k, v in state["model"].items() if isinstance(v, Tensor)})
    settings = fairseq_settings.flat(state)
    config = encoder_config(tensors, settings, file)
    native, extra = to_native(TABLES[config.shape], tensors, config, file)
    facts: dict[str, Any] = {"dtype": common_dtype(native)}
    facts["settings"] = {k: settings[k] for k in (*TASK, *OPTIMISER) if isinstance(settings.get(k), (str, int, float))}
    facts |= _labels(file.parent / LABELS, extra, settings)
    history = state.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else None
    if isinstance(last, dict) and isinstance(last.get("num_updates"), int):
        facts["updates"] = last["num_updates"]
    beside = _tokenizer([*([tokenizer] if tokenizer else []), file.parent], config, file)
    place, loaded, rule = beside or (tokenizer, None, None)
    mean = _running_mean(state)
    averaged = (lambda: read({**state, "model": mean, "extra_state": None}, file, tokenizer)) if mean else None
    return SourceCheckpoint(
        "fairseq", config, native, file, extra, place, facts, tokenizer=loaded, token_rule=rule, averaged=averaged
    )


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


def _tokenizer(folders: list[Path], config: EncoderConfig, file: Path) -> tuple[Path, Tokenizer, TokenRule] | None:
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
        loaded = fairseq_folder.from_fairseq(dict_txt, encoder_json, vocab_bpe, target, config.max_positions)
        return target, loaded, FairseqFiles(dict_txt, encoder_json, vocab_bpe, is_gpt2=True)
    pair = next((f for f in folders if all((f / name).is_file() for name in PAIR)), None)
    if dict_txt and pair:
        return _numbered(dict_txt, pair, config)
    return _given(folders[:-1], dict_txt, config, file)


def _numbered(dict_txt: Path, bpe: Path, config: EncoderConfig) -> tuple[Path, Tokenizer, TokenRule]:
    """Make a tokenizer folder of a dictionary and what Hugging Face's libraries read as a byte-level BPE."""
    target = scratch()
    loaded = fairseq_folder.from_dictionary(dict_txt, bpe, target, config.max_positions)
    vocab_json, merges_txt = (bpe / name for name in PAIR)
    if vocab_json.is_file() and any(loaded.hf.token_to_id(piece) != i for piece, i in read_vocab(vocab_json).items()):
        return target, loaded, FairseqFiles(dict_txt, vocab_json, merges_txt, is_gpt2=False)
    return target, loaded, TransformersRule(bpe, "roberta")


def _given(
    folders: list[Path], dict_txt: Path | None, config: EncoderConfig, file: Path
) -> tuple[Path, Tokenizer, TokenRule] | None:
    """Load the tokenizer folder given, whose ids must be the model's."""
    if not folders or not tokenizer_folder.is_folder(folders[0]):
        return None
    loaded = tokenizer_folder.load(folders[0])
    if dict_txt and tokenizer_folder.is_byte_level(loaded):
        return _numbered(dict_txt, folders[0], config)
    if dict_txt:
        consistency.check_dictionary(dict_txt, loaded.hf)
    elif tokenizer_folder.in_order_of_learning(loaded):
        raise MismatchError(
            f"the pieces of {folders[0]} are numbered as they were learnt, fairseq's by a dictionary, and there is no dict.txt",
            file=file,
            remedy="Put the dictionary that the model was trained with beside it, or into the tokenizer's folder.",
        )
    return folders[0], loaded, TransformersRule(folders[0], "roberta")


def write(source: SourceCheckpoint, folder: Path, dtype: torch.dtype) -> list[Path]:
    """Write `model.pt` into a folder that is not in place yet, and `label/dict.txt` if it has a classification head; their paths.

    Token types, which fairseq's RoBERTa lacks, are added to the positions.
    """
    native = Stacked(source.tensors)
    types = native.pop(TYPES, None)
    if types is not None and types[0].any():
        native[POSITIONS] = native[POSITIONS] + types[0]
    tensors = from_native(TABLES[source.config.shape], native, source.extra_tensors, front=PAD + 1)
    tensors |= {name: value for name, value in source.extra_tensors.items() if name.startswith(HEADS)}
    tensors = {name: _own(value.to(dtype)) for name, value in tensors.items()}
    tensors["encoder.lm_head.weight"] = tensors[f"{E_}.embed_tokens.weight"]
    tensors = tensors | {VERSION: torch.tensor([3.0])} if source.config.pre_norm else aged(tensors)
    state: dict[str, Any] = {
        "args": Namespace(**fairseq_settings.of(source.config)),
        "cfg": None,  # 0.10 and later make it from `args`, which every version reads
        "model": tensors,
        "optimizer_history": [HISTORY | {"num_updates": source.facts.get("updates") or source.facts.get("step") or 0}],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
    }
    _save(state, folder / FILE)
    labels = source.facts.get("id2label")
    if not isinstance(labels, dict) or not any(name.startswith(HEADS) for name in source.extra_tensors):
        return [folder / FILE]
    write_text(folder / LABELS, "".join(f"{labels[i]} 1\n" for i in sorted(labels, key=int)))
    return [folder / FILE, folder / LABELS]


def refuse(source: SourceCheckpoint) -> None:
    """Refuse what fairseq's RoBERTa lacks.

    Raises:
        MismatchError: The shape, the padding id, the norms' eps, the token types or a head are none of fairseq's.
    """
    config = source.config
    odd = [name for name in source.extra_tensors if name.startswith(HEADS) and not re.fullmatch(HEAD_NAMES, name)]
    lacks = {
        f"encoder of shape {config.shape}": config.shape not in ARCHITECTURES,
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


def _labels(file: Path, extra_tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read what a classification head's outputs are: their kind, and their names if `label/dict.txt` lies beside the checkpoint.

    fairseq pads a dictionary to a multiple of 8 with symbols that no label has (`Dictionary.pad_to_multiple_`).

    Raises:
        MismatchError: No head has as many outputs as there are names.
    """
    outputs = {len(tensor) for name, tensor in extra_tensors.items() if name.endswith(".out_proj.bias")}
    if not outputs:
        return {}
    regression = bool(settings.get("regression_target")) or outputs == {1}
    facts: dict[str, Any] = {"problem_type": "regression" if regression else "single_label_classification"}
    names = [name for name, _ in read_dict(file)] if file.is_file() else []
    names = [name for name in names if not re.fullmatch(PADDING, name)]
    if names and len(names) not in outputs:
        problem = f"it names {len(names)} labels, and the classification head has {min(outputs)} outputs"
        raise MismatchError(problem, file=file, remedy="Give the dictionary that the head was trained with.")
    return facts | ({"id2label": {str(i): name for i, name in enumerate(names)}} if names else {})


def write_tokenizer(source: SourceCheckpoint, folder: Path) -> None:
    """Write `dict.txt`, `encoder.json` and `vocab.bpe`.

    Raises:
        MismatchError: fairseq cannot have this tokenizer.
    """
    assert source.tokenizer_dir is not None
    for name, content in fairseq_folder.fairseq_files(source.tokenizer_dir).items():
        (folder / name).write_bytes(content)


def token_ids(_: Tokenizer, folder: Path, texts: Sequence[str]) -> list[list[int]]:
    """Give texts' ids by the three files."""
    dict_txt, encoder_json, vocab_bpe = (folder / name for name in TOKENIZER_FILES)
    return fairseq_folder.from_fairseq(dict_txt, encoder_json, vocab_bpe, scratch()).encode_batch(texts)


FORMAT = Format(
    SavedFile(lambda _: True, read),  # what is none of its checkpoints, it says
    Target(
        write=write,
        refuse=refuse,
        has_place=lambda name, _: name.startswith(HEADS) or name == FRONT,
        head_activation=lambda config: config.activation,
        cuts_rows=True,
        write_tokenizer=write_tokenizer,
        token_ids=token_ids,
    ),
)
