"""Recipes as batch jobs: the scripts, what sbatch is told, and, where SLURM can be started, a real queue with a preempted job."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest

from biomlm.core import checkpoint, cli
from biomlm.core.manifest import Manifest
from biomlm.launch.backends.ranks import Machine

HERE = Path(__file__).parent
RECIPE = """\
description: a small pretraining
stages:
  - {{name: corpus, verb: corpus build, args: {{text: ["{data}/*.txt"], out: "${{out}}/corpus", min_words: 1, valid_fraction: 0.2}}}}
  - {{name: tokenizer, verb: tokenizer train, args: {{docs: "${{out}}/corpus", out: "${{out}}/tokenizer", vocab_size: 300}}}}
  - name: shards
    verb: tokenizer encode
    args: {{docs: "${{out}}/corpus", tokenizer: "${{out}}/tokenizer", out: "${{out}}/shards"}}
  - name: model
    verb: pretrain
    slurm: {{nodes: 2, time: "1:00:00"}}
    args:
      shards: ${{out}}/shards
      out: ${{out}}/model
      steps: {steps}
      seed: 1
      model: {{size: tiny, num_hidden_layers: 2, hidden_size: 32, num_attention_heads: 2}}
      batch: {{tokens: 256, max_length: 32}}
      save_every: 20
