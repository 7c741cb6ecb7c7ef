"""`biomlm convert SRC DST --to …`: read a model of any kind, write it in another, compare the two, and only then put it in place."""

import gc
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biomlm.convert import model_card
from biomlm.convert.checks.heads import Head, demand_equal, demand_labels, demand_numbers, present
from biomlm.convert.checks.models import Computes, Ours
from biomlm.convert.checks.numerical import Differences, compare, record
from biomlm.convert.checks.tokenizers import Agreement, agree
from biomlm.convert.config import TOLERANCE, ConvertConfig, name_of
from biomlm.convert.formats.base import Target
from biomlm.convert.formats.registry import find
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.load import build, read_source
from biomlm.convert.names.table import BIAS, FRONT, WORDS, Stacked
from biomlm.core.errors import CheckpointError, ConfigError, DataError, MismatchError
from biomlm.core.files import atomic_dir, fsync_path, nothing, read_json, refuse_target, sha256, write_json
from biomlm.core.progress import progress
from biomlm.core.summary import summary
from biomlm.tokenizer.formats import folder as tokenizer_folder

RECORD = "conversion.json"


def run(config: ConvertConfig) -> None:
    """Convert each source.

    Raises:
        UserError: A source cannot be read, a target exists, or the two differ; nothing is written of that one, nor of those behind it.
    """
    gc.freeze()  # what torch's import made stays; to look through it again and again costs a conversion half a second
    each = [
        replace(config, src=src, dst=str(Path(config.dst) / name_of(src)), more=[])
        for src in (config.src, *config.more)
    ]
    for one in each if config.more else [config]:
        _refuse(one)
    for one in each if config.more else [config]:
        convert(one)


def convert(config: ConvertConfig) -> None:
    """Convert one source, check it, put it in place.

    Raises:
        UserError: It cannot be read, the target exists, or the two differ; nothing is written then.
    """
    src, dst = Path(config.src), Path(config.dst)
    source, taken = chosen(read_source(src, Path(config.tokenizer) if config.tokenizer else None), config)
    target = target_of(config.to)
    source, left_out = fitted(prepared(source, config, target), target)
    target.refuse(source)
    heads, carried = sorted_out(source, target)
    dtype = getattr(torch, source.facts["dtype"] if config.dtype == "source" else config.dtype)
    if config.dry_run:
        summary(
            f"biomlm convert: {src} → {dst}, nothing written",
            foreseen(source, config.to, heads, dtype, taken, left_out),
        )
        return
    with atomic_dir(dst) as folder, ThreadPoolExecutor(4) as threads:
        source_hash = threads.submit(sha256, source.weights)
        numbers = threads.submit(demand_numbers, source, src)
        imported = threads.submit(target.library.preload) if target.library else None
        written = write(source, target, folder, dtype)
        hashes = {path.relative_to(folder).as_posix(): threads.submit(sha256, path) for path in written}
        flushed = [threads.submit(fsync_path, path) for path in written]  # beside the check, which takes as long
        if imported:
            imported.result()
        words = target.reads_words and source.reads_words
        alone = replace(source, tensors={}, extra_tensors={})
        agreeing = threads.submit(agree, alone, folder, target.token_ids, words=words)
        recording = record(computed(source, dtype), source.config, source.tokenizer, heads)
        recording.demand_numbers(src)
        numbers.result()
        source = alone  # the target is loaded next, and both need not fit
        back = read_source(folder)
        demand_equal(carried, back.extra_tensors, dtype, src)
        demand_labels(heads, source.facts, back.facts, src)
        differences = compare(recording, written_model(target, back, dtype))
        differences.demand(TOLERANCE, src)
        agreement = agreeing.result()
        agreement.demand(src)
        account = accounted(source, config.to, differences, agreement) | {
            "weights": taken,
            "left_out": left_out,
            "source_sha256": source_hash.result(),
            "sha256": {name: digest.result() for name, digest in hashes.items()},
        }
        for done in flushed:
            done.result()
        write_json(folder / RECORD, account)
        if target.card:
            target.card(folder, source, account)
    summary(f"biomlm convert: {src} → {dst}", shown(account, differences, agreement))


def foreseen(
    source: SourceCheckpoint, to: str, heads: Sequence[Head], dtype: torch.dtype, taken: str, left_out: Sequence[str]
) -> dict[str, object]:
    """Give the rows of a dry run's summary."""
    pieces = [*Stacked(source.tensors).all_pieces, *source.extra_tensors.values()]
    numbers = sum(piece.numel() for piece in pieces)
    named = [head.module for head in heads]
    return {
        "from": source.kind,
        "to": to,
        "weights": taken,
        "shape": source.config.shape,
        "numbers": f"{numbers:,} in {str(dtype).removeprefix('torch.')}, {numbers * dtype.itemsize / 1e9:.2f} GB",
        "heads": ", ".join([*(["masked LM"] if source.has_head else []), *named]) or "none",
        "tokenizer": "written" if source.tokenizer else "none found: none would be written (--tokenizer)",
        "left out": ", ".join(left_out) or "nothing",
    }


