"""Every verb that takes long answers SIGTERM from its first moment to its last, and then ends with the same bytes; real processes."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from biomlm.core.files import read_json, sha256
from biomlm.core.processes.children import biomlm_command
from biomlm.core.processes.signals import signals_blocked

ROOT = Path(__file__).parents[1]
LEFT_OUT = (
    "metrics.jsonl",
    "result.json",
    "manifest.json",
    "state.json",
    "launch.json",
    "scores.json",
)  # they hold times
RECIPE = """\
description: two stages
stages:
  - {{name: corpus, verb: corpus build, args: {{text: ["{data}/*.txt"], out: "${{out}}/corpus", min_words: 1, valid_fraction: 0.2,
      workers: 1}}}}
  - {{name: tokenizer, verb: tokenizer train, args: {{docs: "${{out}}/corpus", out: "${{out}}/tokenizer", vocab_size: 300, workers: 1}}}}
"""
Argv = Callable[[Path], list[str]]


@pytest.fixture
def commands(
    tiny_docs: Path,
    tiny_tokenizer: Path,
    tiny_shards: Path,
    tiny_model: Path,
    small_run: Callable[..., list[str]],
    tmp_path: Path,
) -> dict[str, Argv]:
    """verb → out → its words."""
    shards, model = str(tiny_shards), str(tiny_model)
    data, recipe = tmp_path / "data", tmp_path / "recipe.yaml"
    data.mkdir()
    for i in range(40):
        words = [f"Patients {i} and {j} were treated with drug {i * j % 17} for {j} days." for j in range(1, 9)]
        (data / f"{i}.txt").write_text(" ".join(words))
    recipe.write_text(RECIPE.format(data=data))
    lines = "".join(f"word{i % 7}\t{'B-Disease' if i % 7 == 3 else 'O'}\n" + "\n" * (i % 5 == 4) for i in range(400))
    task = tmp_path / "task"
    task.mkdir()
    for fold in ("train", "devel", "test"):
        (task / f"{fold}.tsv").write_text(lines)
    pubmed = sorted((ROOT / "demo/data/pubmed").glob("*.xml.gz"))[:1]
    distil = [
        "--shards",
        shards,
        "--teacher",
        model,
        "--batch.tokens",
        "128",
        "--batch.max_length",
        "32",
        "--seed",
        "1",
    ]
    return {
        "pretrain": lambda out: small_run(shards, out, 60, "--save_every", "20"),
        "distill": lambda out: [
            *("distill", *distil, "--steps", "30", "--model.num_hidden_layers", "1", "--model.hidden_size", "32"),
            *("--model.num_attention_heads", "2", "--save_every", "10", "--precision", "fp32", "--out", str(out)),
        ],
        "distill cache": lambda out: ["distill", "cache", *distil, "--steps", "30", "--out", str(out)],
        "finetune": lambda out: [
            *("finetune", "--model", model, "--task", "ner", "--data", str(task), "--epochs", "2"),
            *("--batch.size", "8", "--precision", "fp32", "--out", str(out)),
        ],
        "tokenizer encode": lambda out: [
            *("tokenizer", "encode", "--docs", str(tiny_docs), "--tokenizer", str(tiny_tokenizer)),
            *("--workers", "1", "--out", str(out)),
        ],
        "corpus build": lambda out: [
            "corpus",
            "build",
            "--pubmed",
            *map(str, pubmed),
            "--workers",
            "2",
            "--out",
            str(out),
        ],
        "convert": lambda out: ["convert", model, str(out), "--to", "hf"],
        "launch": lambda out: ["launch", str(recipe), "--out", str(out)],
    }


def start(words: list[str]) -> "subprocess.Popen[str]":
    """Start a command as our launchers do; in a session of its own, such that its workers can be signalled as a batch system does."""
    with signals_blocked():
        return subprocess.Popen(
            biomlm_command(*words),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def content(folder: Path) -> dict[str, str]:
    """Hashes of what a command wrote, but for files that say how long it took; checkpoints of the last step only."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in LEFT_OUT]
    kept = [path for path in files if not {"tensorboard", "logs", ".work"} & set(path.relative_to(folder).parts)]
    return {path.relative_to(folder).as_posix(): sha256(path) for path in kept}


def stopped_at_random(words: Argv, folder: Path, *, times: int, seed: int) -> None:
    """Stop a command so often, each time somewhere, letting it go on in between, and compare what it wrote in the end."""
    draw, out = random.Random(seed), folder / "out"  # one path for all, since cards and config.yaml say it
    began = time.monotonic()
    with start(words(out)) as process:
        _, text = process.communicate(timeout=300)
    assert process.returncode == 0, text
    longest, expected = time.monotonic() - began, content(out)
    shutil.rmtree(out)
    for turn in range(times):
        with start(words(out)) as process:
            time.sleep(draw.uniform(0, longest))
            os.killpg(process.pid, draw.choice((signal.SIGTERM, signal.SIGUSR1)))
            _, text = process.communicate(timeout=300)
        assert process.returncode in (0, 75), f"turn {turn}: {process.returncode}\n{text}"
        assert "Traceback" not in text
        if process.returncode == 0:
            assert content(out) == expected
            shutil.rmtree(out)
    with start(words(out)) as process:
        _, text = process.communicate(timeout=300)
    assert process.returncode == 0, text
    assert content(out) == expected
    manifest = out / "manifest.json"
    assert not manifest.exists() or read_json(manifest)["status"] == "done"


SLOW = ["distill", "distill cache", "finetune", "tokenizer encode", "corpus build", "launch"]


@pytest.mark.parametrize("verb", ["pretrain", "convert"])
def test_a_verb_answers_a_signal_at_any_moment(verb: str, commands: dict[str, Argv], tmp_path: Path) -> None:
    stopped_at_random(commands[verb], tmp_path, times=2, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["pretrain", "convert", *SLOW])
def test_a_verb_answers_thirty_signals(verb: str, commands: dict[str, Argv], tmp_path: Path) -> None:
    stopped_at_random(commands[verb], tmp_path, times=30, seed=2)