"""
ORGANS = ("heart", "lung", "liver", "kidney", "spleen", "pancreas", "thyroid")
FAKE = """\
#!/bin/bash
echo "$@" >> {log}
if [ "$0" != "${{0%squeue}}" ]; then cat {queue} 2>/dev/null; exit 0; fi
echo $(( $(wc -l < {log}) + 100 ))
"""


def make_recipe(folder: Path, steps: int) -> Path:
    data = folder / "data"
    data.mkdir()
    for i in range(60):
        words = " ".join(
            f"{ORGANS[i * j % 7]} and {ORGANS[(i + j) % 5]}{i % 9} show {j * i % 23} cells." for j in range(1, 12)
        )
        (data / f"{i}.txt").write_text(f"Document {i} tells of {words}")
    path = folder / "mine.yaml"
    path.write_text(RECIPE.format(data=data, steps=steps))
    return path


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sbatch and a squeue that only note what they are told; the folder with their log and queue."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue"):
        file = folder / name
        file.write_text(FAKE.format(log=folder / f"{name}.log", queue=folder / "queue"))
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def launch(recipe: Path, *words: str) -> int:
    return cli.run(["launch", str(recipe), "--out", str(recipe.parent / "out"), "--on", "slurm", *words])


def test_every_stage_is_a_job_that_waits_for_what_it_reads(tmp_path: Path, fake: Path) -> None:
    recipe = make_recipe(tmp_path, 10)
    assert launch(recipe, "--slurm.partition", "gpu", "--slurm.gpus", "4", "--slurm.setup", "module load cuda") == 0
    told = (fake / "sbatch.log").read_text().splitlines()
    assert [("--dependency" in line, line.split("/")[-1]) for line in told] == [
        (False, "corpus.sbatch"),
        (True, "tokenizer.sbatch"),
        (True, "shards.sbatch"),
        (True, "model.sbatch"),
    ]
    assert "afterok:101:102" in told[2], "shards wait for the corpus and the tokenizer"
    script = (tmp_path / "out" / "slurm" / "model.sbatch").read_text()
    for line in (
        "--partition=gpu",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--gpus-per-node=4",
        "--time=1:00:00",
        "--requeue",
    ):
        assert f"#SBATCH {line}\n" in script
    assert "module load cuda" in script
    assert "model-rank%t.log" in script.replace("'", "")
    assert "--gpus-per-node" not in (tmp_path / "out" / "slurm" / "corpus.sbatch").read_text()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_jobs_in_the_queue_are_not_submitted_twice(
    tmp_path: Path, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(tmp_path, 10)
    assert launch(recipe) == 0
    (fake / "queue").write_text("101 low demo")
    assert launch(recipe) == 2
    assert "still in the queue" in capsys.readouterr().err
    (fake / "queue").unlink()
    assert launch(recipe) == 0


def test_jobs_that_were_queued_under_the_former_name_are_named(
    tmp_path: Path, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(tmp_path, 10)
    assert launch(recipe) == 0
    for script in (tmp_path / "out" / "slurm").glob("*.sbatch"):  # as 0.1 wrote them
        script.write_text(script.read_text().replace("-m biomlm.core", "-m biolm.core"))
    (fake / "queue").write_text("101 low demo")
    assert launch(recipe) == 2
    said = capsys.readouterr().err
    assert "queued when biomlm was called biolm" in said
    assert "scancel 10" in said
    (fake / "queue").unlink()
    assert launch(recipe) == 0
    assert "-m biomlm.core" in (tmp_path / "out" / "slurm" / "model.sbatch").read_text()


def test_a_recorded_stage_is_not_submitted_again(tmp_path: Path, fake: Path) -> None:
    recipe = make_recipe(tmp_path, 10)
    out = str(tmp_path / "out")
    assert launch(recipe) == 0
    text = [str(tmp_path / "data" / "*.txt")]
    assert (
        cli.run(
            [
                "corpus",
                "build",
                "--text",
                *text,
                "--out",
                f"{out}/corpus",
                "--min_words",
                "1",
                "--valid_fraction",
                "0.2",
            ]
        )
        == 0
    )
    assert launch(recipe, "--record", "corpus") == 0
    (fake / "sbatch.log").unlink()
    assert launch(recipe) == 0
    assert "corpus.sbatch" not in (fake / "sbatch.log").read_text()


def test_dry_run_prints_the_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(make_recipe(tmp_path, 10), "--dry_run", "--slurm.arrays", "8", "--slurm.partition", "cpu") == 0
    said = capsys.readouterr().out
    assert said.count("#!/bin/bash") == 4
    assert "--where.executor slurm --workers 8 --where.partition cpu" in said
    assert not (tmp_path / "out").exists()


def test_an_unknown_wish_of_a_stage_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = make_recipe(tmp_path, 10)
    recipe.write_text(recipe.read_text().replace("nodes: 2", "node: 2"))
    assert launch(recipe, "--dry_run") == 2
    assert "there is no `slurm.node`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ("time: 48:00:00", "`slurm.time` is 172800, and must be text"),  # YAML 1.1 reads base 60
        ("nodes: two", "`slurm.nodes` is 'two', and must be a whole number"),
        ("nodes: 0", "slurm.nodes is 0, and must be above 0"),
    ],
)
def test_a_wish_of_the_wrong_kind_is_named_with_its_line(
    tmp_path: Path, wish: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(tmp_path, 10)
    recipe.write_text(recipe.read_text().replace('nodes: 2, time: "1:00:00"', wish))
    assert launch(recipe, "--dry_run") == 2
    said = capsys.readouterr().err
    assert told in said
    assert "mine.yaml (line 1" in said


def scripts(text: str) -> dict[str, str]:
    """Stage → script, of a dry run."""
    return {part.split("# Stage ", 1)[1].split()[0]: part for part in text.split("#!/bin/bash")[1:]}


@pytest.mark.parametrize("gpus", [1, 4, 8])
def test_stages_go_where_they_belong_and_run_behind_a_prefix(
    tmp_path: Path, gpus: int, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(tmp_path, 10)
    more = '  - {name: ner, verb: finetune, args: {model: "${out}/model", task: ner, data: d, out: "${out}/ner"}}\n'
    recipe.write_text(recipe.read_text() + more)
    asked = ["--slurm.partition", "gpu", "--slurm.cpu_partition", "cpu", "--slurm.gpus", str(gpus)]
    asked += ["--slurm.setup", "module purge", "module load apptainer/1.3"]
    assert launch(recipe, "--dry_run", *asked, "--slurm.prefix", "apptainer exec --nv biomlm.sif") == 0
    by_stage = scripts(capsys.readouterr().out)
    assert list(by_stage) == ["corpus", "tokenizer", "shards", "model", "ner"]
    for stage, text in by_stage.items():
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        training, on_gpu = stage == "model", stage in ("model", "ner")
        assert f"#SBATCH --partition={'gpu' if on_gpu else 'cpu'}\n" in text
        assert (f"#SBATCH --gpus-per-node={gpus if training else 1}\n" in text) == on_gpu
        assert f"#SBATCH --ntasks-per-node={gpus if training else 1}\n" in text
        run, note = [line for line in text.splitlines() if "apptainer exec" in line]
        assert " apptainer exec --nv biomlm.sif biomlm " in run
        assert note.startswith("apptainer exec --nv biomlm.sif biomlm launch ")
        assert text.index("module purge\nmodule load apptainer/1.3\n") < text.index(run)


INJECTED: dict[str, str | list[str]] = {
    "partition": "gpu\ntouch OWNED",
    "account": "a\r\ntouch OWNED",
    "time": "1:00:00\ntouch OWNED",
    "memory": "4G\ntouch OWNED",
    "extra": ["--qos=x\ntouch OWNED"],
    "prefix": "env\ntouch OWNED",
}


@pytest.mark.parametrize("name", INJECTED)
def test_no_option_but_setup_brings_a_line_of_shell(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(tmp_path, 10)
    wish = f"slurm: {orjson.dumps({name: INJECTED[name]}).decode()}"
    recipe.write_text(recipe.read_text().replace("slurm: {nodes: 2", f"{wish}\n    #"))
    assert launch(recipe, "--dry_run") == 2
    assert f"slurm.{name} has a line end in it" in capsys.readouterr().err
    recipe.write_text(RECIPE.format(data=tmp_path / "data", steps=10))
    value = INJECTED[name]
    word = value if isinstance(value, str) else orjson.dumps(value).decode()
    assert launch(recipe, "--dry_run", f"--slurm.{name}={word}") == 2


def test_names_and_prefixes_are_no_shell_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a $(touch OWNED) 100%j; touch OWNED"
    folder.mkdir()
    recipe = make_recipe(folder, 10)
    prefix = "env A=$(touch${IFS}OWNED) `touch OWNED` ;"
    assert launch(recipe, "--dry_run", "--slurm.prefix", prefix, "--slurm.gpus", "0", "--slurm.tasks", "2") == 0
    for text in scripts(capsys.readouterr().out).values():
        (asked,) = [line for line in text.splitlines() if line.startswith("#SBATCH --output=")]
        (word,) = shlex.split(asked.removeprefix("#SBATCH "))
        assert word.startswith(f"--output={str(folder.resolve()).replace('%', '%%')}/out/logs/")
        stubs = "srun() { :; }; env() { :; }; scontrol() { :; }; sleep() { :; }\n"
        shell = ["bash", "-c", stubs + text.replace("exit $code", "")]
        subprocess.run(
            shell, check=True, cwd=tmp_path, env={**os.environ, "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_ID": "1"}
        )
    assert not list(tmp_path.rglob("OWNED"))


@pytest.mark.parametrize("name", ["a\nb.yaml", "a\x1b[2J.yaml"])
def test_a_recipes_name_brings_no_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = make_recipe(tmp_path, 10).rename(tmp_path / name)
    assert launch(recipe, "--dry_run") == 2
    error = capsys.readouterr().err
    assert "line end" in error
    assert error.count("\n") == 2
    assert "\x1b" not in error


def test_shell_lines_of_a_strangers_recipe_are_shown_before_its_first_run(
    tmp_path: Path, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(tmp_path, 10)
    recipe.write_text(
        recipe.read_text().replace("slurm: {nodes: 2", 'slurm: {setup: ["curl x | sh", "\\e[2J"], nodes: 2')
    )
    assert launch(recipe) == 0
    error = capsys.readouterr().err
    assert "brings shell lines" in error
    assert "\n  model: curl x | sh\n  model: \\x1b[2J\n" in error
    assert launch(recipe) == 0
    assert "brings shell lines" not in capsys.readouterr().err


def test_a_prefix_and_job_arrays_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--slurm.prefix", "apptainer exec b.sif", "--slurm.arrays", "4"]
    assert launch(make_recipe(tmp_path, 10), "--dry_run", *asked) == 2
    assert "behind a prefix there is no sbatch" in capsys.readouterr().err


def test_without_slurm_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch(make_recipe(tmp_path, 10)) == 2
    assert "there is no sbatch here" in capsys.readouterr().err


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if os.geteuid() or not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))):
        pytest.skip("SLURM is not installed, or this is not root: apt-get install slurm-wlm munge")
    folder = tmp_path / "slurm"
    subprocess.run([HERE / "slurm.sh", "start", folder], check=True, capture_output=True)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    try:
        wait_for(lambda: "idle" in said("sinfo", "-h", "-o", "%T"), 60, "the node to come up")
        yield
    finally:
        subprocess.run(["scancel", "-u", "root"], check=False)
        subprocess.run([HERE / "slurm.sh", "stop", folder], check=True)


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def empty(jobs: dict[str, str]) -> bool:
    return not said("squeue", "-h", "-j", ",".join(jobs.values())).strip()


def wait_for(true: object, seconds: float, what: str) -> None:
    assert callable(true)
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s for {what}: {said('squeue')}"
        time.sleep(0.3)


def test_the_run_folder_decides_whether_a_job_goes_back(
    tmp_path: Path, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """srun's code is the largest of the ranks': 143 of a rank that was ended says nothing of the one that saved."""
    recipe = make_recipe(tmp_path, 10)
    assert launch(recipe) == 0
    model = tmp_path / "out" / "model"

    def ended(code: int, status: str, stage: str = "model") -> int:
        if status:
            model.mkdir(exist_ok=True)
            Manifest("pretrain", {}, "x", status=status).write(model)
        return launch(recipe, "--record", stage, "--code", str(code), "--seconds", "2")

    def record() -> dict[str, Any]:
        return {r["name"]: r for r in orjson.loads((tmp_path / "out" / "launch.json").read_bytes())["stages"]}["model"]

    assert [ended(code, "") for code in (1, 2)] == [1, 2]
    assert ended(75, "") == 75, "stopped before there was anything to save"
    assert [ended(code, "stopped") for code in (75, 137, 143)] == [75, 75, 75]
    assert [ended(code, "running") for code in (1, 2)] == [1, 2]
    assert [ended(137, "lost") for _ in range(3)] == [75, 75, 137], (
        "no accident: three times without a later checkpoint"
    )
    (model / "checkpoints" / "step_20").mkdir(parents=True)
    assert [ended(143, "running") for _ in range(4)] == [75, 75, 75, 143]
    assert (record()["restarts"], record()["seconds"], record()["key"]) == (9, 30.0, "")


@pytest.fixture(scope="module")
def alone(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], bytes]:
    """alone(ranks): the weights of a run that nothing ended."""

    @cache
    def train(ranks: int) -> bytes:
        out = tmp_path_factory.mktemp("alone") / "model"
        subprocess.run(Machine(ranks).command(trained_words(tiny_shards, out)), check=True, capture_output=True)
        return (out / WEIGHTS).read_bytes()

    return train


STEPS = 240
WEIGHTS = f"checkpoints/step_{STEPS}/model.safetensors"
MODEL = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2}
ONE_STAGE = """\
description: a small pretraining
stages:
  - name: model
    verb: pretrain
    args: {{shards: {shards}, out: "${{out}}/model", steps: {steps}, seed: 1, model: {{size: tiny, num_hidden_layers: 2,
      hidden_size: 32, num_attention_heads: 2}}, batch: {{tokens: 128, max_length: 32, accumulation: 4}}, save_every: 20}}
