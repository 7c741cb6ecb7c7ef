"""The section that says what a training was worth: the right pair of folders, the figures of both, and none without a pair."""

from pathlib import Path
from typing import Any

from biomlm.core import cli
from biomlm.core.files import read_json, write_json
from biomlm.core.manifest import Manifest, digest
from biomlm.launch.reporting import worth
from biomlm.launch.reporting.run_folders import collect


def evaluation(path: Path, loss: float, masked: int) -> None:
    path.mkdir()
    Manifest("pretrain evaluate", {}, digest({}), {}, {}, {}, "done").write(path)
    of_notes = {"loss": loss + 1, "accuracy": 0.125, "masked_tokens": masked // 2}
    valid = {"loss": loss, "accuracy": 0.25, "masked_tokens": masked, "sources": {"notes": of_notes}}
    write_json(path / "result.json", {"parameters": 10, "valid": valid, "unigram_entropy": 6.0})


def sources_of(run: Path, loss: float) -> None:
    result: dict[str, Any] = read_json(run / "result.json")
    result["valid"]["sources"] = {"notes": {"loss": loss, "accuracy": 0.5, "masked_tokens": 3700}}
    write_json(run / "result.json", result)


def test_the_model_as_it_came_stands_beside_the_last_run_on_the_same_tokens(launched: Path) -> None:
    masked = read_json(launched / "alone" / "result.json")["valid"]["masked_tokens"]  # type: ignore[index]
    evaluation(launched / "before", 7.5, masked)
    evaluation(launched / "elsewhere", 1.0, masked + 1)
    sources_of(launched / "alone", 4.25)
    data = collect([launched])
    pair = worth.before_and_after(data)
    assert pair is not None
    assert [run.name for run in pair] == ["before", "alone"]
    page = str(worth.section(data))
    assert all(figure in page for figure in ("7.500", "4.690", "-2.810", "8.500", "4.250", "-4.250", "12.5%", "50.0%"))


def test_a_report_without_an_evaluation_has_no_such_section(launched: Path) -> None:
    assert worth.section(collect([launched])) is None


def test_scores_of_tasks_are_tabulated(launched: Path) -> None:
    for name, f1 in (("task-before", 0.61), ("task-after", 0.654)):
        folder = launched / name
        folder.mkdir()
        Manifest("finetune", {"task": "ner"}, digest({}), {}, {}, {}, "done").write(folder)
        test = {"f1": f1, "f1_sd": 0.011, "f1_interval": [f1 - 0.02, f1 + 0.02]}
        write_json(folder / "scores.json", {"task": "ner", "metric": "f1", "test": test})
    assert cli.run(["report", str(launched), "--out", str(launched / "report.html")]) == 0
    page = (launched / "report.html").read_text()
    assert "What the training was worth" in page
    assert all(figure in page for figure in ("0.610", "0.654", "0.011", "0.634", "0.674"))
