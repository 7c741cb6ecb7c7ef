"""The model card: what the model is, how it was trained as far as its source says, and what the conversion's check found."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from biomlm.convert import model_use
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.model_use import Use
from biomlm.convert.names.table import shapes
from biomlm.core.files import read_json, write_text
from biomlm.core.manifest import flatten
from biomlm.core.summary import shown

NAME = "README.md"
MAIN = {  # what a reader asks first, and what to call it; the rest is folded away
    **{
        name: name
        for name in ("stage", "step", "updates", "batch.tokens", "batch.max_length", "mlm.mask_rate", "optim.lr")
    },
    "result: tokens": "tokens seen",
    "result: valid.loss": "held-out loss (nats)",
    "result: valid.perplexity": "held-out perplexity",
    "result: valid.accuracy": "held-out masked accuracy",
    "result: unigram_entropy": "held-out unigram entropy (nats)",
}
HIDDEN = (
    "out",
    "shards",
    "teacher",
    "init",
    "model",
    "data",
    "groups",
)  # where things lay on the machine that trained it


def write(folder: Path, source: SourceCheckpoint, record: Mapping[str, Any]) -> None:
    """Write `README.md` with Hugging Face's metadata header.

    Args:
        folder: The model folder.
        source: The checkpoint that was converted.
        record: The content of `conversion.json`.
    """
    tokenizer, trained = source.tokenizer, source.facts.get("finetune")
    mask = tokenizer.pieces[tokenizer.ids.mask] if tokenizer else None
    texts = trained.get("texts", 1) if isinstance(trained, dict) else 1
    use = model_use.of(read_json(folder / "config.json"), mask, texts)
    tags = {"pipeline_tag": use.tag} if use.tag else {}
    header = {"library_name": "transformers", **tags, "tags": ["masked-lm", "biomedical"]}
    write_text(folder / NAME, f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n{body(source, record, use)}")


def body(source: SourceCheckpoint, record: Mapping[str, Any], use: Use) -> str:
    """Compose the card below its header, in Markdown."""
    config, logits = source.config, record["max_difference_logits"]
    sizes = {
        "architecture": f"{config.shape} encoder with{'' if source.has_head else 'out'} a masked-LM head",
        "layers": config.num_hidden_layers,
        "hidden size": config.hidden_size,
        "attention heads": config.num_attention_heads,
        "vocabulary": config.vocab_size,
        "longest sequence (tokens)": config.max_positions,
        "parameters": sum(math.prod(shape) for shape in shapes(config, source.has_head).values()),
    }
    check = {
        "converted from": record["source_kind"],
        "largest difference of logits": "no head" if logits is None else f"{logits:.2e}",
        "largest difference of hidden states": f"{max(record['max_difference_hidden']):.2e}",
        "texts compared": record["texts"],
        "tokenizers agree on": "{equal} of {sentences} sentences".format(**record["tokenizer_agreement"]),
        "SHA-256 of the source's weights": record["source_sha256"],
        **{f"SHA-256 of {name}": digest for name, digest in record["sha256"].items()},
    }
    parts_of_card = [
        f"# {use.title}\n",
        _table(sizes),
        f"## Use\n\n```python\n{use.example}\n```\n",
        "## Training\n\n" + _training(_stated(source.facts)),
        "## Conversion\n\nThe weights were converted by biomlm and compared with their source, each computed by its own code.\n\n"
        + _table(check),
    ]
    return "\n".join(parts_of_card)


def _training(stated: Mapping[str, Any]) -> str:
    if not stated:
        return "The source of this conversion does not say how it was trained.\n"
    main = {label: stated[name] for name, label in MAIN.items() if name in stated}
    rest = {name: value for name, value in stated.items() if name not in MAIN}
    folded = f"<details><summary>All settings and results</summary>\n\n{_table(rest)}\n</details>\n"
    return "\n".join([*([_table(main)] if main else []), *([folded] if rest else [])])


def _stated(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Collect settings and results that the source states; paths are left out."""
    stated: dict[str, Any] = {"stage": facts.get("stage"), "step": facts.get("step"), "updates": facts.get("updates")}
    for name in ("config", "settings"):
        stated |= flatten(facts.get(name) or {})
    stated |= {f"result: {name}": value for name, value in flatten(facts.get("result") or {}).items()}
    return {name: value for name, value in stated.items() if value not in (None, "", []) and not _private(name, value)}


def _private(name: str, value: Any) -> bool:
    """Return whether a setting is a path of the machine that trained the model."""
    return name in HIDDEN or (isinstance(value, str) and ("/" in value or "\\" in value))


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"


def _cell(value: Any) -> str:
    return (f"{value:.6g}" if isinstance(value, float) else shown(value)).replace("|", "\\|").replace("\n", " ")
