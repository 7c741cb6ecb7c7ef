"""Write the recipe of an adaptation: stages as a recipe has them, with a comment beside every number that was decided."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from biomlm.launch.adaptation.phases import Phase, Trial, rate_for

EVAL_TOKENS = 200_000  # held-out tokens that models are compared on at most
EVALUATIONS = 4  # in a phase
SAVE_SECONDS = 900  # of training between checkpoints
WARMUP = 0.06
SEEDS = 3  # of fine-tuning
HEAD = """\
# Written by `biomlm adapt`. Edit it and run it again: biomlm launch {recipe} --out {out}
# {summary}
"""


@dataclass(frozen=True)
class Stage:
    """A stage of the recipe to write.

    Args:
        name: Of the stage.
        verb: Of biomlm.
        args: Its options.
        why: Dotted option → comment.
        note: Comment above the stage.
    """

    name: str
    verb: str
    args: Mapping[str, Any]
    why: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Request:
    """What is adapted to what.

    Args:
        model: The model to start from.
        start: What the stages read it as: itself, or `${out}/start`, the Hugging Face folder that it is converted to.
        text: Option of `corpus build` (notes, pubmed, pmc, text) → files.
        salt_file: Of the notes' patients; empty if it is in the environment.
        valid_fraction: Share of patients and articles that is held out.
        max_length: Longest sequence; None for the model's.
        training: Options of training stages that suit the fleet.
        fleet: As given; empty for this machine.
        data: A data set to fine-tune on before and after; empty for none.
        task: Its task.
        negative: For relations: the label for none.
    """

    model: str
    start: str
    text: Mapping[str, Sequence[str]]
    salt_file: str
    valid_fraction: float
    max_length: int | None
    training: Mapping[str, Any]
    fleet: str
    data: str = ""
    task: str = ""
    negative: str = ""


def first_stages(request: Request) -> list[Stage]:
    """List the stages that make the text ready and try the model on it."""
    salt = {"salt_file": request.salt_file} if request.salt_file else {}
    corpus = {**request.text, **salt, "valid_fraction": request.valid_fraction, "out": "${out}/corpus"}
    shards = {"docs": "${out}/corpus", "tokenizer": request.start, "out": "${out}/shards"}
    length = {"max_length": request.max_length} if request.max_length else {}
    fleet = {"fleet": request.fleet} if request.fleet else {}
    trial = {"init": request.start, "shards": "${out}/shards", **length, **request.training, **fleet}
    stages = [
        Stage("corpus", "corpus build", corpus, {"valid_fraction": "held out: patients and articles, never lines"}),
        Stage("shards", "tokenizer encode", shards, note="The model's own vocabulary: its embeddings go on."),
        Stage("trial", "pretrain trial", {**trial, "out": "${out}/trial"}),
    ]
    if request.start == request.model:
        return stages
    convert = {"src": request.model, "dst": request.start, "to": "hf"}
    return [Stage("start", "convert", convert, note="The model as a Hugging Face folder, checked."), *stages]


def later_stages(request: Request, trial: Trial, phases: Sequence[Phase], sources: Sequence[str]) -> list[Stage]:
    """List the stages that train, convert, compare and report."""
    stages = [_before(request, trial)] if trial.has_head else []
    # A data set that cannot be read is better known before the training than after it.
    stages += [_task(request, "task-before", request.start)] if request.data else []
    start = request.start
    for phase in phases:
        stages.append(_training(request, trial, phase, start, sources))
        start = f"${{out}}/{phase.name}"
    convert = {"src": start, "dst": "${out}/model", "to": "hf", "override": True}
    stages.append(Stage("model", "convert", convert, note="For Hugging Face; computed both ways and compared."))
    if request.data:
        runs = ["${out}/task-before", "${out}/task-after"]
        pages = {"page": "${out}/tasks.html", "out": "${out}/tasks.json"}
        stages.append(_task(request, "task-after", "${out}/model"))
        stages.append(Stage("tasks", "finetune compare", {"runs": runs, **pages}))
    report = {"runs": ["${out}"], "title": "What adapting was worth", "out": "${out}/report.html"}
    return [*stages, Stage("report", "report", report)]


def _before(request: Request, trial: Trial) -> Stage:
    measured = {"max_length": trial.max_length, "eval_tokens": EVAL_TOKENS}
    args = {"model": request.start, "shards": "${out}/shards", **measured, "out": "${out}/before"}
    return Stage("before", "pretrain evaluate", args, note="The model as it comes, on the held-out text.")


def _training(request: Request, trial: Trial, phase: Phase, start: str, sources: Sequence[str]) -> Stage:
    rate, tokens = rate_for(trial), phase.micro_batch * phase.accumulation
    optim: dict[str, Any] = {"lr": float(f"{phase.lr:.2g}"), "warmup": WARMUP, "schedule": phase.schedule}
    if phase.schedule == "sqrt":
        optim["decay"] = 1 - WARMUP
    args: dict[str, Any] = {
        "shards": "${out}/shards",
        "init": start,
        "steps": phase.steps,
        "mlm": {"mask_rate": phase.mask_rate},
        "batch": {
            "tokens": phase.micro_batch,
            "accumulation": phase.accumulation,
            "max_length": trial.max_length,
        },
        "optim": optim,
        "eval_every": max(1, phase.steps // EVALUATIONS),
        "eval_tokens": EVAL_TOKENS,
        "save_every": max(1, round(SAVE_SECONDS * trial.tokens_per_second / tokens)),
        "log_every": max(1, phase.steps // 50),
        **request.training,
        "out": f"${{out}}/{phase.name}",
    }
    if phase.sources:
        args["mix"] = {"weights": {source: int(source in phase.sources) for source in sources}}
    why = {
        "steps": f"{phase.passes:g} passes over {phase.tokens / phase.passes:,.0f} tokens",
        "batch.tokens": f"the trial's fastest is {trial.micro_batch:,}, of {trial.tokens_per_second:,.0f} tokens a second",
        "batch.accumulation": f"{tokens:,} tokens a step",
        "batch.max_length": "the model's" if request.max_length is None else "as asked for",
        "optim.lr": f"{rate.rate:g} at {rate.tokens:,} tokens a step, {rate.source}; by the root of the tokens",
        "mlm.mask_rate": "BioClinical ModernBERT's" if trial.rotary else "BERT's and RoBERTa's",
    }
    note = "Notes alone, while the rate falls to 0." if phase.sources else ""
    return Stage(phase.name, "pretrain", args, why, note)


def _task(request: Request, name: str, model: str) -> Stage:
    """Give the fine-tuning of the model as it came, or as it is after the training."""
    negative = {"negative": request.negative} if request.negative else {}
    args = {"model": model, "task": request.task, "data": request.data, **negative, "seeds": SEEDS}
    return Stage(name, "finetune", {**args, "out": f"${{out}}/{name}"})


def text(stages: Sequence[Stage], *, recipe: str, out: str, summary: str, inputs: Sequence[str]) -> str:
    """Compose the recipe file."""
    lines = [HEAD.format(recipe=recipe, out=out, summary=summary) + f"description: {_flow(summary)}"]
    lines += ["", "inputs:", *(f"  - {_flow(path)}" for path in inputs), "", "stages:"]
    for stage in stages:
        lines += [f"  # {stage.note}"] if stage.note else []
        lines += [f"  - name: {stage.name}", f"    verb: {stage.verb}", "    args:"]
        lines += [*_lines(stage.args, stage.why, 6, ""), ""]
    return "\n".join(lines)


def _lines(args: Mapping[str, Any], why: Mapping[str, str], indent: int, prefix: str) -> Iterator[str]:
    for key, value in args.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield f"{' ' * indent}{key}:"
            yield from _lines(value, why, indent + 2, f"{name}.")
            continue
        comment = f"  # {why[name]}" if name in why else ""
        yield f"{' ' * indent}{key}: {_flow(value)}{comment}"


def _flow(value: Any) -> str:
    """Write a value on one line of YAML."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("...\n").strip()
    )
