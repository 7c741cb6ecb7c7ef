"""The registry of launch back ends: what belongs to one stands in its file, and no other file knows their names."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from biomlm.core import cli, config
from biomlm.launch.backends.registry import BACKENDS
from biomlm.launch.commands.launch import LaunchConfig

ROOM = Path(__file__).parents[3] / "launch"


def test_nothing_else_compares_names_of_back_ends() -> None:
    names = "|".join(BACKENDS)
    for file in ROOM.rglob("*.py"):
        found = re.findall(rf"(?:==|!=|\bin\b)\s*\(?[\"'](?:{names})[\"']", file.read_text(encoding="utf-8"))
        assert not found, f"{file} compares {found}"


def test_every_back_ends_options_are_options_of_launch() -> None:
    known = {field.name for field in fields(LaunchConfig)}
    for backend in BACKENDS.values():
        assert {field.name for field in fields(backend.options)} <= known


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        ("--hostfile h", "--on hosts"),
        ("--on hosts --hostfile h --processes 2", "--on local"),
        ("--slurm.nodes 2", "--on slurm"),
        ("--on slurm --override", "--on local or hosts"),
    ],
)
def test_options_of_another_back_end_are_refused(words: str, needs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["launch", "demo", "--dry_run", *words.split()]) == 2
    assert f"it needs {needs}" in capsys.readouterr().err


def test_help_tells_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        config.parse(LaunchConfig, ["--help"], prog="biomlm launch")
    told = " ".join(capsys.readouterr().out.split())
    assert "lines such as `gpu01 slots=8`" in told
    assert "Processes of a training stage on this machine" in told
    assert "What stands before each command" in told
