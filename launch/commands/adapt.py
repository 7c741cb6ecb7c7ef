"""`biomlm adapt`: your notes or abstracts and any encoder → a checked Hugging Face model, and a page that says what it was worth.

It is a recipe, OUT/recipe.yaml: its first stages make the text ready and try the model on it, and what they find decides the rest.
"""

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biomlm.core import config as configuration
from biomlm.core.errors import ConfigError, DataError, MismatchError, no_model
from biomlm.core.fields import Applies, only, require_positive
from biomlm.core.files import read_json, refuse_target, write_text
from biomlm.core.fleet import Fleet, find
from biomlm.launch.adaptation import recipe_file
from biomlm.launch.adaptation.phases import Trial, phases
from biomlm.launch.adaptation.recipe_file import Request, Stage
from biomlm.launch.commands import launch
from biomlm.launch.commands.launch import LaunchConfig
from biomlm.launch.commands.plan import is_there
from biomlm.launch.reporting.run_folders import Folder, by_source, mapping, number, tokens
from biomlm.launch.state import NAME as STATE
from biomlm.launch.state import State

RECIPE = "recipe.yaml"
OPTIONS = "adapt.yaml"
TEXT = ("notes", "pubmed", "pmc", "text")
TOKENIZERS = (
    ["tokenizer.json"],
    ["vocab.json", "merges.txt"],
    ["vocab.txt"],
)  # files of which one set makes a tokenizer
UNITS = {"m": 60, "h": 3600, "d": 86_400}
TASK = Applies(lambda config: bool(config.data), "--data")


@dataclass(frozen=True)
class AdaptConfig:
    """Adapt an encoder to your text.

    Args:
        model: Folder or file of any encoder that `convert` reads; nothing is downloaded.
        out: The folder of all that comes out: `model/`, `report.html`, and the recipe that made them, `recipe.yaml`.
        notes: Clinical notes (docs/corpus.md): files, folders or globs.
        pubmed: PubMed XML and MEDLINE text exports.
        pmc: JATS articles and packages of them.
        text: Plain text, and tables of texts.
        salt_file: File with the secret salt of the notes' patients; or set BIOMLM_SALT.
        budget: Time for the training, such as `30m`, `8h` or `2d`; less than one pass over the text takes is refused. None if empty.
        passes: Over the text at most.
        fleet: GPUs that it is for, such as `1 x v100-16gb`: where this machine has none, the recipe is written for them and left to
            `biomlm launch`.
        valid_fraction: Share of patients and articles that is held out, to compare the model before and after.
        max_length: Longest sequence in tokens; left out, what the model takes.
        data: A data set to fine-tune on before and after (docs/finetune.md).
        task: Its task, as `finetune --task`.
        negative: For a task of relations: the label that says there is none.
    """

    model: str
    out: str = field(metadata={"runtime": True})
    notes: list[str] = field(default_factory=list)
    pubmed: list[str] = field(default_factory=list)
    pmc: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    salt_file: str = only("", lambda c: bool(c.notes), "--notes", runtime=True)
    budget: str = ""
    passes: float = 2.0
    fleet: str = ""
    valid_fraction: float = 0.05
    max_length: int | None = None
    data: str = ""
    task: str = field(default="", metadata={"applies": TASK})
    negative: str = field(default="", metadata={"applies": TASK})

    def __post_init__(self) -> None:
        require_positive(self, "max_length", "passes")
        if not self.given:
            raise ConfigError("there is no text", remedy="Give --notes, --pubmed, --pmc or --text.")
        if not 0 < self.valid_fraction < 1:
            raise ConfigError(
                "valid_fraction must lie between 0 and 1: without held-out text nothing is known of the model's worth",
                remedy="0.05 is the default.",
            )
        if self.data and not self.task:
            raise ConfigError("--data needs its --task", remedy="Give --task ner, or another of docs/finetune.md.")
        self.seconds  # noqa: B018  a budget that cannot be read is refused before anything is done

    @property
    def given(self) -> dict[str, list[str]]:
        """The options that name text → their files."""
        return {name: getattr(self, name) for name in TEXT if getattr(self, name)}

    @property
    def seconds(self) -> float | None:
        """The budget; None for none.

        Raises:
            ConfigError: It is no time.
        """
        if not self.budget:
            return None
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", self.budget)
        if match is None or not float(match[1]):
            raise ConfigError(f"`{self.budget}` is no time", remedy="Write 30m, 8h or 2d to --budget.")
        return float(match[1]) * UNITS[match[2]]


