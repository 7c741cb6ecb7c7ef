"""List the verbs of `biomlm`: what each does, where its configuration and its function are, and a command that works.

Rooms are named here as text and imported when their verb is called, so that `core` depends on no room and `--help` imports no torch.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from biomlm.core.fleet import Before, Fleet


@dataclass(frozen=True)
class Verb:
    """One verb of the command line; places are `module:name`.

    Args:
        summary: What goes in and what comes out, in a few words.
        config_at: Place of its configuration class.
        run_at: Place of the function that does the work; it may raise `UserError`.
        example: A command that works, shown by `--help`.
        positionals: Fields that may be given without their flags, in order.
        first: The fields that matter most, which `--help` shows first.
        estimate_at: Place of the function that says what a run would need on a fleet after earlier stages; empty for verbs that
            need no fleet.
        gpus: The GPUs that it can use: `none`, `one`, or `all`, with a process for each.
        own_processes: Values of its `engine` that start a process for each GPU of a machine by themselves, and compute with kernels of
            their own.
    """

    summary: str
    config_at: str
    run_at: str
    example: str
    positionals: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    estimate_at: str = ""
    gpus: Literal["none", "one", "all"] = "none"
    own_processes: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """The module of its function."""
        return self.run_at.partition(":")[0]

    @property
    def room(self) -> str:
        """The room that its configuration class belongs to."""
        return self.config_at.split(".")[1]

    @property
    def config(self) -> type[Any]:
        """Its configuration class."""
        return load(self.config_at)  # type: ignore[no-any-return]

    def run(self, config: Any) -> None:
        """Do the work."""
        load(self.run_at)(config)

    @property
    def estimate(self) -> Callable[[Any, Fleet, Before], dict[str, object]] | None:
        """The function that estimates what a run needs, as rows to print."""
        return load(self.estimate_at) if self.estimate_at else None


def load(place: str) -> Any:
    """Import what a place (`module:name`) names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


