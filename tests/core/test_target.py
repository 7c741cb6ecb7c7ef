"""What a command may write over: its own output, and an empty folder."""

import json
from pathlib import Path

import pytest

from biomlm.core.errors import ConfigError
from biomlm.core.files import matching, nothing, refuse_target, stage, with_keys


def refused(target: Path, ours: object, *inputs: Path, inside: bool = False) -> bool:
    try:
        refuse_target(target, inputs, option="--out", ours=ours, inside=inside)  # type: ignore[arg-type]
    except ConfigError:
        return True
    return False


def test_what_a_command_wrote_itself_may_be_written_again(tmp_path: Path) -> None:
    page, figures = tmp_path / "page.html", tmp_path / "figures.json"
    made, keys = matching(r"<footer>Made by \w+ report, "), with_keys({"tasks"})
    page.write_text("<p>…</p><footer>Made by biomlm report, today</footer>")
    figures.write_text(json.dumps({"tasks": []}))
    assert not refused(page, made)
    assert not refused(figures, keys)
    figures.write_text(json.dumps({"tasks": [], "notes": []}))
    page.write_text("<p>Made by biomlm report, says the thesis</p>")
    assert refused(page, made)
    assert refused(figures, keys)
    figures.write_text("[1, 2")
    assert refused(figures, keys)


def test_folders(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert not refused(folder, stage)
    folder.mkdir()
    assert not refused(folder, stage)
    assert not refused(folder, nothing)
    (folder / ".lock").touch()
    assert not refused(folder, stage)
    assert refused(folder, nothing)
    (folder / "notes.txt").touch()
    assert refused(folder, stage)
    (folder / "manifest.json").touch()
    assert not refused(folder, stage)


def test_a_page_may_lie_beside_its_runs_but_a_link_hides_no_input(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "link").symlink_to(run)
    assert refused(run / "page.html", nothing, run)
    assert not refused(run / "page.html", nothing, run, inside=True)
    assert refused(tmp_path / "link" / "page.html", nothing, run)
    assert refused(run / "page.html", nothing, tmp_path / "link")
    assert refused(tmp_path / "link", nothing, run, inside=True)
    assert not refused(tmp_path / "other", nothing, run, tmp_path / "en_core_web_sm")


def test_an_empty_name_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refuse_target("", [tmp_path], option="--page", ours=nothing)


def test_a_dangling_link_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "scratch" / "gone")
    assert refused(tmp_path / "link", nothing)
