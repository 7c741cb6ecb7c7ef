"""The recipes of published models against what is published of them, key by key; all of them plan, at both scales and on three fleets."""

import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForMaskedLM, BertConfig, ModernBertConfig, PreTrainedConfig, RobertaConfig

from biomlm.core import cli
from biomlm.core.errors import DataError
from biomlm.core.fleet import Before, find
from biomlm.core.verbs import VERBS
from biomlm.launch.backends import hosts, local
from biomlm.launch.backends.registry import BACKENDS
from biomlm.launch.backends.slurm import SlurmConfig, SlurmOptions
from biomlm.launch.commands import plan
from biomlm.launch.recipe import Recipe, Stage, read
from biomlm.launch.resolve import shipped
from biomlm.pretrain.planning.estimate import encoder_of, need

FACTS = yaml.safe_load((Path(__file__).parents[1] / "data" / "published" / "facts.yaml").read_text())
TEXT = ("notes", "pmc", "pubmed", "text")
SYSTEMS = [name for name in shipped() if "/" in name]
VARIANTS = ("fairseq", "deepspeed", "fairseq-from-roberta")  # of a model by another engine: nobody has published those
VOCABULARY = 50_101  # pieces, for shapes that are rounded up
FLEETS = ("8 x v100-32gb", "8 x a100-80gb", "8 x h100-80gb")


@cache
def recipe_of(name: str) -> Recipe:
    return read(name, "out")


def stage_of(recipe: Recipe, name: str) -> Stage:
    return next(stage for stage in recipe.stages if stage.name == name)


@cache
def resolved(name: str, stage: str) -> Any:
    """The configuration of a recipe's stage, parsed once."""
    return plan.parsed(stage_of(recipe_of(name), stage))


def figure(recipe: Recipe, key: str) -> Any:
    """What a recipe says under a key of the facts."""
    if key == "needs":
        return sorted({need.variable for need in recipe.needs if need.variable})
    name, _, option = key.partition(".")
    config = resolved(recipe.name, name)
    if option == "sources":
        if hasattr(config, "pubmed"):
            return [kind for kind in TEXT if getattr(config, kind)]
    elif option == "sequences":
        return config.batch.tokens * config.batch.accumulation / config.batch.max_length
    elif option == "tokens":
        return config.batch.tokens * config.batch.accumulation * config.steps
    elif option == "warmup_steps":
        return config.optim.warmup * config.steps
    elif option in ("shape", "rows"):
        encoder = encoder_of(replace(config, init=None, needs_init=""), Before(VOCABULARY))
        shape = [encoder.num_hidden_layers, encoder.hidden_size, encoder.num_attention_heads]
        return encoder.vocab_size if option == "rows" else shape
    value = config
    for part in option.split("."):
        value = getattr(value, part)
    if isinstance(value, (list, tuple)):
        value = list(value)
    if value == ["out/pretrained"] or (isinstance(value, str) and value.startswith("out/")):
        return (value if isinstance(value, str) else value[0]).removeprefix("out/")
    return value


CASES = [(model, key) for model, facts in FACTS["models"].items() for key in facts]


@pytest.mark.parametrize(("model", "key"), CASES, ids=[f"{model}: {key}" for model, key in CASES])
def test_a_recipe_says_what_is_published(model: str, key: str) -> None:
    fact = FACTS["models"][model][key]
    assert fact["source"] in FACTS["sources"]
    published = fact["value"]
    loose = key.endswith((".warmup_steps", ".tokens"))  # shares and steps are rounded
    found = figure(recipe_of(model), key)
    assert found == (pytest.approx(published, rel=1e-3) if loose else published)


def test_every_system_has_facts_and_every_source_is_used() -> None:
    ours = {name for name in SYSTEMS if name.rpartition("-")[2] in VARIANTS or name.endswith(VARIANTS[2])}
    ours.add("modernbert/long-context-student")
    assert set(FACTS["models"]) == set(SYSTEMS) - ours
    used = {fact["source"] for facts in FACTS["models"].values() for fact in facts.values()}
    assert used == set(FACTS["sources"])


