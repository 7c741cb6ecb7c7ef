"""Smoke scale: a shipped recipe runs to its end in an empty folder, and what is not as expected ends a launch."""

import importlib.util
import json
from pathlib import Path

import pytest

from biomlm.core import cli
from biomlm.launch.commands import plan
from biomlm.launch.recipe import read
from biomlm.launch.resolve import shipped

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("recipes_tool", ROOT / "tools" / "recipes.py")
assert SPEC
assert SPEC.loader
recipes = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(recipes)


@pytest.mark.parametrize("scale", ["full", "smoke"])
@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_can_be_planned(name: str, scale: str) -> None:
    plan.check(read(name, "o", scale))


def test_a_recipe_runs_to_its_end_and_meets_its_expectations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = read("demo", "", "smoke")
    assert sum(stage.expect is not None for stage in recipe.stages) >= 5
    assert cli.run(["launch", "demo", "--scale", "smoke"]) == 0
    stages = json.loads((tmp_path / "runs/demo-smoke/launch.json").read_text())["stages"]
    assert all(stage["key"] for stage in stages)
    assert (tmp_path / "runs/demo-smoke/report.html").stat().st_size > 10_000


EXPECTING = """\
stages:
  - name: corpus
    verb: corpus build
    args: {{text: ["{data}/*.txt"], out: "${{out}}/corpus", min_words: 1}}
    expect: {{sources: [{source}]}}
"""


def test_what_is_not_as_expected_ends_the_launch_each_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("The heart, the lung and the liver of a patient.")
    recipe, out = tmp_path / "mine.yaml", tmp_path / "out"
    recipe.write_text(EXPECTING.format(data=tmp_path, source="notes"))
    words = ["launch", str(recipe), "--out", str(out), "--scale", "smoke"]
    for _ in range(2):
        assert cli.run(words) == 2
        told = capsys.readouterr().err
        assert "mine.yaml (line 5): stage corpus: expected sources ['notes'], got ['text'].\n" in told
        assert not json.loads((out / "launch.json").read_text())["stages"][0]["key"]
    assert cli.run([*words, "--record", "corpus"]) == 2, "a batch job says so too"
    recipe.write_text(EXPECTING.format(data=tmp_path, source="text"))
    assert cli.run(words) == 0
    recipe.write_text(EXPECTING.format(data=tmp_path, source="pmc"))
    assert cli.run(words) == 2, "another expectation is asked of a stage that is done"
    assert cli.run(["launch", str(recipe), "--out", str(tmp_path / "full")]) == 0, "at full scale nothing is expected"


def test_the_documented_table_is_what_the_command_makes() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    measured = json.loads((ROOT / "docs" / "recipes.json").read_text())
    assert recipes.with_table(page, recipes.table(measured)) == page, "python tools/recipes.py --write"
    assert measured.keys() <= shipped().keys()


def test_a_row_has_the_plans_hours_and_what_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text(
        "published: {model: M, stated: size, ours: [steps, rate], gpu_hours: 1344, fleet: a100-40gb, score: 83.4 | 84}\n"
        "stages:\n- {name: a, verb: pretrain, config: biolinkbert-base, args: {shards: s, out: '${out}/a'}}\n"
    )
    found = read(str(tmp_path / "mine.yaml"), "o")
    monkeypatch.setattr(recipes, "read", lambda *_, **more: read(str(tmp_path / "mine.yaml"), "o", **more))
    cells = [cell.strip() for cell in recipes.row(found, {"seconds": 61, "loss": 3.5}).split("|")[1:-1]]
    assert cells[0] == "`mine` M"
    assert cells[3] == "1:01, 3.5"
    hours, published = cells[4].replace(",", "").split(" (a100-40gb) ")
    assert 280 < int(hours) < 310, "1.5 days on 8 GPUs, docs/scaling.md"
    assert published == "1344"
    assert cells[5] == "83.4 / 84"
