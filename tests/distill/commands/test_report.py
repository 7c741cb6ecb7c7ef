"""The report: its figures equal the runs' own, its page holds what it should, and CKA is CKA."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from biomlm.convert.load import load_model
from biomlm.core import cli
from biomlm.core.errors import ConfigError
from biomlm.core.files import read_json
from biomlm.distill.config import ReportConfig
from biomlm.distill.reporting.cka import linear_cka
from biomlm.distill.reporting.held_out import micro_batches
from biomlm.distill.reporting.page import heat_map
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.training.evaluate import Evaluator


@pytest.fixture(scope="module")
def reported(
    teacher_run: Path, distill_words: list[str], student_words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("report")
    words = [*distill_words, *student_words, "--steps", "8", "--log_every", "2", "--precision", "fp32"]
    assert cli.run(["distill", *words, "--teacher", str(teacher_run), "--out", str(folder / "student")]) == 0
    assert cli.run(["pretrain", *words, "--out", str(folder / "alone")]) == 0
    argv = ["--alone", str(folder / "alone"), "--precision", "fp32", "--out", str(folder / "report")]
    assert cli.run(["distill", "report", str(folder / "student"), *argv]) == 0
    return folder


def test_its_figures_are_the_runs_own(reported: Path) -> None:
    figures = read_json(reported / "report" / "report.json")
    for name in ("student", "alone"):
        model = figures["models"][name]  # type: ignore[index, call-overload]
        valid = read_json(reported / name / "result.json")["valid"]
        assert model["sources"]["all"]["loss"] == pytest.approx(valid["loss"], rel=1e-4)  # type: ignore[index, call-overload]
        assert model["sources"]["all"]["right"] == pytest.approx(valid["accuracy"])  # type: ignore[index, call-overload]
        assert model["sources"]["text"] == pytest.approx(model["sources"]["all"])
        assert model["sources"]["all"]["kl"] > 0
    teacher = figures["models"]["teacher"]["sources"]["all"]  # type: ignore[index, call-overload]
    assert teacher["kl"] == 0
    assert teacher["agree"] == 1
    similarity = figures["similarity"]
    assert [len(row) for row in similarity] == [3, 3]  # type: ignore[attr-defined, union-attr]
    assert set(figures["parts"]) == {"kl", "mlm", "hidden"}  # type: ignore[call-overload]


def test_the_page_is_whole_and_shows_no_text(reported: Path) -> None:
    page = (reported / "report" / "report.html").read_text()
    for part in ("Size and speed", "by source", "loss by part", "Layers alike", "agrees with it"):
        assert part in page
    assert "aspirin" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")


def test_a_negative_number_of_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="tokens is a number from 0"):
        ReportConfig(run="run", out="out", tokens=-1)


def test_a_run_without_a_named_teacher_asks_for_one(reported: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    run = tmp_path / "student"
    run.mkdir()
    text = (reported / "student" / "manifest.json").read_text()
    teacher = str(read_json(reported / "student" / "manifest.json")["config"]["teacher"][0])  # type: ignore[index, call-overload]
    (run / "manifest.json").write_text(text.replace(f'"{teacher}"', ""))
    assert cli.run(["distill", "report", str(run), "--out", str(tmp_path / "report")]) == 2
    assert "Name it by --teacher" in capsys.readouterr().err


def test_cka_against_the_gram_matrices_of_its_definition() -> None:
    x, y = torch.randn(40, 6, dtype=torch.float64), torch.randn(40, 9, dtype=torch.float64)
    h = torch.eye(40, dtype=torch.float64) - 1 / 40
    k, m = h @ x @ x.T @ h, h @ y @ y.T @ h
    expected = (k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt()
    assert linear_cka(x, y) == pytest.approx(float(expected))
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    assert linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1.0)


def test_the_picture_has_a_cell_for_every_pair() -> None:
    svg = ET.fromstring(heat_map([[0.1, 0.2, 0.3], [0.4, 0.5, 1.0]]))
    boxes = svg.findall("{http://www.w3.org/2000/svg}rect")
    assert [float(box.attrib["fill-opacity"]) for box in boxes] == [0.1, 0.2, 0.3, 0.4, 0.5, 1.0]


def test_no_held_out_sequence_is_left_out(tiny_shards: Path) -> None:
    """With micro-batches of one sequence some are empty, and what comes behind them is read all the same."""
    shards, empty = Shards([tiny_shards], "valid"), 0
    for length in range(8, 48):
        evaluator = Evaluator(shards, BatchConfig(length, 1, length), 0.15, 0)
        sizes = [len(batch.packed.input_ids_t) for batch in micro_batches(evaluator)]
        assert sum(sizes) == evaluator.batches.epochs(0).sequences.tokens.sum()
        empty += evaluator.batches.per_epoch - len(sizes)
    assert empty


def test_several_teachers_are_the_mean_of_their_probabilities(
    reported: Path,
    teacher_run: Path,
    distill_words: list[str],
    student_words: list[str],
    tiny_shards: Path,
    tmp_path: Path,
) -> None:
    run, out = tmp_path / "run", tmp_path / "report"
    paths = [str(teacher_run), str(reported / "alone")]
    words = [*distill_words, *student_words, "--steps", "2", "--precision", "fp32", "--out", str(run)]
    assert cli.run(["distill", *words, "--teacher", *paths]) == 0
    assert cli.run(["distill", "report", str(run), "--precision", "fp32", "--out", str(out)]) == 0
    figures = read_json(out / "report.json")
    assert set(figures["models"]) == {"teacher", "teacher 1", "teacher 2", "student"}  # type: ignore[call-overload]
    assert set(figures["similarity"]) == {"teacher 1", "teacher 2"}  # type: ignore[call-overload]
    sizes = BatchConfig(**read_json(run / "manifest.json")["config"]["batch"])  # type: ignore[index, call-overload, arg-type]
    evaluator = Evaluator(Shards([tiny_shards], "valid"), sizes, 0.15, 0)
    models, losses, kl = [load_model(path).model.eval() for path in [*paths, run]], [], []
    with torch.no_grad():
        for step in range(evaluator.batches.steps_per_epoch):
            for batch in evaluator.batches.step(step):
                one, two, student = (model(batch.packed, batch.positions_m).double().softmax(-1) for model in models)
                mean, rows = (one + two) / 2, torch.arange(len(batch.labels_m))
                losses += (-mean[rows, batch.labels_m].log()).tolist()
                kl += (mean * (mean / student).log()).sum(-1).tolist()
    told = {name: model["sources"]["all"] for name, model in figures["models"].items()}  # type: ignore[union-attr, attr-defined]
    assert told["teacher"]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert told["student"]["kl"] == pytest.approx(sum(kl) / len(kl), rel=1e-4)
