"""Record the goldens: python tests/data/goldens/make_goldens.py

Was run at the commit before the house was moved, by the commands of that commit, and is kept to show how the files came about: running
it again records what the code of today does, which proves nothing. All paths are relative to `world/`, so that configurations, manifests
and keys hold wherever the folder is copied to.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import raw
import torch

HERE = Path(__file__).parent
WORLD = HERE / "world"
START = "from biolm.core.cli import main; main()"
MTIME = 1_700_000_000  # of all raw files: a launch remembers them by size and time
TIMES = 40  # attempts to interrupt a stage in the right moment

RUN = """--batch.tokens 128 --batch.max_length 32 --batch.accumulation 2 --optim.lr 3e-3 --seed 1 --precision fp32 --steps 40
--save_every 8 --log_every 2 --keep 1 --eval_every 20 --eval_tokens 1000"""
TEACHER = "--model.num_hidden_layers 2 --model.hidden_size 8 --model.num_attention_heads 2 --model.intermediate_size 16"
STUDENT = "--model.num_hidden_layers 1 --model.hidden_size 4 --model.num_attention_heads 1 --model.intermediate_size 8"

# name: (words without --out, what must exist before the stage is killed)
STAGES = {
    "corpus": (
        "corpus build --pubmed raw/pubmed --pmc raw/pmc --notes raw/notes --text raw/text --valid_fraction 0.15 --keep_dropped",
        ".work/parts/00001",
    ),
    "tokenizer": ("tokenizer train --docs done/corpus --vocab_size 300 --workers 1", ".work"),
    "shards": ("tokenizer encode --docs done/corpus --tokenizer done/tokenizer --workers 1", ".parts/train-00000"),
    "teacher": (f"pretrain --shards done/shards {TEACHER} {RUN}", "checkpoints/step_8"),
    "student": (
        f"distill --shards done/shards --teacher done/teacher {STUDENT} {RUN} --loss.hidden 1 --loss.layers 1:2",
        "checkpoints/step_8",
    ),
    "cache": (
        "distill cache --shards done/shards --teacher done/teacher --steps 40 --k 4 --seed 1 --batch.tokens 128 --batch.max_length 32 "
        "--batch.accumulation 2 --precision fp32",
        "answers/00000.bin",
    ),
    "ner": (
        "finetune --model done/teacher --task ner --data raw/ner --epochs 3 --seeds 2 --precision fp32 --max_shared 1",
        "seed_2/checkpoints/step_*",
    ),
    "launch": ("launch raw/recipe.yaml", "teacher/checkpoints/step_8"),
}
ENGINES = {"ddp": "--engine torch", "fsdp": "--engine fsdp", "deepspeed": "--engine deepspeed --deepspeed.stage 2"}

RECIPE = """\
description: Documents, a vocabulary, shards and a model.
inputs: [raw/pubmed, raw/notes]
stages:
  - name: corpus
    verb: corpus build
    args: {pubmed: [raw/pubmed], notes: [raw/notes], valid_fraction: 0.2, out: "${out}/corpus"}
  - name: tokenizer
    verb: tokenizer train
    args: {docs: "${out}/corpus", vocab_size: 280, sources: [pubmed], workers: 1, out: "${out}/tokenizer"}
  - name: shards
    verb: tokenizer encode
    args: {docs: "${out}/corpus", tokenizer: "${out}/tokenizer", workers: 1, out: "${out}/shards"}
  - name: teacher
    verb: pretrain
    args:
      shards: ${out}/shards
      out: ${out}/teacher
      steps: 40
      seed: 1
      precision: fp32
      model: {num_hidden_layers: 1, hidden_size: 8, num_attention_heads: 2, intermediate_size: 16}
      batch: {tokens: 128, max_length: 32}
      save_every: 8
      log_every: 2
      keep: 1
      eval_every: 40
  - name: hf
    verb: convert
    args: {src: "${out}/teacher", dst: "${out}/hf", to: hf}
"""


def words(stage: str, out: str) -> list[str]:
    """A stage's command line."""
    return [*STAGES[stage][0].split(), "--out", out]


