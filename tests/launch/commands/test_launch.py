"""Running a recipe: the stages, their order, what is skipped, and how it goes on after a failure."""

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomlm.core import cli
from biomlm.launch.backends import local
from biomlm.launch.commands.launch import time_left

RECIPE = """\
description: a corpus and two pages
vars: {{data: {data}}}
inputs: ["${{data}}"]
stages:
  - {{name: corpus, verb: corpus build, args: {{text: ["${{data}}/*.txt"], out: "${{out}}/corpus"}}}}
  - {{name: other, verb: report, args: {{runs: ["${{data}}/elsewhere"], out: "${{out}}/other.html"}}}}
  - {{name: report, verb: report, args: {{runs: ["${{out}}/corpus"], out: "${{out}}/report.html"}}}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    for i in range(4):
        (data / f"{i}.txt").write_text(f"Document {i} tells of the heart and of the lung, at length {i * 17}.")
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE.format(data=data))
    return path


def launch(recipe: Path, *words: str) -> int:
    return cli.run(["launch", str(recipe), "--out", str(recipe.parent / "out"), *words])


def state(recipe: Path) -> dict[str, dict[str, Any]]:
    raw = orjson.loads((recipe.parent / "out" / "launch.json").read_bytes())
    return {record["name"]: record for record in raw["stages"]}


KILLED = """
import os, signal, sys
from biomlm.core.cli import run
from biomlm.launch.backends import local
start = local.run_stage
def killed(*given, **named):
    code = start(*given, **named)
    os.kill(os.getpid(), signal.SIGKILL)
local.run_stage = killed
run(sys.argv[1:])
"""


def test_a_launch_killed_in_its_first_stage_goes_on(recipe: Path, launched: Path) -> None:
    elsewhere(recipe, launched)
    out = recipe.parent / "out"
    words = ["launch", str(recipe), "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (out / "corpus" / "manifest.json").exists(), "the stage has begun, and the launch has noted none"
    assert launch(recipe) == 0
    assert all(record["key"] for record in state(recipe).values())


def elsewhere(recipe: Path, launched: Path) -> None:
    (recipe.parent / "data" / "elsewhere").symlink_to(launched)


def test_a_failed_stage_stops_the_launch_and_the_same_command_goes_on(
    recipe: Path, launched: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = recipe.parent / "out"
    assert launch(recipe) == 2
    told = capfd.readouterr().err
    assert "stage 2 of 3 · other (report)" in told
    assert "stage other ended with exit code 2" in told
    assert "Mend that, then run the same command again" in told
    assert "Traceback" not in told
    assert state(recipe)["corpus"]["key"]
    assert not state(recipe)["other"]["key"]
    assert not (out / "report.html").exists()

    elsewhere(recipe, launched)
    before = (out / "corpus" / "manifest.json").stat().st_mtime_ns
    assert launch(recipe) == 0
    told = capfd.readouterr()
    assert "stage 1 of 3 · corpus (corpus build) · already done" in told.err
    assert "all 3 stages done" in told.err
    assert "documents kept" in told.out
    assert (out / "corpus" / "manifest.json").stat().st_mtime_ns == before
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert "records = kept + dropped" in (out / "logs" / "corpus.log").read_text()
    assert (out / "logs" / "corpus.log").read_text().endswith("exit code 0\n")

    assert launch(recipe) == 0
    assert capfd.readouterr().err.count("already done") == 3


def test_what_changed_is_run_again_and_refuses_to_mix(
    recipe: Path, launched: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    elsewhere(recipe, launched)
    assert launch(recipe) == 0
    recipe.write_text(recipe.read_text().replace('out: "${out}/corpus"', 'out: "${out}/corpus", valid_fraction: 0.4'))
    assert launch(recipe) == 2
    assert "made with another configuration: valid_fraction" in capfd.readouterr().err
    assert launch(recipe, "--override") == 0
    assert "already done" in capfd.readouterr().err, "the page that reads something else need not be made again"
    assert b"0.4" in (recipe.parent / "out" / "corpus" / "manifest.json").read_bytes()


def test_new_input_runs_its_stage_again(recipe: Path, launched: Path, capfd: pytest.CaptureFixture[str]) -> None:
    elsewhere(recipe, launched)
    assert launch(recipe) == 0
    (recipe.parent / "data" / "9.txt").write_text("A new document tells of the liver and of the kidney, too.")
    assert launch(recipe) == 2
    assert "another input" in capfd.readouterr().err


def test_a_wrong_option_of_the_last_stage_is_found_before_the_first_is_run(
    recipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(recipe.read_text().replace('runs: ["${out}/corpus"]', 'run: ["${out}/corpus"]'))
    assert launch(recipe) == 2
    told = capfd.readouterr().err
    assert "mine.yaml (line 7): stage report: there is no option --run" in told
    assert "Did you mean --runs?" in told
    assert not (recipe.parent / "out" / "logs").exists()


def test_dry_run_prints_commands_and_writes_nothing(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(recipe, "--dry_run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("biomlm corpus build --text '")
    assert not (recipe.parent / "out").exists()


def test_plan_shows_commands_and_what_they_wait_for(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["launch", "plan", str(recipe), "--out", "o"]) == 0
    told = capsys.readouterr().out
    assert "a corpus and two pages" in told
    assert "o/corpus" in told
    assert "3 report" in told


def test_missing_input_is_said_at_once(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(recipe, "--var", f"data={tmp_path}/nowhere") == 2
    told = capsys.readouterr().err
    assert "nowhere" in told
    assert "--var" in told
    assert not (tmp_path / "out").exists()


def test_folders_of_others_are_refused(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = recipe.parent / "out"
    out.mkdir()
    (out / "thesis.doc").write_text("precious")
    assert launch(recipe) == 2
    assert "no launch wrote it" in capsys.readouterr().err
    (out / "thesis.doc").unlink()
    (out / "launch.json").write_text('{"recipe": "mine", "scale": "smoke", "description": "", "stages": []}')
    assert launch(recipe) == 2
    assert "recipe mine at smoke scale" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"stages": [{"name": 1}]}', '{"stages": 3}'])
def test_a_damaged_state_is_said(recipe: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe.parent / "out").mkdir()
    (recipe.parent / "out" / "launch.json").write_text(text)
    assert launch(recipe) == 2
    assert "Remove the file" in capsys.readouterr().err


def test_a_file_is_no_output_folder(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe.parent / "out").write_text("a file")
    assert launch(recipe) == 2
    assert "Give a folder to --out" in capsys.readouterr().err


def test_two_launches_do_not_share_a_folder(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe.parent / "out").mkdir()
    code = "import sys; from biomlm.core.processes import lock; lock.hold(sys.argv[1]); print(flush=True); input()"
    command = [sys.executable, "-c", code, str(recipe.parent / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert launch(recipe) == 2
        assert f"process {other.pid} on {socket.gethostname()} is at work" in capsys.readouterr().err
        other.kill()


def test_a_killed_stage_has_a_shells_exit_code(tmp_path: Path) -> None:
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    assert local.run_stage(["x"], tmp_path / "x.log", killed) == 137


def test_on_a_terminal_the_stage_has_the_terminal_and_the_log_its_results(tmp_path: Path) -> None:
    stage = "import sys; print('a result'); print('live' if sys.stderr.isatty() else 'dull', file=sys.stderr)"
    begin = "import sys; from biomlm.launch.backends import local; from pathlib import Path"
    code = f"{begin}; local.run_stage(['x'], Path('x.log'), [sys.executable, '-c', {stage!r}])"
    primary, secondary = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stderr=secondary, stdin=secondary, cwd=tmp_path, check=True)
    os.close(secondary)
    told = os.read(primary, 4096).decode()
    os.close(primary)
    assert "live" in told
    assert "a result" in told
    assert (tmp_path / "x.log").read_text() == "$ biomlm x\na result\nexit code 0\n"


STAGE = """
import os, signal, sys, time
from biomlm.core.processes.signals import let_signals_through
answers = lambda number, frame: (open("heard", "w").write(signal.Signals(number).name), time.sleep(%s), sys.exit(75))
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, answers)
let_signals_through()
open("pid", "w").write(str(os.getpid()))
os.rename("pid", "started")
time.sleep(60)
"""
LAUNCH = """
import signal, sys
from pathlib import Path
from biomlm.core import cli, verbs
from biomlm.launch.backends import local
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and so some CI, start with it ignored
cli.run = lambda argv: local.run_stage(["x"], Path("x.log"), [sys.executable, "-c", {stage!r}], {deadline})
try:
    cli.main([])
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("number", "needs", "deadline", "code"),
    [
        (signal.SIGTERM, 1.0, 0, 75),
        (signal.SIGUSR1, 1.0, 0, 75),
        (signal.SIGINT, 1.0, 0, 130),
        (signal.SIGTERM, 60.0, 0.5, 75),
    ],
)
def test_a_stopped_launch_passes_the_signal_on_and_waits_for_its_stage(
    tmp_path: Path, number: signal.Signals, needs: float, deadline: float, code: int
) -> None:
    """It waits for as long as the stage needs, unless a deadline is given."""
    script = LAUNCH.format(stage=STAGE % needs, deadline=deadline)
    launcher = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    wait_for(tmp_path / "started")
    launcher.send_signal(number)
    assert launcher.wait(20) == code
    assert (tmp_path / "heard").read_text() == number.name
    assert ("exit code 75" in (tmp_path / "x.log").read_text()) == (not deadline)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "started").read_text()), 0)


