"""`biomlm launch plan --fleet`: what training needs, against figures that follow from the definitions."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from biomlm.core import cli
from biomlm.core.errors import ConfigError
from biomlm.core.fleet import FLEETS, find
from biomlm.model.config import ModelConfig
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.planning.estimate import computing_seconds, flops_per_token


def test_a_fleet_is_named_by_its_gpus_and_nodes() -> None:
    assert find("v100-16gb") == FLEETS["v100-16gb"]
    assert find("4 x a100-80gb").size == 32
    for wrong in (
        "v100",
        "many x v100-16gb",
        "x",
        "x v100-16gb",
        "0 x v100-16gb",
        "9" * 20 + " x v100-16gb",
        "٣ x v100-16gb",
    ):
        with pytest.raises(ConfigError, match="there is no fleet"):
            find(wrong)


def test_the_plan_of_a_fleet_names_its_options_and_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["launch", "plan", "demo", "--fleet", "v100-16gb"]) == 0
    said = capsys.readouterr().out
    assert "--precision fp16 --compute.recompute" in " ".join(said.split())
    assert "1 × 8 V100 16 GB" in said
    assert said.count("ZeRO 3 or FSDP") == 3, "of both pretrainings and the distillation"
    assert "parameters of the teachers 2,175,232" in " ".join(said.split()), "as the stage before trains it"


RECIPE = """
description: A teacher through a cache, averaged and converted; and one that is elsewhere.
stages:
  - {name: large, verb: pretrain, args: {shards: S, out: "${out}/large", model: {size: large}}}
  - {name: mean, verb: pretrain average, args: {run: "${out}/large", out: "${out}/mean"}}
  - {name: hf, verb: convert, args: {src: "${out}/mean", dst: "${out}/hf", to: hf}}
  - {name: answers, verb: distill cache, args: {shards: S, teacher: "${out}/hf", steps: 1000, out: "${out}/cache"}}
  - name: student
    verb: distill
    args: {shards: S, cache: "${out}/cache", steps: 1000, loss: {hidden: 0}, model: {size: small}, out: "${out}/student"}
  - {name: longer, verb: pretrain, args: {shards: S, init: "${out}/student", out: "${out}/longer"}}
  - {name: other, verb: distill, args: {shards: S, teacher: elsewhere, out: "${out}/other"}}