VERBS: Mapping[str, Verb] = {
    "corpus build": Verb(
        "raw files → documents",
        "biomlm.corpus.config:BuildConfig",
        "biomlm.corpus.commands.build:run",
        "biomlm corpus build --pubmed pubmed25n0001.xml.gz --pmc articles/ --text papers/ --out docs",
    ),
    "corpus stats": Verb(
        "what a folder of documents holds",
        "biomlm.corpus.config:StatsConfig",
        "biomlm.corpus.commands.stats:run",
        "biomlm corpus stats docs",
        positionals=("docs",),
    ),
    "corpus show": Verb(
        "documents by their ids, or a sample; why one was dropped",
        "biomlm.corpus.config:ShowConfig",
        "biomlm.corpus.commands.show:run",
        "biomlm corpus show docs pmid:29728066",
        positionals=("docs", "ids"),
    ),
    "tokenizer train": Verb(
        "documents → tokenizer folder",
        "biomlm.tokenizer.config:TrainConfig",
        "biomlm.tokenizer.commands.train:train",
        "biomlm tokenizer train --docs runs/corpus --kind bpe --vocab_size 50001 --out runs/tokenizer",
        first=("docs", "kind", "vocab_size", "sources", "out"),
    ),
    "tokenizer encode": Verb(
        "documents + tokenizer → token shards",
        "biomlm.tokenizer.config:EncodeConfig",
        "biomlm.tokenizer.commands.encode:encode",
        "biomlm tokenizer encode --docs runs/corpus --tokenizer runs/tokenizer --out runs/shards",
    ),
    "tokenizer compare": Verb(
        "vocabularies side by side",
        "biomlm.tokenizer.config:CompareConfig",
        "biomlm.tokenizer.commands.compare:compare",
        "biomlm tokenizer compare runs/tokenizer models/roberta-base --docs runs/corpus --terms mesh.txt",
        positionals=("tokenizers",),
    ),
    "pretrain": Verb(
        "shards → run folder; run again = resume",
        "biomlm.pretrain.config:PretrainConfig",
        "biomlm.pretrain.commands.pretrain:pretrain",
        "biomlm pretrain --shards SHARDS --model.size tiny --steps 200 --seed 1 --out RUN",
        first=("shards", "model.size", "steps", "init", "out"),
        estimate_at="biomlm.pretrain.planning.estimate:estimate",
        gpus="all",
        own_processes=("fairseq",),
    ),
    "pretrain average": Verb(
        "the mean of a run's last checkpoints, as a model",
        "biomlm.pretrain.config:AverageConfig",
        "biomlm.pretrain.commands.average:average",
        "biomlm pretrain average RUN --last 3 --out MEAN",
        positionals=("run",),
    ),
    "pretrain evaluate": Verb(
        "any model + held-out shards → loss, by source",
        "biomlm.pretrain.planning.config:EvaluateConfig",
        "biomlm.pretrain.commands.evaluate:evaluate",
        "biomlm pretrain evaluate models/roberta-base --shards SHARDS --out BEFORE",
        positionals=("model",),
        gpus="one",
    ),
    "pretrain inspect": Verb(
        "what a run's batches held: masks, pairs, lengths",
        "biomlm.pretrain.planning.config:InspectConfig",
        "biomlm.pretrain.commands.inspect:inspect",
        "biomlm pretrain inspect RUN",
        positionals=("run",),
    ),
    "pretrain trial": Verb(
        "the micro-batch that trains a model fastest, and how fast",
        "biomlm.pretrain.planning.config:TrialConfig",
        "biomlm.pretrain.commands.trial:trial",
        "biomlm pretrain trial models/roberta-base --shards SHARDS --out TRIAL",
        positionals=("init",),
        gpus="one",
    ),
    "distill": Verb(
        "shards + teacher → run folder",
        "biomlm.distill.config:DistillConfig",
        "biomlm.distill.commands.distill:distill",
        "biomlm distill --shards SHARDS --teacher RUN --model.size tiny --steps 200 --out STUDENT",
        first=("shards", "teacher", "model.size", "steps", "out"),
        estimate_at="biomlm.distill.estimate:estimate",
        gpus="all",
    ),
    "distill cache": Verb(
        "a teacher's answers ahead of time → cache folder",
        "biomlm.distill.teachers.cache_config:CacheConfig",
        "biomlm.distill.commands.cache:cache",
        "biomlm distill cache --shards SHARDS --teacher RUN --steps 200 --out CACHE",
        first=("shards", "teacher", "steps", "workers", "out"),
        estimate_at="biomlm.distill.estimate:estimate_cache",
        gpus="one",
    ),
    "distill plan": Verb(
        "what such a cache would take",
        "biomlm.distill.teachers.cache_config:TeacherOutputsConfig",
        "biomlm.distill.commands.plan:plan",
        "biomlm distill plan --shards SHARDS --teacher RUN --steps 200",
        first=("shards", "teacher", "steps"),
    ),
    "distill report": Verb(
        "a student beside its teacher and beside itself alone → HTML page",
        "biomlm.distill.config:ReportConfig",
        "biomlm.distill.commands.report:report",
        "biomlm distill report --run STUDENT --alone ALONE --out REPORT",
        positionals=("run",),
    ),
    "convert": Verb(
        "SRC DST --to {hf,fairseq,native}, checked numerically",
        "biomlm.convert.config:ConvertConfig",
        "biomlm.convert.commands.convert:run",
        "biomlm convert runs/demo/student runs/demo/student-hf --to hf",
        positionals=("src", "dst"),
    ),
    "convert check": Verb(
        "compare two models of any kind on the same inputs",
        "biomlm.convert.config:CompareConfig",
        "biomlm.convert.commands.check:run",
        "biomlm convert check runs/demo/student runs/demo/student-hf",
        positionals=("a", "b"),
    ),
    "convert fill": Verb(
        "a model's best words for <mask> in given sentences",
        "biomlm.convert.config:FillConfig",
        "biomlm.convert.commands.fill:run",
        'biomlm convert fill runs/demo/student --sentences "The patient was given <mask>." "<mask> causes fever."',
        positionals=("model",),
    ),
    "finetune": Verb(
        "model + task → scores, predictions, model",
        "biomlm.finetune.config:FinetuneConfig",
        "biomlm.finetune.commands.finetune:run",
        "biomlm finetune --model runs/demo/student --task ner --data NCBI-disease-IOB --epochs 3 --out runs/ncbi",
        first=("model", "task", "data", "epochs", "out"),
        gpus="one",
    ),
    "finetune predict": Verb(
        "a fine-tuned model's predictions for texts",
        "biomlm.finetune.config:PredictConfig",
        "biomlm.finetune.commands.predict:run",
        "biomlm finetune predict runs/ncbi notes.jsonl --out entities.jsonl",
        positionals=("model", "file"),
        gpus="one",
    ),
    "finetune compare": Verb(
        "fine-tuned runs side by side, with intervals and a paired test",
        "biomlm.finetune.config:CompareConfig",
        "biomlm.finetune.commands.compare:run",
        "biomlm finetune compare runs/before runs/after --page compared.html",
        positionals=("runs",),
    ),
    "finetune blurb": Verb(
        "the BLURB score of runs on its data sets",
        "biomlm.finetune.commands.blurb:BlurbConfig",
        "biomlm.finetune.commands.blurb:run",
        "biomlm finetune blurb NCBI-disease=runs/ncbi PubMedQA=runs/pubmedqa",
        positionals=("runs",),
    ),
    "launch": Verb(
        "run a recipe of stages",
        "biomlm.launch.commands.launch:LaunchConfig",
        "biomlm.launch.commands.launch:run",
        "biomlm launch demo --out runs/demo",
        positionals=("recipe",),
        first=("recipe", "on", "scale", "dry_run", "out"),
    ),
    "launch plan": Verb(
        "what a recipe would run",
        "biomlm.launch.commands.plan:PlanConfig",
        "biomlm.launch.commands.plan:run",
        "biomlm launch plan demo --out runs/demo",
        positionals=("recipe",),
    ),
    "adapt": Verb(
        "your text + any encoder → a Hugging Face model, and what it was worth",
        "biomlm.launch.commands.adapt:AdaptConfig",
        "biomlm.launch.commands.adapt:run",
        "biomlm adapt --model models/roberta-base --notes NOTEEVENTS.csv --pubmed baseline/ --budget 8h --out runs/adapted",
        first=("model", "notes", "pubmed", "budget", "out"),
    ),
    "launch show": Verb(
        "what a recipe comes to, and where each value stands",
        "biomlm.launch.commands.show:ShowConfig",
        "biomlm.launch.commands.show:run",
        "biomlm launch show demo --scale smoke",
        positionals=("recipe",),
    ),
    "report": Verb(
        "runs → a self-contained HTML page",
        "biomlm.launch.commands.report:ReportConfig",
        "biomlm.launch.commands.report:run",
        "biomlm report runs/demo --out report.html",
        positionals=("runs",),
    ),
    "doctor": Verb(
        "what this machine can do",
        "biomlm.launch.commands.doctor:DoctorConfig",
        "biomlm.launch.commands.doctor:run",
        "biomlm doctor --json",
    ),
}