def run(config: AdaptConfig) -> None:
    """Write the recipe and run it; the same command again goes on, with the recipe as it stands.

    Raises:
        DataError: There is no such model or text, or the model has no tokenizer.
        MismatchError: The folder was made with other options.
        ConfigError: The budget is not enough for one pass over the text.
        SystemExit: A stage failed; with its exit code.
    """
    fleet, out = find(config.fleet) if config.fleet else None, Path(config.out)
    _require_inputs(config)
    inputs = [config.model, *(path for paths in config.given.values() for path in paths), config.data]
    refuse_target(out, inputs, option="--out", ours=_is_ours)
    request, recipe = _request(config, fleet), out / RECIPE
    if recipe.exists() and "name: report\n" in recipe.read_text(encoding="utf-8"):
        _require_same_options(config, out)
    else:  # nothing is decided yet: a budget that was refused may be raised
        configuration.save(config, out / OPTIONS)
        if not (out / STATE).exists():  # from now on this is the folder of a launch, which may hold its recipe
            State(recipe.stem, LaunchConfig.scale).write(out)
        first = recipe_file.first_stages(request)
        _write(config, first, f"{config.model}, tried on {', '.join(config.given)}.")
        _launch(recipe, config)
        _finish_recipe(config, request, first)
    trial = Trial.read(read_json(out / "trial" / "result.json"))
    if fleet is not None and not trial.device.startswith("cuda"):
        words = ["biomlm", "launch", str(recipe), "--out", config.out, "--on", "slurm"]
        words += ["--slurm.nodes", str(fleet.nodes), "--slurm.gpus", str(fleet.gpus)]
        print(f"The recipe is for {config.fleet}, which this machine has not. Run it there: {shlex.join(words)}")
        return
    _launch(recipe, config, "--processes", str(trial.processes))


def _require_inputs(config: AdaptConfig) -> None:
    """Refuse, before hours of reading, what the first stages could not use.

    Raises:
        DataError: The model, its tokenizer, a file of text, the salt or the data set is not there.
    """
    model = Path(config.model)
    if not model.exists():
        raise no_model(config.model)
    if _is_hugging_face(model) and not any(all((model / name).is_file() for name in names) for names in TOKENIZERS):
        raise DataError(
            "this model has no tokenizer: there is no tokenizer.json, no vocab.json with merges.txt and no vocab.txt",
            file=model,
            remedy="Copy the tokenizer that it was trained with into its folder.",
        )
    named = {**config.given, "salt_file": [config.salt_file], "data": [config.data]}
    for option, paths in named.items():
        for path in filter(None, paths):
            if not is_there(path):
                remedy = f"Give what is there to --{option}."
                raise DataError("there is no such file or folder", file=path, remedy=remedy)


def _is_hugging_face(model: Path) -> bool:
    return (model / "config.json").exists()


def _launch(recipe: Path, config: AdaptConfig, *options: str) -> None:
    words = ["--recipe", str(recipe), "--out", config.out, *options]
    launch.run(configuration.parse(LaunchConfig, words, prog="biomlm launch"))


def _is_ours(place: Path) -> bool:
    return place.is_dir() and ((place / OPTIONS).exists() or not any(place.iterdir()))


def _require_same_options(config: AdaptConfig, out: Path) -> None:
    """Refuse other options than those that the recipe was written for."""
    words = ["--config", str(out / OPTIONS), "--out", config.out, f"--salt_file={config.salt_file}"]
    earlier = configuration.parse(AdaptConfig, words, prog="biomlm adapt")
    if earlier != config:
        names = [name for name in vars(config) if getattr(earlier, name) != getattr(config, name)]
        raise MismatchError(
            f"this folder was made with another {', '.join(names)}",
            file=out,
            remedy=f"Give another --out, or edit {out / RECIPE} and run `biomlm launch {out / RECIPE} --out {out}`.",
        )


def _request(config: AdaptConfig, fleet: Fleet | None) -> Request:
    return Request(
        model=config.model,
        start=config.model if _is_hugging_face(Path(config.model)) else "${out}/start",
        text=config.given,
        salt_file=config.salt_file,
        valid_fraction=config.valid_fraction,
        max_length=config.max_length,
        training=fleet.options if fleet else {},
        fleet=config.fleet,
        data=config.data,
        task=config.task,
        negative=config.negative,
    )


def _write(config: AdaptConfig, stages: list[Stage], summary: str) -> None:
    plain = [path for paths in config.given.values() for path in paths if not any(mark in path for mark in "*?[")]
    inputs = [config.model, *plain, *([config.data] if config.data else [])]
    recipe = str(Path(config.out) / RECIPE)
    write_text(recipe, recipe_file.text(stages, recipe=recipe, out=config.out, summary=summary, inputs=inputs))


def _finish_recipe(config: AdaptConfig, request: Request, first: list[Stage]) -> None:
    """Add what the first stages decide."""
    out = Path(config.out)
    trial, by_name = Trial.read(read_json(out / "trial" / "result.json")), tokens_by_source(out)
    planned = phases(trial, by_name, most_passes=config.passes, seconds=config.seconds)
    if not trial.has_head:
        print("The model has no masked-LM head: a new one is learnt, and there is no loss before.", file=sys.stderr)
    steps = ", then ".join(f"{phase.steps:,} steps on {', '.join(phase.sources) or 'all'}" for phase in planned)
    summary = f"{Path(config.model).name} ({trial.parameters / 1e6:.0f}M) adapted to {', '.join(by_name)}: {steps}."
    _write(config, [*first, *recipe_file.later_stages(request, trial, planned, list(by_name))], summary)


def tokens_by_source(out: Path) -> dict[str, float]:
    """Share the shards' training tokens out among the sources by their words, which the corpus counted."""
    corpus = Folder("corpus", out / "corpus", dict(read_json(out / "corpus" / "manifest.json")))
    shards = Folder("shards", out / "shards", dict(read_json(out / "shards" / "manifest.json")))
    words = {name: _train_words(counts) for name, counts in by_source(corpus).items()}
    total = sum(words.values())
    return {name: tokens(shards)["train"] * count / total for name, count in words.items() if count}


def _train_words(counts: Mapping[str, Any]) -> int:
    return number(mapping(mapping(counts.get("splits")).get("train")), "words")
