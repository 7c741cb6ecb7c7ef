"""Folders that the commit before the move finished are found to be done, and those that it left half done are gone on with."""

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from biomlm.core import cli
from biomlm.core.manifest import read_manifest
from biomlm.launch.backends.ranks import Machine

GOLDENS = Path(__file__).parents[1] / "data" / "goldens"
FACTS: dict[str, Any] = json.loads((GOLDENS / "world.json").read_text())
STAGES = [stage for stage in FACTS["stages"] if stage != "launch"]
TRAINED = ["teacher", "student"]
LATER = {"teachers as read", "model as read"}  # inputs that manifests did not have: all files of a model that is read
LAUNCHED = ["corpus", "tokenizer", "shards", "teacher"]
CHANGED = {  # an option off its recorded value, which the folder must be refused for
    "corpus": "--min_words 6",
    "tokenizer": "--min_frequency 3",
    "shards": "--docs done/launch/corpus",
    "teacher": "--seed 2",
    "student": "--loss.hidden 2",
    "cache": "--k 5",
    "ner": "--optim.lr 1e-3",
}
TIMED = {"scores.json"}  # says times as well as scores
STATE = "checkpoints/step_0/state.json"
FLOATS = {"predictions.jsonl", "answers"}  # come of sums of floats, and are the same on the same machine only

Same = Callable[[Path, Path], None]


def words(stage: str, out: str) -> list[str]:
    """A stage's recorded command line."""
    return [*FACTS["stages"][stage].split(), "--out", out]


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file but the lock."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def read(folder: Path) -> dict[str, Any]:
    """A folder's manifest, as it is."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def losses(run: Path) -> dict[str, float]:
    """Step → training loss."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {str(record["step"]): record["loss"] for record in records if record["split"] == "train"}


def require_equal(stage: str, folder: Path, golden: Path, same_file: Same, same_machine: bool) -> None:
    """Assert that a finished folder holds what the golden one does, its manifest's facts included."""
    now, then = read(folder), read(golden)
    if stage == "ner":
        require_added(folder, golden, now, same_machine)
    assert now["status"] == "done"
    for fact in ("stage", "format", "config_hash", "counts"):
        assert now[fact] == then[fact], fact
    assert {name: now["inputs"][name] for name in now["inputs"].keys() - LATER} == then["inputs"]
    assert now["outputs"].keys() == then["outputs"].keys()
    assert set(now["config"]) >= set(then["config"])
    for name in then["outputs"]:
        if stage == "ner" and name == STATE:
            continue
        if not set(Path(name).parts) & (TIMED if same_machine else TIMED | FLOATS):
            same_file(folder / name, golden / name)
    if stage in TRAINED:
        assert losses(folder) == pytest.approx(losses(golden), rel=1e-3)


def require_added(folder: Path, golden: Path, now: dict[str, Any], same_machine: bool) -> None:
    """Assert what a fine-tuned model says since then, of its head, its words and how much of dev is in test, and nothing else."""
    assert now["counts"]["test"].pop("also in dev") == 4
    state, then = (json.loads((where / STATE).read_text()) for where in (folder, golden))
    assert state["facts"]["finetune"].pop("cutting") == {"apart": True, "inside": "", "front": "", "end": ""}
    assert state["facts"]["finetune"].pop("reads_words") is True
    assert state["facts"]["finetune"].pop("head") == "tokens"
    if not same_machine:  # the tensors themselves are compared, nearly
        assert state.pop("sha256").keys() == then.pop("sha256").keys()
    assert state == then


