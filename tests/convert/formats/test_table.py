"""The table of `docs/convert.md`: each kind of source converted to each target, and what its record says."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers

from biomlm.core.errors import MismatchError

DATA = Path(__file__).parents[2] / "data" / "convert"
PAGE = Path(__file__).parents[3] / "docs" / "convert.md"
Convert = Callable[..., Path]
FAMILIES = {
    "RoBERTa": ("Roberta", {"type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "RobertaPreLayerNorm": ("RobertaPreLayerNorm", {"type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "BERT": ("Bert", {}),
    "MegatronBERT": ("MegatronBert", {}),
    "ModernBERT": ("ModernBert", {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}),
}
SIZES = {
    "vocab_size": 101,
    "hidden_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 52,
}
WITHOUT_BPE = ("gelu_accurate", "prelayernorm")  # their vocabularies are of other sizes
TARGETS = ("hf", "fairseq", "native")


def sources(folder: Path, convert: Convert) -> Iterator[tuple[str, Path]]:
    """Yield a model of each kind: fairseq's own checkpoints, random ones that transformers saved, DeepSpeed's and Google's own files."""
    for name in ("fairseq-0.12.2", "fairseq-fixed-0.12.3.1", "gelu_accurate", "omegaconf", "prelayernorm", "prenorm"):
        shutil.copytree(DATA / name, folder / name)
        for file in (DATA / "bpe").iterdir() if name not in WITHOUT_BPE else ():
            shutil.copy(file, folder / name)
        yield f"fairseq: {name.removeprefix('fairseq-')}", folder / name
    for name, (family, more) in FAMILIES.items():
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**SIZES, max_position_embeddings=35, pad_token_id=1, **more)
        getattr(transformers, f"{family}ForMaskedLM")(config).save_pretrained(folder / name)
        yield f"Hugging Face: {name}", folder / name
    yield "native", convert(folder / "RoBERTa", "native", "as-native")
    for path in sorted((DATA / "zero").iterdir()):
        yield f"DeepSpeed: {path.name}", path
    yield "TensorFlow: BERT", DATA / "tf"


def rows(folder: Path, convert: Convert) -> list[str]:
    """Make the table's rows."""
    made = []
    for kind, source in sources(folder, convert):
        for to in TARGETS:
            try:
                written = convert(source, to, f"{source.name}-to-{to}")
            except MismatchError:
                made.append(f"| {kind} | {to} | refused | | |")
                continue
            record = json.loads((written / "conversion.json").read_text())
            logits, *others = record["max_difference_logits"] or 0, *record["max_difference_hidden"]
            largest = max(logits, *others, *record["max_difference_heads"].values())
            below = f"1e-{-math.ceil(math.log10(largest)):02}" if largest else "0"
            by, rules = " and ".join(record["computed_by"]), record["tokenizer_read_by"] or "none"
            made.append(f"| {kind} | {to} | {by} | {rules} | {below} |")
    return made


@pytest.fixture
def table(tmp_path: Path, convert: Convert) -> list[str]:
    (tmp_path / "sources").mkdir()
    return rows(tmp_path / "sources", convert)


def test_the_table_is_what_the_conversions_say(table: list[str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = [line for line in page.splitlines() if line.startswith("| ") and line.endswith(" |")]
    differ = [row for row in table if row.rpartition(" | ")[0] not in {line.rpartition(" | ")[0] for line in shown}]
    assert not differ, "\n".join(["docs/convert.md lacks:", *table])
    limits = {line.rpartition(" | ")[0]: line.rpartition(" | ")[2].strip("| ") for line in shown}
    for row in table:
        start, _, below = row.rpartition(" | ")
        assert float(below.strip("| ") or 0) <= max(1e-6, float(limits[start] or 0)), row