@pytest.mark.parametrize("scale", ["full", "smoke"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_recipe_is_a_whole_chain(name: str, scale: str) -> None:
    recipe = read(name, "out", scale)
    verbs = [stage.verb for stage in recipe.stages]
    assert verbs[-1] == "report"
    assert {"corpus build", "tokenizer encode", "pretrain", "convert", "finetune"} <= set(verbs) or "LLM-NER" in name
    assert recipe.published["model"]
    for reader in recipe.stages[1:-1]:
        assert reader.reads or "corpus build" in reader.verb or "LLM-NER" in name, f"{reader.name} reads no other stage"


@pytest.mark.parametrize("name", SYSTEMS)
def test_nothing_starts_without_what_a_recipe_needs_and_smoke_needs_nothing(name: str) -> None:
    with pytest.raises(DataError, match="and it is not there"):
        plan.check_needs(recipe_of(name))
    plan.check_needs(read(name, "out", "smoke"))
    for wanted in recipe_of(name).needs:
        assert wanted.what, "of what comes from outside is said what it is"
        assert wanted.origin
        assert wanted.licence


def test_a_missing_start_model_is_refused_in_two_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    given = [f"--var={name}=here" for name in ("notes", "salt", "tasks")]
    words = ["launch", "clinicalbert/Bio_ClinicalBERT", "--var", *(word.partition("=")[2] for word in given)]
    assert cli.run(words) == 2
    problem, remedy, _ = capsys.readouterr().err.split("\n")
    assert "needs BioBERT v1.0 (PubMed 200K + PMC 270K)" in problem
    assert "github.com/naver/biobert-pretrained (licence: Apache-2.0)" in remedy
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize("name", ["bio-lm/base-PM-M3-Voc-distill-align", "gatortron/345M", "clinicalbert/ClinicalBERT"])
def test_slurm_scripts_are_printed_for_what_is_not_there(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["launch", name, "--on", "slurm", "--fleet", FLEETS[0], "--dry_run", "--slurm.nodes", "8"]) == 0
    said = capsys.readouterr().out
    assert said.count("#SBATCH --job-name") == len(read(name, "out").stages)
    assert "--precision fp16" in said
    assert shlex.quote("biomlm") in said


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_batch_job_has_a_micro_batch_for_each_of_its_gpus(name: str) -> None:
    """With fewer the run is refused when it starts."""
    for stage in recipe_of(name).stages:
        if VERBS[stage.verb].gpus == "all":
            assert resolved(name, stage.name).batch.accumulation >= SlurmConfig().of(stage).gpus, stage.name


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("clinicalbert/ClinicalBERT", BertConfig(vocab_size=28_996)),
        ("embo/MLM", RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1)),
        (
            "modernbert/BioClinical-ModernBERT-large",
            ModernBertConfig(num_hidden_layers=28, hidden_size=1024, num_attention_heads=16, intermediate_size=2624),
        ),
    ],
)
def test_a_plan_knows_the_shape_of_a_start_model_that_is_not_there(name: str, start: PreTrainedConfig) -> None:
    """Parameters by transformers' own classes, with the settings of the start models' cards."""
    with torch.device("meta"):
        wanted = sum(p.numel() for p in AutoModelForMaskedLM.from_config(start).parameters())
    recipe = recipe_of(name)
    assert resolved(name, "pretrained").init
    rows = plan.estimates(recipe, plan.check(recipe), find("a100-80gb"), VOCABULARY)
    figures = next(figures for stage, figures in rows if stage.name == "pretrained")
    folded = 3 * 768 if name == "embo/MLM" else 0  # RoBERTa's two rows of positions in front, and its one token type
    assert figures["parameters"] == wanted - folded


def test_the_real_fairseq_is_started_once_on_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts a process for each GPU itself; DeepSpeed, with the same recipe, wants one of ours for each."""
    started: list[list[str]] = []
    monkeypatch.setattr(
        local, "run_stage", lambda words, log, command=(), deadline=0.0: started.append([*command]) or 0
    )
    monkeypatch.setattr(hosts, "run_stage", lambda words, log, machines, deadline: started.append([str(machines)]) or 0)
    (tmp_path / "hosts").write_text("a slots=4\nb slots=4\n")
    machines = SimpleNamespace(hostfile=str(tmp_path / "hosts"), stop_timeout=9.0)
    for name, processes in (("fairseq", 1), ("deepspeed", 4)):
        recipe = recipe_of(f"bio-lm/base-PM-M3-Voc-{name}")
        stage = stage_of(recipe, "pretrained")
        slurm = SlurmOptions(SlurmConfig(nodes=2, gpus=4, cpus=3))
        script = BACKENDS["slurm"].starter.script(stage, recipe, slurm, ["launch"]).splitlines()
        asked = dict(line[10:].split("=") for line in script if line.startswith("#SBATCH --") and "=" in line)
        assert (asked["ntasks-per-node"], asked["gpus-per-node"]) == (str(processes), "4")
        assert int(asked["cpus-per-task"]) * processes == 12, "the machine's cores are the same"
        local.BACKEND.starter.run(stage, stage.words, Path("log"), SimpleNamespace(processes=4, stop_timeout=9.0))
        hosts.BACKEND.starter.run(stage, stage.words, Path("log"), machines)
        assert bool(started[-2]) == (processes > 1)
        assert started[-1] == [str([hosts.Host(machine, processes) for machine in "ab"])]


@pytest.mark.parametrize("name", ["bio-lm/base-PM-M3-Voc-fairseq", "gatortron/3.9B", "modernbert/long-context-student"])
def test_a_fleets_options_are_those_that_the_engine_takes(name: str) -> None:
    for fleet in FLEETS:
        plan.check(read(name, "out", fleet=find(fleet)))


def test_training_from_scratch_fits_on_three_fleets() -> None:
    """Memory by the engine's sharing, and a micro-batch for every GPU, of stages whose shape is known without a start model."""
    wanted: dict[str, float] = {}
    for name in SYSTEMS:
        for stage in recipe_of(name).stages:
            config = resolved(name, stage.name) if stage.verb in ("pretrain", "distill") else None
            if config is None or config.init or config.longer:
                continue
            how = {"half": True, "recompute": config.compute.recompute, "mask_rate": config.mlm.mask_rate}
            encoder, tokens = encoder_of(config, Before(VOCABULARY)), config.batch.tokens
            sharing = config.deepspeed.stage if config.engine == "deepspeed" else 0
            for fleet in map(find, FLEETS):
                key = f"{encoder}, {tokens} tokens, {how}, {sharing} on {fleet.name}"
                wanted[key] = wanted.get(key) or need(encoder, tokens, fleet.size, **how).total(sharing)
                assert wanted[key] <= fleet.memory_gb, f"{name}, {stage.name}: {wanted[key]:.1f} GB on {fleet.name}"
                # micro-batches of an 8-GPU node at least
                assert config.batch.accumulation >= fleet.gpus, f"{name}, {stage.name}"
