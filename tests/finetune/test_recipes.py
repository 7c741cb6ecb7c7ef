"""Every shipped recipe runs end to end at toy scale."""

import random
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from biolm.core import cli
from biolm.core.files import read_json

RECIPES = sorted((Path(__file__).parents[2] / "finetune/configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A few records for each task that recipes name."""
    found, rng = {}, random.Random(5)
    for task in ("ner", "classification", "choice"):
        found[task] = tmp_path_factory.mktemp(task)
        for fold in ("train", "dev", "test"):
            words = [rng.choice(["aspirin", "heart", "protects"]) for _ in range(20)]
            if task == "ner":
                lines = [f"{word}\t{'B-Drug' if word == 'aspirin' else 'O'}\n" for word in words]
                (found[task] / f"{fold}.tsv").write_text("\n".join(lines))
                continue
            rows = [
                {"text": word, "label": "A" if i % 2 else "B", "options": ["x", "y"]} for i, word in enumerate(words)
            ]
            (found[task] / f"{fold}.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    return found


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe(recipe: Path, data: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = yaml.safe_load(recipe.read_text())
    small = ["--epochs", "1", "--seeds", "1", "--batch.max_length", "32", "--max_shared", "1"]
    small += ["--columns.choices", "options"] if settings["task"] == "choice" else []
    where = ["--model", str(tiny_model), "--data", str(data[settings["task"]]), "--out", str(tmp_path / "run")]
    assert cli.run(["finetune", "--config", str(recipe), *where, *small]) == 0
    scores: dict[str, Any] = read_json(tmp_path / "run/scores.json")
    assert scores["counts"]["test"]["records"] == 20
    used: dict[str, Any] = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert used["optim"]["lr"] == settings["optim"]["lr"]


def test_there_are_recipes() -> None:
    assert len(RECIPES) == 6