"""


@pytest.mark.parametrize(
    ("more", "problem", "remedy"),
    [
        ("expect: {sauces: [pmc]}", "there is no fact `sauces` to expect", "Did you mean sources?"),
        (
            "smoke: {select: {max_wrods: 9}}",
            "there is no option --select.max_wrods",
            "Did you mean --select.max_words?",
        ),
        ("slurm: {tme: 1h}", "there is no `slurm.tme`", "There are account"),
        ("slurm: {time: 60}", "`slurm.time` is 60, and must be text", "Give text."),
        ('slurm: {partition: "gpu\\n#SBATCH --qos=high"}', "slurm.partition has a line end in it", "a line for each"),
    ],
)
def test_what_only_smoke_scale_or_batch_jobs_use_is_checked_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, problem: str, remedy: str
) -> None:
    """At full scale, on this machine: the mistake would else be found on the cluster."""
    recipe = tmp_path / "mine.yaml"
    args = 'args: {text: [a.txt], out: "${out}/corpus"}'
    recipe.write_text(f"stages:\n  - name: corpus\n    verb: corpus build\n    {args}\n    {more}\n")
    assert cli.run(["launch", str(recipe), "--out", str(tmp_path / "o"), "--dry_run"]) == 2
    told = capsys.readouterr().err
    assert f"mine.yaml (line 5): stage corpus: {problem}" in told
    assert remedy in told
    assert len(told.splitlines()) == 2


def test_what_is_missing_is_given_by_the_variable_in_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    stages = 'stages: [{name: a, verb: corpus build, args: {text: [x], out: "${out}/a"}}]\n'
    for inputs, remedy in (("${data}/x", "say where it is with --var data=PATH."), ("gone", "put it where")):
        recipe.write_text(f'vars: {{data: none}}\ninputs: ["{inputs}"]\n{stages}')
        assert cli.run(["launch", str(recipe), "--out", str(tmp_path / "o")]) == 2
        assert remedy in capsys.readouterr().err


def test_a_number_that_nobody_has_given_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "vars: {steps: {what: steps}}\n"
        'stages: [{name: a, verb: pretrain, args: {shards: S, steps: "${steps}", out: "${out}/a"}}]\n'
    )
    assert cli.run(["launch", "plan", str(recipe)]) == 2
    assert "Give it: --var steps=VALUE." in capsys.readouterr().err
    assert cli.run(["launch", "plan", str(recipe), "--var", "steps=7"]) == 0


def test_a_plan_imports_no_compiler(capsys: pytest.CaptureFixture[str]) -> None:
    """Counting parameters on the meta device imports torch's compiler, for more than a second, where weights are drawn there."""
    code = (
        "import sys; from biomlm.core import cli; cli.run(['launch', 'plan', 'demo', '--fleet', 'a100-80gb']); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_a_plan_follows_models_from_stage_to_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "chain.yaml").write_text(RECIPE)
    assert cli.run(["launch", "plan", str(tmp_path / "chain.yaml"), "--fleet", "2 x a100-40gb"]) == 0
    said = capsys.readouterr().out
    large, student, longer = re.findall(r"\nparameters +([\d,]+)", said)
    assert re.findall(r"\nparameters of the teachers +([\d,]+)", said) == [large, large], "of the cache and the student"
    assert student == longer, "which goes on with the student"
    said = " ".join(said.split())
    assert "GB of the cache, before compression 0.2400" in said, "196 bytes at 15% of 8 million tokens"
    assert "no estimate elsewhere: there is no such file or folder, and nothing is downloaded." in said


def plan(run: Path, fleet: str) -> list[str]:
    return ["launch", "plan", "demo", "--fleet", fleet, "--measured", str(run)]


def test_what_a_run_has_reached_replaces_the_estimate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = {"mfu": 0.25, "gpu": "NVIDIA H100 80GB HBM3", "device": "cuda", "precision": "bf16"}
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert cli.run(plan(tmp_path, "h100-80gb")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("25% of the datasheet's products as measured") == 3
    for fleet, changes in (("a100-80gb", {}), ("h100-80gb", {"precision": "fp32"}), ("h100-80gb", {"mfu": None})):
        (tmp_path / "result.json").write_text(json.dumps(result | changes))
        assert cli.run(plan(tmp_path, fleet)) == 2
        assert "the run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fleet", "least", "most"), [("v100-32gb", 0.25, 0.5), ("a100-80gb", 0.4, 0.62), ("h100-80gb", 0.3, 0.6)]
)
def test_the_roofline_says_less_than_products_alone_would(fleet: str, least: float, most: float) -> None:
    """Base and large in batches that fill a GPU: between what kernels beside products leave, and the products' own share."""
    gpu, config = replace(find(fleet), gpus=1), PretrainConfig(shards="S", out="O", precision="bf16")
    config = replace(config, batch=replace(config.batch, tokens=32_768, accumulation=8))
    for size in ("base", "large"):
        encoder = ModelConfig(size=size).resolve(50_048, 512, 1)
        seconds = computing_seconds(config, encoder, gpu, rounds=8)
        reached = 8 * 32_768 * flops_per_token(config, encoder, False) / seconds / (gpu.tflops * 1e12)
        assert least < reached < most
    twice = replace(gpu, measured=0.5)
    assert computing_seconds(config, encoder, twice, rounds=8) == pytest.approx(
        8 * 32_768 * flops_per_token(config, encoder, False) / 0.5 / (gpu.tflops * 1e12)
    )
