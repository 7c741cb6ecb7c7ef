"""Every shipped recipe runs end to end at toy scale."""

import random
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from biomlm.core import cli
from biomlm.core.files import read_json
from biomlm.inputs.streams import read_text

PUBTATOR = Path(__file__).parents[3] / "shared/data/ncbi_disease_pubtator"
RECIPES = sorted((Path(__file__).parents[2] / "finetune/configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A few records for each task that recipes name."""
    found, rng = {}, random.Random(5)
    for task in ("ner", "pico", "classification", "relation", "multilabel", "similarity", "choice"):
        found[task] = tmp_path_factory.mktemp(task)
        for fold in ("train", "dev", "test"):
            words = [rng.choice(["aspirin", "heart", "protects"]) for _ in range(20)]
            if task in ("ner", "pico"):
                lines = [f"{word}\t{'B-Drug' if word == 'aspirin' else 'O'}\n" for word in words]
                (found[task] / f"{fold}.tsv").write_text("\n".join(lines))
                continue
            rows = [
                {"text": word, "label": _label(task, i), "options": ["x", "y"], "pair": words[0]}
                for i, word in enumerate(words)
            ]
            (found[task] / f"{fold}.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    return found


def _label(task: str, record: int) -> Any:
    """A label of a kind that the task reads."""
    labels: dict[str, Any] = {"relation": "false", "multilabel": ["A", "B"], "similarity": 1.5}
    return labels.get(task, "B") if record % 2 else {"similarity": 3.0, "multilabel": ["A"]}.get(task, "A")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe(recipe: Path, data: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = yaml.safe_load(recipe.read_text())
    small = ["--epochs", "1", "--seeds", "1", "--batch.max_length", "32", "--max_shared", "1"]
    small += {"choice": ["--columns.choices", "options"], "similarity": ["--columns.pair", "pair"]}.get(
        settings["task"], []
    )
    small += ["--grid.size", "16"] if settings.get("grid", {}).get("size") else []
    where = ["--model", str(tiny_model), "--data", str(data[settings["task"]]), "--out", str(tmp_path / "run")]
    assert cli.run(["finetune", "--config", str(recipe), *where, *small]) == 0
    scores: dict[str, Any] = read_json(tmp_path / "run/scores.json")
    assert scores["counts"]["test"]["records"] == 20
    used: dict[str, Any] = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert used["optim"].get("lr") == settings["optim"].get("lr", used["optim"]["lr"])
    assert used["grid"]["lr"] == settings.get("grid", {}).get("lr", [])
    assert len(scores["grid"]) == len(used["grid"]["lr"])


@pytest.mark.shared
@pytest.mark.skipif(not PUBTATOR.is_dir(), reason="needs the shared data beside the checkout")
def test_the_job_of_llm_ner_clinical_text_on_the_files_of_ncbi_disease(tiny_model: Path, tmp_path: Path) -> None:
    """PubTator → IOB → fine-tune → strict F1, on the first abstracts of each fold; every annotation is trained on or scored."""
    mentions, data = {}, tmp_path / "data"
    data.mkdir()
    for fold in ("train", "devel", "test"):
        (source,) = (PUBTATOR / fold).iterdir()
        documents = read_text(source).strip().split("\n\n")[:6]
        (data / f"{fold}.txt").write_text("\n\n".join(documents) + "\n", encoding="utf-8")
        mentions[fold] = sum(line.count("\t") >= 4 for document in documents for line in document.split("\n"))
    recipe = next(path for path in RECIPES if path.stem == "llm-ner-clinical-text")
    where = [
        "--model",
        str(tiny_model),
        "--data",
        str(data),
        "--out",
        str(tmp_path / "run"),
        "--one_type",
        "Disease",
    ]
    small = ["--epochs", "1", "--seeds", "1", "--batch.max_length", "32"]
    assert cli.run(["finetune", "--config", str(recipe), *where, *small]) == 0
    scores: dict[str, Any] = read_json(tmp_path / "run/scores.json")
    assert [scores["counts"][fold]["entities"] for fold in ("train", "dev", "test")] == list(mentions.values())
    assert scores["test"]["gold"] == mentions["test"]
    assert set(scores["test"]) >= {"precision", "recall", "f1", "f1_interval"}


def test_every_system_has_its_recipes() -> None:
    systems = {"bio-lm", "embo", "llm-ner-clinical-text", "linkbert", "bio-clinicalbert"}
    assert all(any(recipe.stem.startswith(name) for recipe in RECIPES) for name in systems)
    linkbert = {yaml.safe_load(recipe.read_text())["task"] for recipe in RECIPES if recipe.stem.startswith("linkbert")}
    assert linkbert == {"ner", "pico", "relation", "similarity", "multilabel", "classification", "choice"}
