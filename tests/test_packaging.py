"""What is installed: the same files from a clone, from an archive and from the sdist, and a copy without its links is refused."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = [path.parent.name for path in ROOT.glob("*/py.typed")]
SOURCES = ["setup.py", "pyproject.toml", "README.md", "LICENSE", "demo", *ROOMS]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy with its links, as git and tar make one."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, folder / name)
    shutil.copytree(ROOT / "src" / "biomlm", folder / "src" / "biomlm", symlinks=True)
    return folder


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def wheel_of(folder: Path, out: Path) -> Path:
    built = run(
        folder, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), "."
    )
    assert built.returncode == 0, built.stderr
    return next(out.glob("*.whl"))


def test_a_copy_whose_links_became_text_is_refused(checkout: Path) -> None:
    link = checkout / "src" / "biomlm" / "corpus"
    link.unlink()
    link.write_text("../../corpus")  # as a zip archive unpacks it
    done = run(checkout, "setup.py", "--name")
    assert done.returncode != 0
    assert "lost its symbolic links" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2


def test_the_packages_are_all_folders_with_modules(checkout: Path) -> None:
    done = run(checkout, "-c", "import setuptools; setuptools.setup = lambda **k: print(*k['packages']); import setup")
    assert done.returncode == 0, done.stderr
    folders = {path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert set(done.stdout.split()) == {"biomlm"} | {
        f"biomlm.{folder.as_posix().replace('/', '.')}" for folder in folders
    }


@pytest.mark.slow
def test_clone_archive_and_sdist_install_the_same_files(checkout: Path, tmp_path: Path) -> None:
    cloned = files(wheel := wheel_of(checkout, tmp_path / "clone"))
    kept = {p.relative_to(ROOT).as_posix() for room in ROOMS for p in (ROOT / room).rglob("*") if p.is_file()}
    assert {name.removeprefix("biomlm/") for name in cloned} >= {name for name in kept if "__pycache__" not in name}
    made = run(checkout, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path / "sdist"))
    assert made.returncode == 0, made.stderr
    with tarfile.open(next((tmp_path / "sdist").glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    assert files(wheel_of(next((tmp_path / "unpacked").iterdir()), tmp_path / "again")) == cloned
    place = tmp_path / "elsewhere"
    done = run(tmp_path, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), str(wheel))
    assert done.returncode == 0, done.stderr
    begin = f"import sys; sys.path.insert(0, {str(place)!r}); from biomlm.core import cli"
    code = f"{begin}; sys.exit(cli.run(['launch', 'plan', 'demo', '--out', 'o']))"
    planned = run(tmp_path, "-c", code)
    assert planned.returncode == 0, planned.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(place)}
    words = [sys.executable, "-m", "biomlm.core", "launch", "demo", "--scale", "smoke"]
    smoke = subprocess.run(words, cwd=empty, env=environment, capture_output=True, text=True, check=False)
    assert smoke.returncode == 0, smoke.stderr
    assert (empty / "runs/demo-smoke/teacher-hf/config.json").is_file()