def target_of(name: str) -> Target:
    """Find what it takes to write a format."""
    target = find(name).target
    assert target is not None, f"{name} is not written"
    return target


def chosen(source: SourceCheckpoint, config: ConvertConfig) -> tuple[SourceCheckpoint, str]:
    """Choose the weights asked for; the model with them, and which they are in words.

    Raises:
        CheckpointError: A running mean is asked for, and there is none.
    """
    if config.weights == "ema":
        if source.averaged is None:
            remedy = "Leave --weights out."
            raise CheckpointError("it holds no running mean (EMA) of its weights", file=source.weights, remedy=remedy)
        return replace(source.averaged(), averaged=None), "the running mean (EMA)"
    beside = "; their running mean (EMA) is there as well (--weights ema)" if source.averaged else ""
    return replace(source, averaged=None), f"as trained{beside}"


def shown(account: Mapping[str, Any], differences: Differences, agreement: Agreement) -> dict[str, object]:
    """Give the rows of the summary."""
    return {
        "from": account["source_kind"],
        "to": account["target_kind"],
        "weights": account["weights"],
        "texts compared": differences.texts,
        "largest difference of logits": differences.summary_text,
        "largest difference of hidden states": f"{max(differences.hidden):.2e}",
        **{f"largest difference of {name}": f"{value:.2e}" for name, value in differences.heads.items()},
        "left out": ", ".join(account["left_out"]) or "nothing",
        "sentences on which tokenizers agree": agreement.summary_text,
    }


def _refuse(config: ConvertConfig) -> None:
    """Refuse to write over anything but a conversion, over the source, or over the working directory.

    Raises:
        ConfigError: There is something at the target that may not be replaced.
    """
    target = Path(config.dst)
    working = Path.cwd().resolve()
    if target.resolve() in (working, *working.parents):
        raise ConfigError("this folder is or holds the one you work in", file=target, remedy="Give another DST.")
    refuse_target(
        target, [config.src, config.tokenizer], option="DST", ours=lambda place: nothing(place) or is_conversion(place)
    )
    if not nothing(target) and target.exists() and not config.override:
        raise ConfigError(f"{target} exists", remedy="Give another DST, or say --override to replace it.")


def is_conversion(place: Path) -> bool:
    """Return whether a folder holds an earlier conversion and nothing that was put there since."""
    if not (place / RECORD).is_file():
        return False
    listed = read_json(place / RECORD).get("sha256")
    written = {RECORD, model_card.NAME, *(listed if isinstance(listed, dict) else ())}
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if not path.is_dir()} <= written


def prepared(source: SourceCheckpoint, config: ConvertConfig, target: Target) -> SourceCheckpoint:
    """Load the tokenizer; cut rows that no token has, if asked to or if the format has none.

    Raises:
        DataError: They cannot be told apart without a tokenizer.
        MismatchError: The tokenizer has more ids than the model.
    """
    if source.tokenizer_dir is None:
        if config.rows == "cut":
            problem = "without a tokenizer nobody knows which rows to cut"
            raise DataError(problem, file=source.weights, remedy="Give --tokenizer.")
        return source
    tokenizer = source.tokenizer or tokenizer_folder.load(source.tokenizer_dir)
    source = padded_as(replace(source, tokenizer=tokenizer), tokenizer.ids.pad)
    ids = tokenizer.vocab_size
    if ids > source.config.vocab_size:
        raise MismatchError(
            f"the tokenizer has {ids} ids and the model {source.config.vocab_size} embeddings",
            file=source.weights,
            remedy="Give the tokenizer that the model was trained with.",
        )
    return cut_rows(source, ids) if config.rows == "cut" or target.cuts_rows else source


def padded_as(source: SourceCheckpoint, pad_token_id: int) -> SourceCheckpoint:
    """Set the padding id to the tokenizer's; no real token depends on it, unless the source counts positions from it.

    Raises:
        MismatchError: They are.
    """
    if source.config.pad_token_id == pad_token_id:
        return source
    if FRONT in source.extra_tensors:
        raise MismatchError(
            f"its padding id is {source.config.pad_token_id}, from which positions are counted, and the tokenizer's is {pad_token_id}",
            file=source.weights,
            remedy="Give the tokenizer that the model was trained with.",
        )
    return replace(source, config=replace(source.config, pad_token_id=pad_token_id))


