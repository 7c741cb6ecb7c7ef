"""Small real artefacts that several rooms' tests stand on, made once a session by the commands themselves."""

import gzip
import multiprocessing
import os
import random
import re
import runpy
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import coverage
import orjson
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from biomlm.convert.formats import native
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.core import cli
from biomlm.core.manifest import Manifest, read_manifest
from biomlm.core.metrics import read_metrics
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM
from biomlm.tokenizer.commands import encode
from biomlm.tokenizer.formats import folder as tokenizer_folder

# A machine that does other work too is slow at times, which is no fault of a property.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

PUBLIC_SALT = "biolm"  # the demo's


@pytest.fixture(scope="session", autouse=True)
def salt() -> Iterator[None]:
    """A salt for the notes of all tests; those about salts take it away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOMLM_SALT", PUBLIC_SALT)
        yield


SBATCH = """#!/bin/sh
# Runs every task of the array at once, one after another, keeps what they logged, and prints an id as sbatch does.
for script; do :; done
array=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
pickled=$(sed -n 's/^.*launch_pickled_pipeline //p' "$script")
for task in $(seq 0 "$array"); do SLURM_ARRAY_TASK_ID=$task SLURM_NODELIST=localhost SLURM_CPUS_PER_TASK=1 sh "$script" >&2 || true; done
[ -z "$pickled" ] || cp -r "$(dirname "$pickled")" "$BIOMLM_TEST_KEPT"  # the build removes it
echo "Submitted batch job 7"
"""
SRUN = """#!/bin/sh
while :; do case "$1" in -n) shift 2 ;; -*) shift ;; *) break ;; esac; done
exec "$@"
"""
DRUGS = ["aspirin", "heparin", "insulin", "metformin", "warfarin", "digoxin"]
ORGANS = ["heart", "liver", "kidney", "lung", "brain", "spleen"]
VERBS = ["protects", "damages", "enlarges", "relaxes"]


def _document(number: int, rng: random.Random) -> dict[str, object]:
    """A few sentences of a tiny language in which the drug fixes the organ, so that there is something to learn."""
    sentences = []
    for _ in range(rng.randint(2, 7)):
        i = rng.randrange(len(DRUGS))
        sentences.append(f"Treatment with {DRUGS[i]} often {rng.choice(VERBS)} the {ORGANS[i]} of the patient.")
    text = " ".join(sentences)
    spans, at = [], 0
    for sentence in sentences:
        spans.append([at, at + len(sentence)])
        at += len(sentence) + 1
    metadata = {"source": "text", "sections": [[0, len(text), ""]], "sentences": spans, "links": []}
    return {"text": text, "id": f"text:tiny:{number}", "metadata": metadata}


@pytest.fixture(scope="session")
def tiny_docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of documents: 300 to train on, 40 held out."""
    folder, rng, numbers = tmp_path_factory.mktemp("docs"), random.Random(0), iter(range(340))
    files = []
    for split, count in (("train", 300), ("valid", 40)):
        (folder / split).mkdir()
        files.append(folder / split / "00000.jsonl.gz")
        lines = [orjson.dumps(_document(next(numbers), rng), option=orjson.OPT_APPEND_NEWLINE) for _ in range(count)]
        files[-1].write_bytes(gzip.compress(b"".join(lines), mtime=0))
    Manifest("corpus build", {}, "tiny").finish(folder, files, {})
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_docs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 300 ids learnt on them."""
    folder = tmp_path_factory.mktemp("made") / "tokenizer"
    assert cli.run(["tokenizer", "train", "--docs", str(tiny_docs), "--vocab_size", "300", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native model of two layers and 32 positions with random weights and the tiny tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    torch.manual_seed(0)
    config = EncoderConfig(
        vocab_size=tokenizer_folder.load(tiny_tokenizer).vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_positions=32,
        initializer_range=0.1,
    )
    native.write(SourceCheckpoint("native", config, MaskedLM(config).state_dict(), folder), folder, torch.float32)
    tokenizer_folder.copy(tiny_tokenizer, folder / native.TOKENIZER)
    return folder


@pytest.fixture(scope="session")
def tiny_shards(tiny_docs: Path, tiny_tokenizer: Path) -> Path:
    """Their token shards."""
    folder = tiny_tokenizer.parent / "shards"
    argv = ["--docs", str(tiny_docs), "--tokenizer", str(tiny_tokenizer), "--out", str(folder)]
    assert cli.run(["tokenizer", "encode", *argv]) == 0
    return folder


@pytest.fixture(scope="session")
def list_anew() -> Callable[[Path], None]:
    """list_anew(shards): let their manifest list what the files have become, as if they had been written so."""

    def change(folder: Path) -> None:
        record = read_manifest(folder, "tokenizer encode")
        record.finish(folder, [folder / name for name in record.outputs], record.counts)

    return change


DEMO = Path(__file__).parents[1] / "demo" / "data"
CLOSED_CLASSES = {
    "DET": "the a an this that these those each all no some any",
    "CCONJ": "and or but nor",
    "SCONJ": "if because while whether although since",
    "ADP": "of in to with for by from at on as after between during among within",
    "PRON": "we it they their its our which who he she",
    "VERB": "is was were are be been had has have showed found may can",
}


class ListTagger:
    """Stands in for spaCy: the closed classes by lists of words, all else a noun."""

    def __init__(self, name: str):
        self.name = name
        self.tags = {word: tag for tag, words in CLOSED_CLASSES.items() for word in words.split()}

    @property
    def fingerprint(self) -> str:
        return str(sorted(self.tags.items()))

    def tag(self, texts: Sequence[str]) -> Iterator[list[tuple[int, int, str]]]:
        for text in texts:
            words = re.finditer(r"\w+|[^\w\s]", text)
            yield [(m.start(), m.end(), self.tags.get(m[0].lower(), "NOUN")) for m in words]


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Shards of bundled records, 1,600 abstracts that cite each other and 200 notes: `bpe` and `wordpiece`, with parts of speech."""
    made = tmp_path_factory.mktemp("bundled")
    sources = ["--pubmed", str(DEMO / "pubmed" / "works_01.xml.gz"), "--notes", str(DEMO / "notes")]
    docs, one = ["--docs", str(made / "docs")], ["--workers", "1"]
    assert cli.run(["corpus", "build", *sources, "--valid_fraction", "0.05", "--out", str(made / "docs"), *one]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "Spacy", ListTagger)
        for kind in ("bpe", "wordpiece"):
            tokenizer = ["--tokenizer", str(made / f"{kind}-tokenizer")]
            train = ["tokenizer", "train", *docs, "--kind", kind, "--vocab_size", "1000", "--out", tokenizer[1], *one]
            assert cli.run(train) == 0
            out = ["--pos", "lists", "--out", str(made / kind), *one]
            assert cli.run(["tokenizer", "encode", *docs, *tokenizer, *out]) == 0
    return {kind: made / kind for kind in ("bpe", "wordpiece")}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for SLURM's commands; what datatrove wrote for the tasks, and what they logged, lies in the folder that is given back."""
    scripts, kept = tmp_path / "bin", tmp_path / "kept"
    scripts.mkdir()
    kept.mkdir()
    for name, text in (
        ("sbatch", SBATCH),
        ("srun", SRUN),
        ("squeue", "#!/bin/sh\nexit 0\n"),
        ("scontrol", "#!/bin/sh\necho localhost\n"),
    ):
        (scripts / name).write_text(text)
        (scripts / name).chmod((scripts / name).stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{scripts}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("BIOMLM_TEST_KEPT", str(kept))
    return kept


def _without(words: list[str], flag: str) -> list[str]:
    if flag not in words:
        return words
    at = words.index(flag)
    return words[:at] + words[at + 2 :]


@pytest.fixture(scope="session")
def without() -> Callable[[list[str], str], list[str]]:
    """Take a flag and its one value out of a command's words: a list that is given twice is refused."""
    return _without


PRELOAD = [
    "biomlm.pretrain.commands.pretrain",
    "biomlm.finetune.commands.finetune",
    "torch.utils.tensorboard",
    "torch.distributed.fsdp",
    "biomlm.core.cli",
    "deepspeed",
]
MODEL = ["--model.num_hidden_layers", "2", "--model.hidden_size", "32", "--model.num_attention_heads", "2"]
SMALL = [
    "--batch.tokens",
    "128",
    "--batch.max_length",
    "32",
    "--optim.lr",
    "3e-3",
    "--seed",
    "1",
    "--precision",
    "fp32",
]


class Ranks:
    """The processes of one run."""

    def __init__(self, processes: list[BaseProcess], logs: list[Path]):
        self.processes, self.logs = processes, logs

    def wait(self, timeout: float = 120) -> list[int]:
        """Exit codes, by rank; negative for a signal."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(deadline - time.monotonic(), 0.1))
        late = [rank for rank, process in enumerate(self.processes) if process.exitcode is None]
        for process in self.processes:
            process.kill()
        assert not late, f"ranks {late} did not end:\n{self.said()}"
        return [process.exitcode or 0 for process in self.processes]

    def said(self) -> str:
        """All that the ranks printed."""
        return "".join(log.read_text() for log in self.logs if log.exists())


@pytest.fixture(scope="session")
def start_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Ranks]]:
    """start_ranks(2, argv, patch="nan.py", ADDED="environment"): `biomlm` on processes forked from a server with the imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    started: list[Ranks] = []
    measured = coverage.Coverage.current()
    data = "" if measured is None else str(Path(measured.config.data_file).absolute())

    def start(size: int, argv: Sequence[str], patch: str = "", **env: str) -> Ranks:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        folder = tmp_path_factory.mktemp("ranks")
        processes, logs = [], [folder / str(rank) for rank in range(size)]
        for rank in range(size):
            where = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "MASTER_PORT": port}
            told = {"ENV": {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", **where, **env}}
            given = {**told, "ARGV": list(argv), "LOG": str(logs[rank]), "PATCH": patch, "COVERAGE": data}
            script = str(Path(__file__).parent / "ranks" / "rank.py")
            processes.append(context.Process(target=runpy.run_path, args=(script, given)))
            processes[-1].start()
        started.append(Ranks(processes, logs))
        return started[-1]

    yield start
    for ranks in started:
        for process in ranks.processes:
            process.kill()


def small_argv(shards: Path, out: Path, steps: int, *more: str) -> list[str]:
    """A small run."""
    return ["pretrain", "--shards", str(shards), "--out", str(out), "--steps", str(steps), *MODEL, *SMALL, *more]


@pytest.fixture(scope="session")
def small_run() -> Callable[..., list[str]]:
    """The words of a small run: small_run(shards, out, steps, …)."""
    return small_argv


@pytest.fixture(scope="session")
def records() -> Callable[[Path, str], dict[int, object]]:
    """records(run, name): what `metrics.jsonl` says of training under a name, by step."""
    return lambda run, name: {r["step"]: r[name] for r in read_metrics(run) if r["split"] == "train" and name in r}


ATEN = torch.ops.aten
PRODUCTS = (ATEN.mm.default, ATEN.addmm.default, ATEN.bmm.default, ATEN.baddbmm.default)
SUMS = (ATEN.sum.default, ATEN.sum.dim_IntList, ATEN.mean.dim)


@dataclass
class Products(TorchDispatchMode):
    """Computes every product and sum of fp16 numbers in float32, rounds it to fp16, as a GPU does, and keeps the largest number of each."""

    largest: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        numbers = [a for a in args if isinstance(a, Tensor)]
        if not numbers or numbers[-1].dtype != torch.float16 or kwargs.get("dtype") == torch.float32:
            return func(*args, **kwargs)
        wide = [a.float() if isinstance(a, Tensor) else a for a in args]
        if func == ATEN.bmm.out:
            return kwargs["out"].copy_(self._kept(ATEN.bmm.default(*wide)))
        return self._kept(func(*wide, **kwargs)) if func in (*PRODUCTS, *SUMS) else func(*args, **kwargs)

    def _kept(self, exact: Tensor) -> Tensor:
        self.largest.append(float(exact.abs().max()))
        return exact.half()


@pytest.fixture
def fp16_products() -> type[Products]:
    """`with fp16_products() as products:` looks at every product and sum of fp16 numbers; `products.largest` has their largest ones."""
    return Products