@pytest.mark.parametrize("stage", STAGES)
def test_a_finished_folder_is_done(stage: str, world: Path) -> None:
    folder = world / "done" / stage
    before = snapshot(folder)
    assert cli.run(words(stage, f"done/{stage}")) == 0
    assert snapshot(folder) == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_finished_folder_is_refused_to_another_configuration(
    stage: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(world / "done" / stage)
    assert cli.run([*words(stage, f"done/{stage}"), *CHANGED[stage].split()]) == 2
    said = capsys.readouterr().err
    assert "made with another" in said
    assert CHANGED[stage].split()[0].removeprefix("--") in said
    assert snapshot(world / "done" / stage) == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_comes_to_what_it_came_to(stage: str, world: Path, same_file: Same, same_machine: bool) -> None:
    assert cli.run(words(stage, "new")) == 0
    require_equal(stage, world / "new", GOLDENS / "world" / "done" / stage, same_file, same_machine)


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_folder_is_gone_on_with(
    stage: str, world: Path, same_file: Same, same_machine: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read(world / "cut" / stage)["status"] == "running"
    assert cli.run(words(stage, f"cut/{stage}")) == 0
    require_equal(stage, world / "cut" / stage, GOLDENS / "world" / "done" / stage, same_file, same_machine)
    if stage in TRAINED:
        assert "going on from step 8 of 40" in capsys.readouterr().err


def test_documents_that_were_read_before_the_interruption_are_not_read_again(world: Path) -> None:
    part = next((world / "cut/corpus/.work/parts/00000").glob("*.jsonl.gz"))
    mark(part)
    assert cli.run(words("corpus", "cut/corpus")) == 0
    built = b"".join(gzip.decompress(path.read_bytes()) for path in (world / "cut/corpus").glob("*/*.jsonl.gz"))
    assert b"Case ###" in built


def mark(part: Path) -> None:
    """Change the titles of a part, by which it is known again, without moving an offset."""
    lines = gzip.decompress(part.read_bytes())
    assert lines.count(b"Case 1") > 9
    part.write_bytes(gzip.compress(lines.replace(b"Case 10", b"Case ##").replace(b"Case ##1", b"Case ###")))


def test_shards_that_were_encoded_before_the_interruption_are_not_encoded_again(world: Path) -> None:
    part = world / "cut/shards/.parts/train-00000/part.bin"
    first, *_ = (GOLDENS / "world/done/shards/train.bin").read_bytes()[:1]
    changed = bytes([first ^ 1]) + part.read_bytes()[1:]
    part.write_bytes(changed)
    assert cli.run(words("shards", "cut/shards")) == 0
    assert (world / "cut/shards/train.bin").read_bytes()[: len(changed)] == changed


def test_answers_that_were_asked_for_before_the_interruption_are_not_asked_for_again(world: Path) -> None:
    first = world / "cut/cache/answers/00000.bin"
    before = first.stat().st_mtime_ns
    assert cli.run(words("cache", "cut/cache")) == 0
    assert first.stat().st_mtime_ns == before


def test_a_student_learns_from_an_old_cache_as_from_an_old_teacher(world: Path) -> None:
    line = FACTS["stages"]["student"].replace("--loss.hidden 1 --loss.layers 1:2", "--cache done/cache --loss.hidden 0")
    assert cli.run([*line.split(), "--out", "new"]) == 0
    assert read(world / "new")["inputs"]["cache"] == read_manifest(world / "done/cache", "distill cache").fingerprint


def test_an_old_fine_tuned_model_predicts(world: Path) -> None:
    (world / "texts.txt").write_text("Treatment with aspirin often protects the heart of the patient.\n")
    assert cli.run(["finetune", "predict", "done/ner", "texts.txt", "--out", "predictions.jsonl"]) == 0
    assert len((world / "predictions.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("run", ["done/teacher", "cut/teacher", "cut/ddp", "cut/fsdp", "cut/deepspeed"])
def test_an_old_checkpoint_of_every_engine_is_converted(run: str, world: Path) -> None:
    assert cli.run(["convert", run, "hf", "--to", "hf"]) == 0
    assert load_file(world / "hf" / "model.safetensors")


def test_a_finished_launch_has_nothing_left_to_do(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(world / "done/launch")
    assert cli.run(words("launch", "done/launch")) == 0
    assert capsys.readouterr().err.count("already done") == 5
    assert snapshot(world / "done/launch") == before


@pytest.mark.slow
def test_an_interrupted_launch_is_gone_on_with(world: Path, same_file: Same, capfd: pytest.CaptureFixture[str]) -> None:
    before = {stage: snapshot(world / "cut/launch" / stage) for stage in LAUNCHED[:3]}
    assert cli.run(words("launch", "cut/launch")) == 0
    said = capfd.readouterr().err
    assert said.count("already done") == 3, said
    assert "going on from step" in said
    assert {stage: snapshot(world / "cut/launch" / stage) for stage in LAUNCHED[:3]} == before
    for file in ("model.safetensors", "tokenizer.json"):
        same_file(world / "cut/launch/hf" / file, GOLDENS / "world/done/launch/hf" / file)
    assert losses(world / "cut/launch/teacher") == pytest.approx(losses(world / "done/launch/teacher"), rel=1e-3)


@pytest.mark.parametrize("engine", FACTS["engines"])
def test_one_process_goes_on_from_the_checkpoint_of_any_engine(engine: str, world: Path) -> None:
    assert cli.run(words("teacher", f"cut/{engine}")) == 0
    require_run(world / "cut" / engine, FACTS["runs"][engine], bits=False)


@pytest.mark.slow
@pytest.mark.parametrize("engine", FACTS["engines"])
def test_an_engine_goes_on_from_its_own_checkpoint(engine: str, world: Path, same_machine: bool) -> None:
    if engine == "deepspeed":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    argv = [*words("teacher", f"cut/{engine}"), *FACTS["engines"][engine].split()]
    done = subprocess.run(Machine(2).command(argv), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stderr
    require_run(world / "cut" / engine, FACTS["runs"][engine], bits=same_machine)


def require_run(run: Path, recorded: dict[str, Any], *, bits: bool) -> None:
    """Assert that a run came to what was recorded of one that nothing interrupted."""
    assert losses(run) == pytest.approx(recorded["loss"], rel=1e-3)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {str(r["step"]): r["batches"] for r in records if r["split"] == "train"} == recorded["batches"]
    assert json.loads((run / "result.json").read_text())["valid"]["loss"] == pytest.approx(recorded["valid"], rel=1e-3)
    assert read(run)["config_hash"] == read(GOLDENS / "world/done/teacher")["config_hash"]
    if bits:
        assert json.loads((run / "checkpoints/step_40/state.json").read_text())["sha256"] == recorded["sha256"]
