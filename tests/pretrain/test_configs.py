"""Every configuration in pretrain/configs runs at toy size on bundled records, with its own objective, and learns."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from biomlm.core import checkpoint, cli
from biomlm.core.metrics import read_metrics

CONFIGS = Path(__file__).parents[2] / "pretrain" / "configs"
TOY = [
    "--model.num_hidden_layers=2",
    "--model.hidden_size=32",
    "--model.num_attention_heads=2",
    "--model.intermediate_size=64",
]
SIZES = ["--batch.tokens=2048", "--batch.accumulation=1", "--steps=20", "--optim.lr=5e-3", "--optim.warmup=0.1"]
LITTLE = ["--eval_tokens=4000", "--log_every=1", "--eval_every=20", "--save_every=20", "--precision=fp32", "--seed=1"]
LENGTHS = {"modernbert-8192": "512"}
# EMBO's go on from a RoBERTa, Bio_ClinicalBERT from BioBERT; here BioLinkBERT stands in, a BERT over the same pieces.
FROM = {"embo-mlm": "bio-lm-base", "embo-small": "bio-lm-base", "bio-clinicalbert": "biolinkbert-base"}


@pytest.fixture(scope="module")
def runs(bundled: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each configuration."""
    folder = tmp_path_factory.mktemp("configs")
    names = sorted((path.stem for path in CONFIGS.glob("*.yaml")), key=lambda name: name in FROM)
    for name in names:
        shape = (yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()).get("model") or {}).get("shape")
        kind = "wordpiece" if shape in ("bert", "megatron-bert") or name == "bio-clinicalbert" else "bpe"
        start = ["--init", str(folder / FROM[name])] if name in FROM else TOY
        where = ["--shards", str(bundled[kind]), "--out", str(folder / name)]
        length = ["--batch.max_length", LENGTHS.get(name, "64")]
        config = ["--config", str(CONFIGS / f"{name}.yaml")]
        assert cli.run(["pretrain", *config, *where, *start, *length, *SIZES, *LITTLE]) == 0, name
    return {name: folder / name for name in names}


NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def test_there_is_one_for_every_system() -> None:
    assert set(NAMES) >= {
        *("bio-lm-base", "bio-lm-large", "embo-mlm", "embo-small"),
        *("gatortron-345m", "biolinkbert-base", "bio-clinicalbert", "modernbert-8192"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_its_loss_falls(name: str, runs: dict[str, Path]) -> None:
    records = read_metrics(runs[name])
    losses = [record["loss"] for record in records if record["split"] == "train"]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.05


@pytest.mark.parametrize(
    ("name", "kind"), [("bio-clinicalbert", "nsp"), ("gatortron-345m", "sop"), ("biolinkbert-base", "drp")]
)
def test_each_part_reports_its_own_loss(name: str, kind: str, runs: dict[str, Path]) -> None:
    for record in read_metrics(runs[name]):
        assert {kind, f"{kind}_accuracy", "accuracy"} <= record.keys()
        if record["split"] == "train":
            assert record["loss"] == pytest.approx(record["mlm"] + record[kind], abs=1e-4)
    tensors = checkpoint.load(checkpoint.path_of(runs[name], 20)).tensors["objective"]
    classes = 3 if kind == "drp" else 2
    assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == {
        "pooler.dense.weight": (32, 32),
        "pooler.dense.bias": (32,),
        "seq_relationship.weight": (classes, 32),
        "seq_relationship.bias": (classes,),
    }


@pytest.mark.parametrize("name", sorted(FROM))
def test_a_system_that_goes_on_from_a_model_is_not_trained_without_it(
    name: str, bundled: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(CONFIGS / f"{name}.yaml"), "--shards", str(bundled["bpe"]), "--out", str(tmp_path / "run")]
    assert cli.run(["pretrain", *words, *TOY, *SIZES]) == 2
    said = capsys.readouterr().err
    assert "would train from random weights" in said
    assert {"embo": "roberta-base", "bio-": "BioBERT"}[name[:4]] in said
    assert "--init" in said
    assert not (tmp_path / "run").exists()
