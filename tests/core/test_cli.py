"""Exit codes, and that no combination of words ends in a traceback."""

import errno
import importlib.metadata
import os
import signal
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from biomlm.core import cli
from biomlm.core.errors import DataError
from biomlm.core.files import read_json
from biomlm.core.verbs import Verb


@dataclass(frozen=True)
class Config:
    """Nothing.

    Args:
        how: What happens.
    """

    how: str = "well"


def act(config: Config) -> None:
    if config.how == "user":
        raise DataError("it is broken", file="f.xml", record="PMID 7", remedy="Mend it.")
    if config.how == "disk":
        raise OSError(errno.ENOSPC, "No space left on device", "out.bin")
    if config.how == "stop":
        raise KeyboardInterrupt
    if config.how == "bug":
        raise RuntimeError("ours")


@pytest.fixture(autouse=True)
def fake_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("biomlm_fake")
    module.Config, module.act = Config, act  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "biomlm_fake", module)
    fake = Verb("a verb of the test", "biomlm_fake:Config", "biomlm_fake:act", "biomlm fake", positionals=("how",))
    monkeypatch.setitem(cli.VERBS, "fake", fake)


@pytest.mark.parametrize(
    ("how", "code", "lines", "said"),
    [
        ("well", 0, 0, ""),
        ("user", 2, 2, "biomlm fake: f.xml (PMID 7): it is broken.\nMend it."),
        ("disk", 2, 2, "out.bin: No space left on device"),
        ("stop", 130, 2, "goes on where it was"),
        ("bug", 1, None, "fault of biomlm"),
    ],
)
def test_exit_codes(how: str, code: int, lines: int | None, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["fake", how]) == code
    err = capsys.readouterr().err
    assert said in err
    assert ("Traceback" in err) == (code == 1)
    assert lines is None or len(err.splitlines()) == lines


def test_verbose_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["fake", "user", "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code"), [([], 0), (["--help"], 0), (["corpus"], 0), (["nonsense"], 2), (["corpus", "x"], 2)]
)
def test_usage(argv: list[str], code: int) -> None:
    assert cli.run(argv) == code


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"biomlm {importlib.metadata.version('biomlm')}\n"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("pretrian --out x", "pretrain"),
        ("corpus biuld", "corpus build"),
        ("tokeniser train", "tokenizer train"),
        ("docter", "doctor"),
    ],
)
def test_a_mistyped_verb_gets_the_nearest_one(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(typed.split()) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[1] == f"Did you mean `biomlm {meant}`?"
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize("verb", [v for v in cli.VERBS if v != "fake"])
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*verb.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert f"biomlm {verb}" in out
    assert "example:" in out
    start = out.partition("start with:")[2].partition("\noptions:")[0]
    assert all(f"--{name} " in start for name in cli.VERBS[verb].first), "the options that matter most come first"


def test_help_imports_nothing_heavy() -> None:
    """A cold import of torch takes seconds; every verb's options are shown in a process that has none of these."""
    code = """
import sys
from biomlm.core import cli
for verb in cli.VERBS:
    assert cli.run([*verb.split(), "--help"]) == 0
heavy = {"torch", "transformers", "tokenizers", "datatrove", "numpy", "lxml", "deepspeed"} & set(sys.modules)
print("HEAVY", sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize("verb", [v for v in cli.VERBS if v not in ("fake", "doctor")])
def test_no_verb_answers_nonsense_with_a_traceback(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--nonsense", "1"], ["--out"], ["--config", "/no/such/file"], ["a", "b", "c", "d"], []):
        assert cli.run([*verb.split(), *argv]) == 2
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert 1 <= len(err.splitlines()) <= 2


def test_python_m_room_is_the_verb() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "biomlm.pretrain", "--steps", "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("biomlm pretrain: ")


DEMO = Path(__file__).parents[2] / "demo" / "data" / "pubmed"
BUILD = ["corpus", "build", "--pubmed", *(str(DEMO / f"works_0{i}.xml.gz") for i in (2, 3)), "--workers", "2", "--out"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The hashes of a build that nothing stopped."""
    out = tmp_path_factory.mktemp("built") / "docs"
    assert cli.run([*BUILD, str(out)]) == 0
    return read_json(out / "manifest.json")["outputs"]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_batch_systems_signal_stops_a_stage_which_then_goes_on(
    number: signal.Signals, built: object, tmp_path: Path
) -> None:
    """SLURM signals every process of a job, the workers too."""
    out = tmp_path / "docs"
    command = [sys.executable, "-m", "biomlm.core", *BUILD, str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        end = time.monotonic() + 120
        while not list((out / ".work").glob("progress/*")) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        os.killpg(process.pid, number)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 75, said
    assert f"stopped by {number.name}" in said
    assert "Traceback" not in said
    assert read_json(out / "manifest.json")["status"] == "stopped"
    assert cli.run([*BUILD, str(out)]) == 0
    now = read_json(out / "manifest.json")
    assert (now["status"], now["outputs"]) == ("done", built)


WORKING = """
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from biomlm.core.processes.signals import stay
if __name__ == "__main__":
    pool = ProcessPoolExecutor(3, get_context("spawn"), initializer=stay)
    busy = [pool.submit(time.sleep, 60) for _ in range(3)]
    while not all(one.running() for one in busy):
        time.sleep(0.1)
    while True:
        print(*pool._processes, flush=True)
        time.sleep(1)
"""


def lives(cmdline: Path) -> bool:
    """Whether there is such a process; one that has ended and waits for its parent has no command line."""
    try:
        return bool(cmdline.read_bytes())
    except OSError:
        return False


def test_workers_of_a_killed_process_end_with_it(tmp_path: Path) -> None:
    (tmp_path / "working.py").write_text(WORKING)
    argv = [sys.executable, str(tmp_path / "working.py")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        workers = [Path(f"/proc/{number}/cmdline") for number in parent.stdout.readline().split()]
        assert len(workers) == 3
        assert all(map(lives, workers))
        parent.kill()
        parent.wait(20)
        end = time.monotonic() + 5
        while any(map(lives, workers)) and time.monotonic() < end:
            time.sleep(0.1)
        assert not any(map(lives, workers))