"""


def trained_words(shards: Path, out: Path) -> list[str]:
    words = ["pretrain", "--shards", str(shards), "--out", str(out), "--steps", str(STEPS), "--seed", "1"]
    words += [word for name, value in MODEL.items() for word in (f"--model.{name}", str(value))]
    words += ["--model.size", "tiny", "--batch.tokens", "128", "--batch.max_length", "32", "--batch.accumulation", "4"]
    return [*words, "--save_every", "20"]


def signalled(name: str) -> Callable[[str], None]:
    return lambda job: subprocess.run(["scancel", f"--signal={name}", job], check=True) and None


def preempt(_job: str) -> None:
    words = ["sbatch", "-p", "high", "-N", "1", "--exclusive", "--wrap", "sleep 2", "-o", "/dev/null"]
    subprocess.run(words, check=True)


def kill_a_rank(job: str) -> None:
    pids = [int(line.split()[0]) for line in said("scontrol", "listpids", job).splitlines()[1:]]
    ranks = [pid for pid in pids if b"pretrain" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    ranks = [pid for pid in ranks if b"srun" not in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(ranks[-1], signal.SIGKILL)


def node_down(_job: str) -> None:
    host = said("hostname", "-s").strip()
    subprocess.run(["scontrol", "update", f"nodename={host}", "state=down", "reason=test"], check=True)
    time.sleep(1)
    subprocess.run(["scontrol", "update", f"nodename={host}", "state=resume"], check=True)


EVENTS: dict[str, Callable[[str], None]] = {
    "TERM": signalled("TERM"),
    "USR1": signalled("USR1"),
    "preemption": preempt,
    "a rank killed": kill_a_rank,
    "node down": node_down,
    "time limit": lambda _job: None,
    "scancel": lambda job: subprocess.run(["scancel", job], check=True) and None,
}


@pytest.mark.slow
@pytest.mark.usefixtures("queue")
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_whatever_ends_a_job_the_model_has_the_same_bits(
    tiny_shards: Path, tmp_path: Path, alone: Callable[[int], bytes], ranks: int, event: str
) -> None:
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(ONE_STAGE.format(shards=tiny_shards, steps=STEPS))
    command = [sys.executable, "-m", "biomlm.core", "launch", str(recipe), "--out", str(out), "--on", "slurm"]
    command += ["--slurm.partition", "low", "--slurm.gpus", "0", "--slurm.tasks", str(ranks), "--slurm.cpus", "1"]
    command += ["--slurm.time", "1", "--slurm.grace", "40"] if event == "time limit" else []
    subprocess.run(command, check=True)
    jobs = orjson.loads((out / "slurm" / "jobs.json").read_bytes())
    wait_for(lambda: checkpoint.steps(out / "model") or empty(jobs), 200, "the first checkpoint")
    EVENTS[event](jobs["model"])
    if event == "scancel":
        wait_for(lambda: empty(jobs), 60, "the job to be cancelled")
        subprocess.run(command, check=True)
        jobs = orjson.loads((out / "slurm" / "jobs.json").read_bytes())
    wait_for(lambda: empty(jobs), 240, "the queue to empty")
    logs = "".join(log.read_text() for log in sorted((out / "logs").iterdir()))
    assert "going on from step" in logs, logs
    assert (out / "model" / WEIGHTS).read_bytes() == alone(ranks), logs
    record = orjson.loads((out / "launch.json").read_bytes())["stages"][0]
    assert record["key"]
    assert record["seconds"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("queue")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_real_queue_runs_the_stages_in_order_and_a_preempted_job_ends_with_the_same_weights(
    tmp_path: Path, ranks: int
) -> None:
    recipe, out = make_recipe(tmp_path, 400), tmp_path / "out"
    recipe.write_text(recipe.read_text().replace("nodes: 2", "nodes: 1"))
    command = [sys.executable, "-m", "biomlm.core", "launch", str(recipe), "--out", str(out), "--on", "slurm"]
    asked = ["--slurm.partition", "low", "--slurm.gpus", "0", "--slurm.tasks", str(ranks), "--slurm.cpus", "1"]
    subprocess.run([*command, *asked], check=True)
    jobs = orjson.loads((out / "slurm" / "jobs.json").read_bytes())
    wait_for(lambda: checkpoint.steps(out / "model") or empty(jobs), 580, "the model's first checkpoint")
    subprocess.run(
        ["sbatch", "-p", "high", "-N", "1", "--exclusive", "--wrap", "sleep 2", "-o", "/dev/null"], check=True
    )
    log = out / "logs" / "model.log"
    heard = log if ranks == 1 else log.with_name("model-rank0.log")
    wait_for(lambda: "which is saved" in heard.read_text(), 90, "the preempted job to save")
    wait_for(lambda: empty(jobs), 240, "the queue to empty")
    assert "going on from step" in heard.read_text()
    records = orjson.loads((out / "launch.json").read_bytes())["stages"]
    assert all(record["key"] for record in records), "every job has noted its stage as done"
    words = [*(out / "slurm" / "model.sbatch").read_text().split("biomlm.core ")[1].splitlines()[0].split()]
    words[words.index("--out") + 1] = str(tmp_path / "alone")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "biomlm.core", *words], check=True, env=env, capture_output=True)
    weights = "checkpoints/step_400/model.safetensors"
    assert (tmp_path / "alone" / weights).read_bytes() == (out / "model" / weights).read_bytes()