def cut_rows(source: SourceCheckpoint, rows: int) -> SourceCheckpoint:
    """Keep only the first `rows` rows of the vocabulary."""
    cut: dict[str, Tensor] = {name: source.tensors[name][:rows] for name in (WORDS, BIAS) if name in source.tensors}
    tensors = Stacked(source.tensors)
    tensors.update(cut)
    return replace(source, tensors=tensors, config=replace(source.config, vocab_size=rows))


def fitted(source: SourceCheckpoint, target: Target) -> tuple[SourceCheckpoint, list[str]]:
    """Give the masked-LM head the activation that the format has for it (the two GELUs differ by 5e-4 at most). Return
    the model, and the names of this and of all else that the format has no place for.
    """
    config = source.config
    wanted = target.head_activation(config)
    left_out = sorted(name for name in source.extra_tensors if not target.has_place(name, config))
    if not source.has_head or wanted == config.head_activation:
        return source, left_out
    changed = replace(config, head_activation=wanted)
    change = f"the head's activation, {config.head_activation}: {wanted} instead"
    return replace(source, config=changed), [*left_out, change]


def sorted_out(source: SourceCheckpoint, target: Target) -> tuple[list[Head], dict[str, Tensor]]:
    """Sort the extra tensors that the format has a place for: the heads, and tensors that belong to none and compute nothing."""
    kept = {name: tensor for name, tensor in source.extra_tensors.items() if target.has_place(name, source.config)}
    heads = present(kept, source.facts)
    return heads, {n: t for n, t in kept.items() if not any(n.startswith(f"{head.module}.") for head in heads)}


def write(source: SourceCheckpoint, target: Target, folder: Path, dtype: torch.dtype) -> list[Path]:
    """Write weights, configuration and tokenizer; the files' paths."""
    tokenizer = write_tokenizer(source, target, folder)
    size = sum(piece.numel() for piece in Stacked(source.tensors).all_pieces) * dtype.itemsize
    with progress("write", size, "B") as bar:
        written = target.write(source, folder, dtype)
        bar.advance(size)
    return written + tokenizer


def write_tokenizer(source: SourceCheckpoint, target: Target, folder: Path) -> list[Path]:
    """Write the tokenizer's files as the format has them; their paths."""
    if source.tokenizer_dir is None:
        return []
    before = set(folder.rglob("*"))
    target.write_tokenizer(source, folder)
    return sorted(path for path in set(folder.rglob("*")) - before if path.is_file())


def written_model(target: Target, source: SourceCheckpoint, dtype: torch.dtype) -> Computes:
    """Load the target from the files just written, by a library of its own where there is one."""
    return target.library.load(source, dtype) if target.library else ours(source, None)


def computed(source: SourceCheckpoint, dtype: torch.dtype) -> Computes:
    """Load the source as a model: by its format's own library where that reads it as it is, else by the native model.

    If another number type was asked for, its weights are rounded first: that loss was asked for, and is no fault of the conversion.
    Likewise the head has the activation that the target has for it.
    """
    own = find(source.kind).target
    as_it_is = own is not None and source.config.head_activation == own.head_activation(source.config)
    as_it_is &= str(dtype) == f"torch.{source.facts['dtype']}"
    if own and own.library and own.library.reads(source) and as_it_is:
        return own.library.load(source, dtype)
    return ours(source, dtype)


def ours(source: SourceCheckpoint, dtype: torch.dtype | None) -> Ours:
    """Build the native model with its heads, in the given number type or each tensor's own."""
    extra_tensors = {
        name: tensor if dtype is None else tensor.to(dtype) for name, tensor in source.extra_tensors.items()
    }
    mean = source.facts.get("classifier_pooling") == "mean"
    return Ours(build(source.config, source.tensors, dtype), source.has_head, extra_tensors, mean)


def accounted(source: SourceCheckpoint, to: str, differences: Differences, agreement: Agreement) -> dict[str, Any]:
    """Give the content of `conversion.json`, except what was left out and the hashes."""
    assert source.has_head == (differences.logits is not None), "a head was lost"
    return {
        "source_kind": source.kind,
        "target_kind": to,
        "max_difference_logits": differences.logits,
        "max_difference_hidden": differences.hidden,
        "max_difference_heads": differences.heads,
        "tolerance": TOLERANCE,
        "computed_by": differences.by,
        "tokenizer_read_by": agreement.by,
        "texts": differences.texts,
        "tokens": differences.tokens,
        "tokenizer_agreement": {"equal": agreement.equal, "sentences": agreement.sentences},
    }
