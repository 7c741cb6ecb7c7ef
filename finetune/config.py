"""The configurations of the verbs of fine-tuning."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from biomlm.core.errors import ConfigError
from biomlm.core.fields import Applies, added, listed, only, require_positive, runtime
from biomlm.finetune.data.schema import Columns
from biomlm.finetune.tasks.registry import TASKS, reading
from biomlm.inputs.streams import bare_name
from biomlm.model.config import Precision
from biomlm.model.optim import config as optim
from biomlm.training import config as loop

if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[tuple(TASKS)]


def _read_by(option: str) -> tuple[Callable[[Any], bool], str]:
    """Return when an option has an effect that not every task reads, and what it needs, for `only` and `Applies`."""
    return lambda config: option in TASKS[config.task].options, f"--task {listed(reading(option))}"


@dataclass(frozen=True)
class BatchConfig:
    """What is read at once.

    Args:
        size: Windows (short texts are one window each) in an optimiser step.
        tokens: Most tokens in one forward pass; a step with more is computed in parts, its gradient is the same.
        accumulation: Parts that a step is computed in at least, over all processes; each process needs one.
        max_length: Tokens in a window, `<s>` and `</s>` included; left out, what the model takes, at most 512.
        overlap: Tokens that neighbouring windows of a long text share; left out, a quarter of a window.
    """

    size: int = 16
    tokens: int = 8192
    max_length: int | None = None
    overlap: int | None = None
    accumulation: int = added(1)

    def __post_init__(self) -> None:
        require_positive(self, "size", "tokens", "max_length", "accumulation", prefix="batch.")
        if self.accumulation > self.size:
            problem = f"a step of {self.size} windows has no {self.accumulation} parts"
            raise ConfigError(problem, remedy="Lower --batch.accumulation or raise --batch.size.")


@dataclass(frozen=True)
class OptimConfig(optim.OptimConfig):
    """AdamW and its schedule, with fine-tuning's defaults: grids of the field run from 1e-5 to 6e-5, small models take more."""

    lr: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: float = 0.1
    ema: float = only(0.0, lambda _: False, "pretraining; fine-tuning keeps its best epoch")


@dataclass(frozen=True)
class GuardConfig(loop.GuardConfig):
    """Steps that do not move the weights, with fine-tuning's default: its gradients shrink and jump as no pretraining's do."""

    spike: float = 0.0


