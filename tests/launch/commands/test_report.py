"""The report: its figures are those of the folders, all is escaped, nothing is fetched, and missing pieces are named."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from lxml import etree, html

from biomlm.core import cli
from biomlm.core.errors import DataError
from biomlm.core.files import read_json, write_json
from biomlm.core.manifest import Manifest
from biomlm.launch.commands.report import render
from biomlm.launch.reporting.run_folders import collect, finite, summary_rows

HOSTILE = "<script>alert('x')</script>&\"'"


def page(*paths: Path, log_x: bool = False) -> Any:
    text = render(collect(list(paths)), "a title", log_x=log_x)
    assert text.startswith("<!doctype html>")
    return html.document_fromstring(text)


def words(element: Any) -> str:
    return " ".join(" ".join(element.itertext()).split())


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    value: dict[str, Any] = read_json(path)
    edit(value)
    write_json(path, value)


def section(tree: Any, name: str) -> Any:
    return next(s for s in tree.iter("section") if s.findtext("h2") == name)


def test_every_section_is_there_with_its_figures(launched: Path) -> None:
    tree = page(launched)
    assert [h.text for h in tree.iter("h2")] == [
        *("Pipeline", "Documents", "Loss", "Models", "Learning rate and speed"),
        *("Conversions", "Filled-in masks", "Configurations", "Provenance"),
    ]
    assert "1,910 records = 1,849 kept + 61 dropped." in words(section(tree, "Documents"))
    assert "18" in words(section(tree, "Documents")), "17 duplicates in pubmed and 1 in notes"
    models = [[words(cell) for cell in row.iter("td")] for row in section(tree, "Models").iter("tr")][1:]
    assert [row[0] for row in models] == ["teacher", "student", "alone"]
    assert models[0] == ["teacher", "pretrain", "3,141,592", "2,400,000", "3.980", "53.5", "31.0%", "2.430", "1:15"]
    assert "native → hf equal 3.1e-06 8.0e-07 1.0e-05 16 12 of 12" in words(section(tree, "Conversions"))
    assert "The <mask> was resected & p < 0.05. lung 41.0%, heart 12.0%" in words(section(tree, "Filled-in masks"))
    assert "unigram entropy" in words(section(tree, "Loss"))


def test_stages_stand_in_the_recipes_order(launched: Path) -> None:
    assert [run.name for run in collect([launched]).runs] == ["teacher", "student", "alone"]
    boxes = [text.text for text in section(page(launched), "Pipeline").iter("text") if text.get("class") == "strong"]
    assert boxes == ["corpus", "tokenizer", "shards", "teacher", "student", "alone", "student-hf", "student-fairseq"]


def test_nothing_is_fetched_and_nothing_runs(launched: Path) -> None:
    text = render(collect([launched]), "t")
    tree = html.document_fromstring(text)
    assert not list(tree.iter("script", "link", "img", "iframe", "object", "form"))
    assert not [a for e in tree.iter() for a in e.attrib if a.startswith("on") or a in ("src", "href")]
    assert "url(" not in text
    assert "@import" not in text


def test_pictures_are_well_formed_xml(launched: Path) -> None:
    text = render(collect([launched]), "t")
    pictures = ["<svg" + piece.partition("</svg>")[0] + "</svg>" for piece in text.split("<svg")[1:]]
    assert len(pictures) == 6
    for picture in pictures:
        assert etree.fromstring(picture).get("viewBox")


def test_hostile_names_are_shown_and_not_obeyed(launched: Path) -> None:
    change(launched / "launch.json", lambda s: s.update(description=HOSTILE))
    change(launched / "fill.json", lambda s: s["sentences"][0].update(text=HOSTILE, fills=[{"token": HOSTILE}]))
    change(launched / "corpus" / "manifest.json", lambda m: m["counts"]["sources"]["pmc"].update(dropped={HOSTILE: 9}))
    change(launched / "teacher" / "manifest.json", lambda m: m["config"].update(init=HOSTILE))
    tree = page(launched)
    assert not list(tree.iter("script"))
    assert words(tree).count("alert('x')") >= 4


def test_what_is_missing_is_said_and_the_rest_is_shown(launched: Path) -> None:
    (launched / "student" / "result.json").unlink()
    (launched / "alone" / "result.json").write_text("{")
    (launched / "launch.json").write_text('{"stages": [{}]}')
    (launched / "teacher" / "metrics.jsonl").write_text("no json\n")
    change(launched / "shards" / "manifest.json", lambda m: m.update(status="running", counts={}))
    shutil.rmtree(launched / "student-hf")
    tree = page(launched)
    told = [words(p) for p in tree.iter("p") if p.get("class") == "missing"]
    assert "Missing: student: no result.json yet, the run has not finished" in told
    assert "Missing: launch.json: this is not what `biomlm launch` writes" in told
    assert "Missing: alone/result.json: this is not valid JSON" in told
    assert "Missing: teacher: metrics.jsonl is damaged" in told
    assert "Missing: shards: `tokenizer encode` has not finished" in told
    assert "3,141,592" in words(section(tree, "Models"))


@pytest.mark.parametrize("name", ["corpus", "tokenizer", "shards", "teacher", "student-hf"])
def test_any_single_folder_makes_a_page(launched: Path, name: str) -> None:
    tree = page(launched / name)
    assert name in words(tree)


def test_a_launch_that_was_interrupted_early_makes_a_page(launched: Path) -> None:
    for name in ("shards", "teacher", "student", "alone", "student-hf", "student-fairseq"):
        shutil.rmtree(launched / name)
    (launched / "fill.json").unlink()
    assert "1,849 kept" in words(section(page(launched), "Pipeline"))


def test_a_manifest_of_odd_values_does_not_break_the_page(launched: Path) -> None:
    change(launched / "teacher" / "result.json", lambda r: r.update(valid=None, parameters="many", seconds=None))
    change(
        launched / "corpus" / "manifest.json", lambda m: m.update(counts={"sources": {"pmc": 3, "x": {"kept": "?"}}})
    )
    change(launched / "student-hf" / "conversion.json", lambda c: c.clear())
    change(launched / "fill.json", lambda f: f.update(sentences=["?", {"text": 3, "fills": ["?"]}]))
    assert "–" in words(section(page(launched), "Models"))


def test_no_text_of_a_document_can_come_from_a_folder_of_documents(launched: Path) -> None:
    (launched / "corpus" / "train").mkdir()
    (launched / "corpus" / "train" / "00000.jsonl").write_text('{"text": "the patient Jane Roe"}')
    (launched / "logs").mkdir()
    (launched / "logs" / "corpus.log").write_text("the patient Jane Roe")
    assert "Jane" not in render(collect([launched]), "t")


def test_curves_are_over_tokens_and_distillation_shows_its_masked_lm_part(launched: Path) -> None:
    student = collect([launched]).runs[1]
    train, valid = student.curve("train", "mlm", "loss"), student.curve("valid", "loss")
    assert train[0][0] == 10 * 4000
    assert train[0][1] == pytest.approx(9, abs=1), "not five times that, the sum of the losses"
    assert [x for x, _ in valid] == [step * 4000 for step in range(100, 601, 100)]


def test_logarithmic_tokens(launched: Path) -> None:
    linear, logarithmic = (words(section(page(launched, log_x=log), "Loss")) for log in (False, True))
    assert linear != logarithmic


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing in it was written by biomlm"):
        collect([tmp_path])
    with pytest.raises(DataError, match="no such folder"):
        collect([tmp_path / "nowhere"])


def test_the_verb_writes_the_page(launched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = launched.parent / "r.html"
    assert cli.run(["report", str(launched), "--out", str(out), "--title", "Ünïcode"]) == 0
    assert "<title>Ünïcode</title>" in out.read_text(encoding="utf-8")
    assert "teacher, student, alone" in capsys.readouterr().out


def test_closing_rows_add_up(launched: Path) -> None:
    rows = summary_rows(collect([launched]))
    lost = sum(n for name, n in rows.items() if name.startswith("  dropped: ") and isinstance(n, int))
    assert rows["records in"] == 1910
    assert rows["documents kept"] == 1910 - lost
    assert rows["tokens, train"] == 612_004
    assert rows["student: held-out loss (nats)"] == pytest.approx(4.43)
    assert rows["time, all stages"] == "6:34"


def test_fingerprint_is_what_a_later_stage_stores(launched: Path) -> None:
    manifest: dict[str, Any] = orjson.loads((launched / "corpus" / "manifest.json").read_bytes())
    assert collect([launched]).corpora[0].fingerprint == Manifest(**manifest).fingerprint


@pytest.mark.parametrize("value", [None, "3", True, float("nan"), float("inf"), [1]])
def test_only_numbers_are_finite(value: object) -> None:
    assert finite(value) != finite(value)