def start(argv: list[str], processes: int = 1) -> "subprocess.Popen[bytes]":
    """Start the command in the world."""
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "biolm.core"]
    command = [sys.executable, *(many if processes > 1 else ["-c", START]), *argv]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=WORLD, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(argv: list[str], processes: int = 1) -> None:
    """Run the command to its end."""
    child = start(argv, processes)
    _, said = child.communicate()
    assert child.returncode == 0, said.decode()


def interrupt(argv: list[str], out: str, reached: str, number: int, processes: int = 1) -> None:
    """Interrupt the command by a signal once it has got somewhere; again from the start if it was too quick."""
    folder = WORLD / out
    for _ in range(TIMES):
        shutil.rmtree(folder, ignore_errors=True)
        child = start(argv, processes)
        while child.poll() is None and not any(folder.glob(reached)):
            time.sleep(0.0002)
        child.send_signal(number)
        _, said = child.communicate()
        if child.returncode and status(folder) == "running":
            return
        if child.returncode and child.returncode > 0 and child.returncode not in (1, 75, 143):
            raise SystemExit(said.decode())
    raise SystemExit(f"{out} was never interrupted in the right moment: {said.decode()}")


def status(folder: Path) -> str:
    """`running` or `done`; of a launch, its last stage's."""
    if (folder / "launch.json").exists():
        keys = [record["key"] for record in json.loads((folder / "launch.json").read_text())["stages"]]
        return "running" if keys[2] and not keys[3] else "done"
    return str(json.loads((folder / "manifest.json").read_text())["status"])


def scrub() -> None:
    """Remove what is this machine's: boards named by it, its name in locks, its paths in logs."""
    for folder in list(WORLD.rglob("tensorboard")):
        shutil.rmtree(folder)
    for path in WORLD.rglob(".lock"):
        path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "job": "", "lives": 0}))
    for path in WORLD.rglob("*.log"):
        path.write_text(path.read_text().replace(f"{WORLD}/", ""))


def weights(run: Path) -> dict[str, Any]:
    """What a run came to: its losses and the hashes of its last checkpoint's files."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    train = [record for record in records if record["split"] == "train"]
    state = json.loads((run / "checkpoints" / "step_40" / "state.json").read_text())
    return {
        "loss": {record["step"]: record["loss"] for record in train},
        "batches": {record["step"]: record["batches"] for record in train},
        "valid": json.loads((run / "result.json").read_text())["valid"]["loss"],
        "sha256": state["sha256"],
    }


def machine() -> dict[str, str]:
    """What sums of floats depend on."""
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": cpu.split(":")[1].strip(),
    }


def main() -> None:
    """Record what is missing."""
    raw.write(WORLD / "raw")
    (WORLD / "raw" / "recipe.yaml").write_text(RECIPE)
    for path in (WORLD / "raw").rglob("*"):
        os.utime(path, (MTIME, MTIME))
    for stage, (_, reached) in STAGES.items():
        print(stage, flush=True)
        finish(words(stage, f"done/{stage}"))
        if not (WORLD / "cut" / stage).exists():
            how = signal.SIGTERM if stage == "launch" else signal.SIGKILL
            interrupt(words(stage, f"cut/{stage}"), f"cut/{stage}", reached, how)
    runs = {"torch": weights(WORLD / "done" / "teacher")}
    for engine, option in ENGINES.items():
        print(engine, flush=True)
        whole, cut = f"whole/{engine}", f"cut/{engine}"
        finish([*words("teacher", whole), *option.split()], 2)
        runs[engine] = weights(WORLD / whole)
        if not (WORLD / cut).exists():
            interrupt([*words("teacher", cut), *option.split()], cut, "checkpoints/step_8", signal.SIGTERM, 2)
    shutil.rmtree(WORLD / "whole")
    scrub()
    facts = {
        "machine": machine(),
        "stages": {name: line for name, (line, _) in STAGES.items()},
        "engines": ENGINES,
        "runs": runs,
    }
    (HERE / "world.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