@dataclass(frozen=True)
class GridConfig:
    """Values to choose from by the development score, each with each, before the seeds are run.

    Args:
        lr: Peak learning rates.
        size: Batch sizes.
    """

    lr: tuple[float, ...] = ()
    size: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if any(value <= 0 for value in (*self.lr, *self.size)):
            raise ConfigError("values of a grid must be positive", remedy="1e-5 to 6e-5 and 16 to 64 are usual.")


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tune a model on a task and score it: the development fold selects the epoch, the test fold is scored once a seed.

    Args:
        model: Run folder, Hugging Face folder or fairseq checkpoint, with its tokenizer.
        task: What is learnt: {tasks}.
        data: Folder of the data set: `train`, `devel` and `test` files, or a data set as it is published; see docs/finetune.md.
        out: Run folder; if it holds a run of the same configuration, that run goes on.
        epochs: Passes over the training fold.
        seeds: How many runs; scores are their mean and standard deviation.
        seed: The first run's seed; it fixes the head's first weights, order and dropout. The next ones follow.
        patience: Stop after this many epochs without a better development score; 0 never stops early.
        precision: Of matrix products; auto takes bf16 where the machine has it, fp16 on Volta and Turing; fp16 scales the loss. Weights are
            always fp32.
        guard: What is done about bad steps.
        timeout: Seconds after which a rank that the others wait for is given up and named.
        batch: Sizes.
        optim: Rates.
        grid: Learning rates and batch sizes to choose from.
        freeze_layers: Keep the embeddings and this many of the lowest layers as they are; 0 trains everything.
        reinit_layers: Draw the weights of this many of the highest layers anew (Zhang et al. 2021, arXiv 2006.05987).
        columns: For tables: what each column is; for ner and pico on JSON files with several sets of tags --columns.label names one.
        negative: For relation: the label that says there is none.
        one_type: For ner: give every entity this type.
        groups: For ner on PubTator files of UMLS types: the semantic groups' file (SemGroups.txt) to map types to groups with.
        crf: For ner and pico: score rows of labels by a linear-chain CRF with learnt transitions instead of each word by itself.
        st21pv: For ner on MedMentions: keep the 21 types of its subset ST21pv, which stand for those below them; named by --groups' file.
        class_weights: For classification and relation: weigh each label's loss by the inverse of its frequency.
        repair_tags: Read an I- tag that continues nothing as the begin of an entity instead of refusing the file.
        unseen_labels: Of the development and test folds, where training lacks them: refuse the data, or count every one as missed, since no
            model could say it; the number is reported.
        max_shared: Largest share of development or test records whose text is also in a fold before theirs; the number is reported.
        log_every: Steps between records of the training loss.
        override: Use the run folder although the configuration, the model or the data changed; seeds of other settings start anew.
    """

    model: str = field(metadata={"runtime": True})  # what the output depends on is the files' hashes, not their places
    task: TaskName
    data: str = field(metadata={"runtime": True})
    out: str = field(metadata={"runtime": True})
    epochs: int = 10
    seeds: int = 1
    seed: int = 1
    patience: int = 0
    precision: Precision = "auto"
    guard: GuardConfig = added(GuardConfig)
    timeout: float = runtime(1800.0)
    batch: BatchConfig = field(
        default_factory=BatchConfig,
        metadata={"applies": {"size": Applies(lambda c: not c.grid.size, "no --grid.size, which lists the sizes")}},
    )
    optim: OptimConfig = field(
        default_factory=OptimConfig,
        metadata={"applies": {"lr": Applies(lambda c: not c.grid.lr, "no --grid.lr, which lists the rates")}},
    )
    grid: GridConfig = field(default_factory=GridConfig)
    freeze_layers: int = 0
    reinit_layers: int = 0
    columns: Columns = field(
        default_factory=Columns,
        metadata={"applies": {f.name: Applies(*_read_by(f"columns.{f.name}")) for f in fields(Columns)}},
    )
    negative: str = only("", *_read_by("negative"))
    one_type: str = only("", *_read_by("one_type"))
    groups: str = only("", *_read_by("groups"))
    st21pv: bool = only(False, *_read_by("st21pv"))
    crf: bool = only(False, *_read_by("crf"))
    class_weights: bool = only(False, *_read_by("class_weights"))
    repair_tags: bool = only(False, *_read_by("repair_tags"))
    unseen_labels: Literal["refuse", "count"] = only("refuse", *_read_by("unseen_labels"))
    max_shared: float = 0.02
    log_every: int = runtime(20)
    override: bool = runtime(False)

    def __post_init__(self) -> None:
        if min(self.epochs, self.seeds, self.log_every) < 1:
            raise ConfigError("epochs, seeds and log_every must be 1 at least", remedy="Check these options.")
        require_positive(self, "timeout")
        if min(self.patience, self.freeze_layers, self.reinit_layers) < 0:
            raise ConfigError("patience, freeze_layers and reinit_layers must not be negative", remedy="0 is none.")
        for option, remedy in TASKS[self.task].needs.items():
            if not getattr(self, option):
                raise ConfigError(f"{self.task} needs --{option}", remedy=remedy)
        if not 0 <= self.max_shared <= 1:
            raise ConfigError("max_shared is a share, from 0 to 1", remedy="0.02 is the default, 1 lets anything pass.")


FinetuneConfig.__doc__ = str(FinetuneConfig.__doc__).replace(
    "{tasks}", "; ".join(f"{name} ({entry.summary})" for name, entry in TASKS.items())
)


STDIN = "-"
INPUTS = {".jsonl": "jsonl", ".txt": "text", ".tsv": "iob", ".iob": "iob", ".conll": "iob", ".pubtator": "pubtator"}


def input_of(config: "PredictConfig") -> str:
    """Return what kind of file the texts are in, as it is stated or as its name ends; a folder is brat's.

    Raises:
        ConfigError: Neither says.
    """
    if config.input != "auto":
        return config.input
    if config.file != STDIN and Path(config.file).is_dir():
        return "brat"
    kind = "text" if config.file == STDIN else INPUTS.get(Path(bare_name(config.file)).suffix)
    if kind is None:
        problem = f"the file ends in none of {', '.join(INPUTS)}"
        raise ConfigError(f"{config.file}: {problem}", remedy="Say what it is with --input.")
    return kind


def json_lines(config: "PredictConfig") -> bool:
    """Whether the texts come as JSON lines."""
    return config.input == "jsonl" or (config.input == "auto" and bare_name(config.file).endswith(".jsonl"))


@dataclass(frozen=True)
class PredictConfig:
    """Predict with a fine-tuned model.

    Args:
        model: Run folder that `biomlm finetune` wrote.
        file: `.jsonl` (`corpus build`'s documents are such lines), `.txt` (a text a line), `.tsv` (IOB's words) or `.pubtator`, also in
            gzip; a folder of brat's `.txt` files; `-` for standard input, a text a line unless --input says otherwise.
        out: File or, for brat, folder to write; left out, JSON lines go to standard output.
        to: jsonl has id, line and what is predicted, without text; brat and pubtator hold entities with their texts.
        input: What the file is, whatever its name; auto goes by the name.
        text: For JSONL the keys of the text, or of the texts of a pair, or of a question and its choices. For entities a list of words
            will do where the model learnt from a file of words; offsets then count in the words parted by single blanks.
        id: For JSONL the key of the record's id; without it in a record, the line is its id.
        tokens: Most tokens in one forward pass; left out, what is quickest: 16384 on a GPU, 2048 on a CPU, whose caches hold no more.
        precision: Of matrix products; auto takes bf16 where the machine has it, fp16 on Volta and Turing, else fp32.
    """

    model: str
    file: str
    out: str = field(default="", metadata={"runtime": True})
    to: Literal["jsonl", "brat", "pubtator"] = "jsonl"
    input: Literal["auto", "text", "jsonl", "iob", "brat", "pubtator"] = added("auto")
    text: list[str] = only(lambda: ["text"], json_lines, "a .jsonl file")
    id: str = only("id", json_lines, "a .jsonl file")
    tokens: int | None = runtime(None)
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if (self.tokens is not None and self.tokens < 1) or not self.text:
            raise ConfigError("tokens and text need a value", remedy="Leave them out for the defaults.")
        if self.to != "jsonl" and not self.out:
            raise ConfigError(f"--to {self.to} needs --out", remedy="Name the file or folder to write.")


@dataclass(frozen=True)
class CompareConfig:
    """Runs to compare: of several models, on one task or several.

    Args:
        runs: Run folders that `biomlm finetune` wrote; on each task the others are compared with the first.
        out: A JSON file to write the comparison to as well.
        page: An HTML file to write it to, with learning curves.
        words: Show the words of this many mistakes that most runs and seeds make. For public data only: these are words of the test
            fold, on the screen and in the files; without it none are shown.
    """

    runs: list[str]
    out: str = field(default="", metadata={"runtime": True})
    page: str = field(default="", metadata={"runtime": True})
    words: int = 0

    def __post_init__(self) -> None:
        if len(set(self.runs)) < 2 or len(set(self.runs)) < len(self.runs):
            raise ConfigError("there must be two runs or more, each once", remedy="Give several run folders.")
        if self.words < 0:
            raise ConfigError("words must not be negative", remedy="0 shows none.")
