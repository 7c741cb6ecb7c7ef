"""The same documents from one process, two workers, Ray and SLURM (a stand-in that runs the array where it is submitted)."""

import os
from pathlib import Path
from typing import Any

import pytest

from biomlm.core.cli import run as biomlm
from biomlm.corpus.pipeline.executors import LocalExecutor


@pytest.fixture
def raw(tmp_path: Path, make: Any) -> Path:
    """Three tasks' worth of citations and notes."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for n in range(2):
        pad = "<!--" + os.urandom(4_500_000).hex() + "-->"
        (folder / f"p{n}.xml").write_bytes(make.citations(*(make.plain(n * 100 + i) for i in range(1, 40)), pad))
    make.notes(folder / "NOTEEVENTS.csv.gz", [(i, i, "", f"Plan no. {i}: rest and fluids today.") for i in range(9)])
    return folder


def build(raw: Path, out: Path, *more: str) -> dict[str, bytes]:
    command = [
        "corpus",
        "build",
        "--pubmed",
        f"{raw}/*.xml",
        "--notes",
        f"{raw}/NOTEEVENTS.csv.gz",
        "--out",
        str(out),
        *more,
    ]
    assert biomlm(command) == 0
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*.gz"))}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ray_gives_the_same_documents(raw: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is an optional extra")
    alone = build(raw, tmp_path / "alone")
    assert build(raw, tmp_path / "ray", "--where.executor", "ray", "--workers", "2", "--where.memory", "1") == alone


def test_slurm_gives_the_same_documents(raw: Path, tmp_path: Path, slurm: Path) -> None:
    alone = build(raw, tmp_path / "alone")
    assert build(raw, tmp_path / "slurm", "--where.executor", "slurm", "--where.partition", "any") == alone
    assert (slurm / "reading" / "executor.pik").exists()


def test_what_slurm_and_ray_lack_is_said(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "corpus",
        "build",
        "--pubmed",
        f"{raw}/*.xml",
        "--out",
        str(tmp_path / "out"),
        "--where.executor",
        "slurm",
    ]
    assert biomlm(command) == 2
    assert "--where.partition" in capsys.readouterr().err
    assert biomlm([*command, "--where.partition", "any"]) == 2
    assert "`sbatch` did not take the job" in capsys.readouterr().err


class Killed:
    """A step that dies as if the system had killed it."""

    def __call__(self, _data: Any, _rank: int, _world: int) -> Any:
        os.kill(os.getpid(), 9)


def test_a_killed_worker_is_an_error_and_no_hang(tmp_path: Path) -> None:
    executor = LocalExecutor([Killed()], 2, 2, str(tmp_path / "marks"), lambda: None)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="killed a worker"):
        executor.run()


def test_a_mistake_found_by_a_worker_is_said_like_any_other(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (raw / "wrong.csv").write_text("a,b\n1,2\n")
    command = [
        "--pubmed",
        f"{raw}/*.xml",
        "--notes",
        f"{raw}/wrong.csv",
        "--out",
        str(tmp_path / "out"),
        "--workers",
        "2",
    ]
    assert biomlm(["corpus", "build", *command]) == 2
    assert "there is no column `text` among the 2 columns of the first row" in capsys.readouterr().err