def test_a_stage_whose_launch_is_killed_is_asked_to_end(tmp_path: Path) -> None:
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCH.format(stage=STAGE % 0, deadline=0)], cwd=tmp_path)
    wait_for(tmp_path / "started")
    launcher.kill()
    launcher.wait()
    wait_for(tmp_path / "heard")
    assert (tmp_path / "heard").read_text() == "SIGTERM"


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 20
    while not (file.exists() and file.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)


@given(
    worked=st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 1e5)), max_size=5),
    left=st.floats(0.1, 1000),
    slower=st.floats(0.1, 1e4),
)
def test_time_left_is_the_plan_at_first_and_grows_with_delay(
    worked: list[tuple[float, float]], left: float, slower: float
) -> None:
    assert time_left([], left) == pytest.approx(60 * left)
    on_plan = [(minutes, 60 * minutes) for minutes, _ in worked]
    assert time_left(on_plan, left) == pytest.approx(60 * left)
    late = [(minutes, seconds + slower) for minutes, seconds in worked]
    assert time_left(late, left) >= time_left(worked, left) > 0


def test_a_finished_stage_whose_file_is_damaged_is_not_done(
    recipe: Path, launched: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file that was only touched is; one that is other bytes is named, for every stage that writes a manifest."""
    elsewhere(recipe, launched)
    assert launch(recipe) == 0
    out = recipe.parent / "out"
    listed = orjson.loads((out / "corpus" / "manifest.json").read_bytes())["outputs"]
    file = out / "corpus" / sorted(listed)[0]
    os.utime(file)
    assert launch(recipe) == 0
    right = file.read_bytes()
    file.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    capfd.readouterr()
    assert launch(recipe) == 2
    assert f"{file.name}: it is not what the finished stage wrote" in capfd.readouterr().err
    file.unlink()
    assert launch(recipe) == 2
    file.write_bytes(right)
    assert launch(recipe) == 0
