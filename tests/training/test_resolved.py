"""The precision that a run was begun in stays, whatever the machine that it goes on on would choose."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from biomlm.core import checkpoint, cli
from biomlm.core.errors import ConfigError
from biomlm.core.files import read_json, write_json
from biomlm.training.distributed.process_group import RankInfo, World
from biomlm.training.resolved import device_of

Words = Callable[..., list[str]]
ALONE = World(RankInfo())


def machine(patch: pytest.MonkeyPatch, *, bf16: bool) -> None:
    """Pretend that this processor multiplies bf16, or does not."""
    patch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": bf16}, raising=False)


@pytest.mark.parametrize("first", [True, False])
def test_a_resume_never_changes_precision(
    first: bool, tiny_shards: Path, small_run: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, run = checkpoint.save, tmp_path / "run"

    def stop_after_saving(*args: Any, **kwargs: Any) -> Path:
        save(*args, **kwargs)
        raise KeyboardInterrupt

    argv = small_run(tiny_shards, run, 4, "--save_every", "2", "--log_every", "1", "--eval_tokens", "64")
    at = argv.index("--precision")
    argv[at + 1] = "auto"
    machine(monkeypatch, bf16=first)
    monkeypatch.setattr(checkpoint, "save", stop_after_saving)
    assert cli.run(argv) == 130
    kept = {"precision": "bf16" if first else "fp32", "processes": 1}
    record: Any = read_json(run / "manifest.json")
    assert {name: record["resolved"][name] for name in kept} == kept
    assert "attention by" in record["resolved"]["kernels"]
    monkeypatch.setattr(checkpoint, "save", save)
    machine(monkeypatch, bf16=not first)
    assert cli.run(argv) == 0
    assert read_json(run / "result.json")["precision"] == kept["precision"]
    assert read_json(run / "manifest.json")["config_hash"] == record["config_hash"]


def test_a_machine_without_it_is_refused_in_two_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "manifest.json", {"resolved": {"precision": "bf16"}})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    with pytest.raises(ConfigError) as refused:
        device_of(tmp_path, "auto", ALONE)
    first, second = str(refused.value).splitlines()
    assert "was begun in bf16" in first
    assert "Tesla V100 has no bf16" in first
    assert "start anew" in second
    assert device_of(tmp_path, "fp32", ALONE).precision == "fp32"
    assert device_of(tmp_path / "new", "auto", ALONE).precision == "fp16"
    write_json(tmp_path / "old" / "manifest.json", {"stage": "pretrain"})
    assert device_of(tmp_path / "old", "auto", ALONE).precision == "fp32", (
        "what auto was on a V100 when that run was begun"
    )


def test_a_folder_of_an_earlier_version_takes_what_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "manifest.json", {"stage": "pretrain"})
    machine(monkeypatch, bf16=True)
    assert device_of(tmp_path, "auto", ALONE).precision == "bf16"


def test_a_run_begun_deterministic_goes_on_so(
    tiny_shards: Path, small_run: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, run = checkpoint.save, tmp_path / "run"

    def stop_after_saving(*args: Any, **kwargs: Any) -> Path:
        save(*args, **kwargs)
        raise KeyboardInterrupt

    argv = small_run(tiny_shards, run, 4, "--save_every", "2", "--eval_tokens", "64")
    monkeypatch.setattr(checkpoint, "save", stop_after_saving)
    assert cli.run([*argv, "--compute.deterministic"]) == 130
    assert read_json(run / "manifest.json")["resolved"]["deterministic"] is True  # type: ignore[index]
    monkeypatch.setattr(checkpoint, "save", save)
    assert cli.run(argv) == 0
    record: Any = read_json(run / "manifest.json")
    assert record["resolved"]["deterministic"] is True
    assert record["resolved"]["kernels"].endswith("deterministic")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_a_gpu_an_interrupted_run_ends_with_the_same_bits(
    precision: str, tiny_shards: Path, small_run: Words, start_ranks: Callable[..., Any], tmp_path: Path
) -> None:
    """In processes of their own, in which CUDA starts after the variable is set; one is killed behind its first checkpoint."""
    runs = [tmp_path / "whole", tmp_path / "killed"]
    argvs = [small_run(tiny_shards, run, 12, "--save_every", "3", "--keep", "9") for run in runs]
    for argv in argvs:
        argv[argv.index("--precision") + 1] = precision
        argv.append("--compute.deterministic")
    assert start_ranks(1, argvs[0]).wait() == [0]
    (process,) = start_ranks(1, argvs[1]).processes
    while not checkpoint.steps(runs[1]) and process.exitcode is None:
        time.sleep(0.001)
    process.kill()
    process.join()
    ranks = start_ranks(1, argvs[1])
    assert ranks.wait() == [0], ranks.said()
    weights = [(run / checkpoint.FOLDER / "step_12" / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
