"""What a command leaves on a machine that others share: files that its user alone reads, nothing of a killed one, nothing behind a link."""

import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sentencepiece

from biomlm.core import cli, manifest
from biomlm.core.errors import UnsafeFileError
from biomlm.core.processes import lock
from biomlm.launch.backends import hosts, local

ROWS = "row_id,subject_id,category,iserror,text\n" + "".join(
    f'{i},{i // 2},Nursing,,"The patient of bed {i} slept well and ate little."\n' for i in range(40)
)
OPEN = "import os, sys; os.umask(0); from biomlm.core import cli; cli.main(sys.argv[1:])"


def commands(notes: Path, out: Path) -> Iterator[list[object]]:
    """Verbs that read notes, with every kind of process that they start on one machine."""
    build = ["corpus", "build", "--notes", notes, "--keep_dropped", "--valid_fraction", "0.2", "--min_words", 1]
    yield [*build, "--out", out / "docs", "--workers", 2]
    train = ["tokenizer", "train", "--docs", out / "docs", "--vocab_size", 280]
    yield [*train, "--out", out / "tokenizer", "--workers", 2]
    yield [*train, "--kind", "sentencepiece-bpe", "--vocab_size", 60, "--out", out / "pieces", "--workers", 1]
    shards = ["--docs", out / "docs", "--tokenizer", out / "tokenizer", "--out", out / "shards"]
    yield ["tokenizer", "encode", *shards, "--workers", 2]


def test_what_is_made_of_notes_is_its_users_alone_whatever_the_umask(tmp_path: Path) -> None:
    notes, out = tmp_path / "NOTEEVENTS.csv", tmp_path / "out"
    notes.write_text(ROWS)
    for words in commands(notes, out):
        done = subprocess.run(
            [sys.executable, "-c", OPEN, *map(str, words)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [out, *out.rglob("*")]}
    assert len(modes) > 30
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


def test_a_clusters_task_keeps_its_files_to_its_user(tmp_path: Path) -> None:
    code = """
import os, resource
from pathlib import Path
from biomlm.corpus.pipeline.guard import Guarded
os.umask(0)
def step(data, rank, size):
    Path("written").touch()
    print(oct(Path("written").stat().st_mode), resource.getrlimit(resource.RLIMIT_CORE))
    return ()
list(Guarded([step]).run(None, 0, 1))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "0o100600 (0, 0)\n", done.stderr


def test_a_crash_writes_no_memory_to_the_disk() -> None:
    code = """
import resource
from biomlm.core import cli
resource.setrlimit = lambda what, limits: print(what == resource.RLIMIT_CORE, limits)
cli.run = lambda _: 0
cli.main([])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True (0, 0)\n", done.stderr


# links


def as_lock(out: Path, elsewhere: Path) -> None:
    (out / lock.NAME).symlink_to(elsewhere)


def as_output(out: Path, elsewhere: Path) -> None:
    (out / "train").symlink_to(elsewhere.parent)


def deeper(out: Path, elsewhere: Path) -> None:
    (out / "a" / "b").mkdir(parents=True)
    (out / "a" / "b" / "c.npy").symlink_to(elsewhere)


def dangling(out: Path, elsewhere: Path) -> None:
    (out / "metrics.jsonl").symlink_to(elsewhere.with_name("nowhere"))


@pytest.mark.parametrize("plant", [as_lock, as_output, deeper, dangling])
def test_a_stages_folder_with_a_link_in_it_is_refused(
    plant: Callable[[Path, Path], None], tmp_path: Path, tiny_docs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "home" / ".bashrc"
    elsewhere.parent.mkdir()
    elsewhere.write_text("mine\n")
    words = ["tokenizer", "train", "--docs", str(tiny_docs), "--vocab_size", "300", "--workers", "1", "--out", str(out)]
    assert cli.run(words) == 0
    record = manifest.read_manifest(out, "tokenizer train")
    record.status = "running"
    record.write(out)
    plant(out, elsewhere)
    capsys.readouterr()
    assert cli.run(words) == 2
    error = capsys.readouterr().err
    assert "link" in error
    assert error.count("\n") == 2
    assert [path.name for path in elsewhere.parent.iterdir()] == [".bashrc"]
    assert elsewhere.read_text() == "mine\n"


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine\n")
    (tmp_path / "out").mkdir()
    as_lock(tmp_path / "out", tmp_path / "mine")
    with pytest.raises(UnsafeFileError, match="not a lock"):
        lock.hold(tmp_path / "out")
    assert (tmp_path / "mine").read_text() == "mine\n"


@pytest.mark.parametrize("linked", ["logs", "logs/tell.log", "logs/tell-one.log"])
def test_a_log_that_is_a_link_is_not_followed(linked: str, tmp_path: Path) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.mkdir()
    (mine / "tell.log").write_text("mine\n")
    (out / linked).parent.mkdir(parents=True)
    (out / linked).symlink_to(mine if linked == "logs" else mine / "tell.log")
    with pytest.raises(UnsafeFileError):
        if "one" in linked:
            hosts.run_stage(["--version"], out / "logs" / "tell.log", [hosts.Host("one", 1)])
        else:
            local.run_stage(["--version"], out / "logs" / "tell.log")
    assert [path.name for path in mine.iterdir()] == ["tell.log"]
    assert (mine / "tell.log").read_text() == "mine\n"


@pytest.mark.parametrize("name", ["logs", "slurm"])
def test_a_launch_in_a_folder_with_a_link_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "mine")
    (tmp_path / "out" / "launch.json").write_text(
        '{"recipe": "demo", "scale": "smoke", "description": "", "stages": []}'
    )
    assert cli.run(["launch", "demo", "--scale", "smoke", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    assert not any((tmp_path / "mine").iterdir())


# what killed processes leave: more in tests/convert/safe_load/test_archive.py


def test_words_of_notes_are_counted_beside_the_output(
    tmp_path: Path, tiny_docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, read = sentencepiece.SentencePieceTrainer.train, []

    def watched(**options: object) -> object:
        read.append((Path(str(options["input"])), Path(str(options["input"])).stat().st_mode))
        return train(**options)

    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "train", watched)
    words = [
        "--docs",
        str(tiny_docs),
        "--kind",
        "sentencepiece-bpe",
        "--vocab_size",
        "100",
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.run(["tokenizer", "train", *words, "--workers", "1"]) == 0
    ((path, mode),) = read
    assert path.parent == tmp_path / "out"
    assert stat.S_IMODE(mode) == 0o600
    (tmp_path / "out" / ".words.a1b2.tmp").write_text("what a killed one left")
    record = manifest.read_manifest(tmp_path / "out", "tokenizer train")
    record.status = "running"
    record.write(tmp_path / "out")
    assert cli.run(["tokenizer", "train", *words, "--workers", "1"]) == 0
    assert not list((tmp_path / "out").glob(".words*"))
