"""Folders from strangers: manifests, recipes, caches, shards and logs that were changed at random are read right or refused in two lines.

No traceback, no control character for the terminal, no wait without end, and no memory by a size that a file only states.
"""

import gzip
import random
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import yaml

from biomlm.core import cli

MODEL = ["--model.num_hidden_layers", "1", "--model.hidden_size", "16", "--model.num_attention_heads", "2"]
SMALL = [*MODEL, "--batch.tokens", "128", "--batch.max_length", "32", "--seed", "1", "--precision", "fp32"]
LONGEST = 60  # seconds that a command may take
MEMORY = 300 << 20  # bytes above the start
ODD: list[Any] = [
    None, True, -1, 0, 2**31, 2**62, 2**64 - 1, 1e308, "", "x", "../../../etc/passwd", "/dev/zero", "\x1b]0;owned\x07\x1b[2J", "\n" * 9,
    "a" * 100_000,
    [], {}, [[]], {"": {}}, "${out}", "[" * 2000, [None] * 1000, "\u202e\u0000\ud7ff",
]  # fmt: skip
RECIPE = """description: A recipe
vars: {docs: DOCS, size: 300, words: [a, b]}
inputs: ["${docs}"]
stages:
  - name: tokenizer
    verb: tokenizer train
    args: {docs: "${docs}", vocab_size: "${size}", out: "${out}/tokenizer"}
    minutes: 0.5
    slurm: {time: "2:00:00", setup: ["module load cuda"]}
  - name: shards
    verb: tokenizer encode
    args: {docs: "${docs}", tokenizer: "${out}/tokenizer", out: "${out}/shards"}
    smoke: {workers: 1}
"""


class Case(NamedTuple):
    """A file that is changed, and what reads it: `IN` stands for the folder that it lies in, `OUT` for one that is new."""

    folder: str
    file: str
    words: str


CASES = [
    Case("docs", "manifest.json", "corpus stats IN"),
    Case("docs", "train/00000.jsonl.gz", "corpus stats IN"),
    Case("docs", "manifest.json", "tokenizer train --docs IN --vocab_size 300 --workers 1 --out OUT"),
    Case("docs", "train/00000.jsonl.gz", "tokenizer train --docs IN --vocab_size 300 --workers 1 --out OUT"),
    Case("tokenizer", "manifest.json", "tokenizer encode --docs DOCS --tokenizer IN --workers 1 --out OUT"),
    Case("tokenizer", "tokenizer.json", "tokenizer encode --docs DOCS --tokenizer IN --workers 1 --out OUT"),
    Case("tokenizer", "tokenizer_config.json", "tokenizer encode --docs DOCS --tokenizer IN --workers 1 --out OUT"),
    Case("tokenizer", "vocab.json", "tokenizer compare IN --docs DOCS"),
    *(
        Case("shards", name, "pretrain --shards IN --steps 1 --out OUT SMALL")
        for name in ("manifest.json", "train.idx", "train.bin", "train.doc_index.npy", "valid.segments.npy", "valid.idx")
    ),
    Case("shards", "train.docs.jsonl.gz", "pretrain --shards IN --steps 1 --objective.nsp 1 --out OUT SMALL"),
    *(Case("run", name, "report IN --out OUT") for name in ("manifest.json", "config.yaml", "metrics.jsonl", "encoder.json")),
    *(
        Case("run", name, "pretrain evaluate IN --shards SHARDS --out OUT")
        for name in ("encoder.json", "checkpoints/step_2/state.json", "checkpoints/step_2/model.safetensors", "manifest.json")
    ),
    *(Case("run", name, "pretrain --shards SHARDS --steps 2 --out IN SMALL") for name in ("manifest.json", "metrics.jsonl")),
    *(
        Case("cache", name, "distill --shards SHARDS --cache IN --steps 2 --out OUT SMALL")
        for name in ("manifest.json", "cache.json", "answers/00000.bin")
    ),
    Case("recipe", "recipe.yaml", "launch plan IN/recipe.yaml"),
    Case("recipe", "recipe.yaml", "launch show IN/recipe.yaml"),
    Case("recipe", "recipe.yaml", "launch IN/recipe.yaml --out OUT --dry_run"),
    Case("launched", "launch.json", "report IN --out OUT"),
    Case("launched", "launch.json", "launch RECIPE --out IN"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(
    tiny_docs: Path, tiny_tokenizer: Path, tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """One whole folder of every kind."""
    made = tmp_path_factory.mktemp("whole")
    shards, run = ["--shards", str(tiny_shards)], str(made / "run")
    assert cli.run(["pretrain", *shards, "--steps", "2", "--out", run, *SMALL]) == 0
    assert (
        cli.run(
            [
                "distill",
                "cache",
                *shards,
                "--teacher",
                run,
                "--steps",
                "2",
                "--out",
                str(made / "cache"),
                *SMALL[len(MODEL) :],
            ]
        )
        == 0
    )
    (made / "recipe").mkdir()
    (made / "recipe" / "recipe.yaml").write_text(RECIPE.replace("DOCS", str(tiny_docs)))
    assert cli.run(["launch", str(made / "recipe" / "recipe.yaml"), "--out", str(made / "launched")]) == 0
    folders = {"docs": tiny_docs, "tokenizer": tiny_tokenizer, "shards": tiny_shards}
    return folders | {name: made / name for name in ("run", "cache", "recipe", "launched")}


@pytest.fixture(autouse=True)
def bell(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End a command that takes too long; let a panic of tokenizers' be told in two lines, whatever this shell's taste."""

    def ring(*_: object) -> None:
        raise RuntimeError(f"not done in {LONGEST} s")

    monkeypatch.setenv("RUST_BACKTRACE", "0")
    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def nodes(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a value of JSON."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from nodes(item, (*place, key))


def odd_value(value: Any, rng: random.Random) -> Any:
    """Put something odd in one place of a value, take that out, or name it otherwise."""
    place = rng.choice(list(nodes(value))[1:] or [()])
    if not place:
        return rng.choice(ODD)
    holder = value
    for key in place[:-1]:
        holder = holder[key]
    how = rng.randrange(4)
    if how == 0:
        del holder[place[-1]]
    elif how == 1 and isinstance(holder, dict):
        holder[rng.choice(["\x1b[31m", "", "odd", "../x"])] = holder.pop(place[-1])
    else:
        holder[place[-1]] = rng.choice(ODD)
    return value


def odd_bytes(data: bytes, rng: random.Random) -> bytes:
    """Cut, fill, exchange or insert bytes, or lay a large number over eight of them, near the head more often than not."""
    at = rng.randrange(min(len(data), rng.choice([64, max(len(data), 1)]))) if data else 0
    number = struct.pack("<q", rng.choice([-1, 2**31, 2**40, 2**62, 0, 1]))
    changes: list[Callable[[], bytes]] = [
        lambda: data[:at],
        lambda: data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
        lambda: data[:at] + number + data[at + 8 :],
        lambda: data[:at] + rng.randbytes(7) + data[at:],
        lambda: data + data[at:],
        lambda: data[:at] + b"[" * 3000 + data[at:],
        lambda: b"",
    ]
    return rng.choice(changes)()


def changed(data: bytes, name: str, rng: random.Random) -> bytes:
    """Change a file, by what it means or by its bytes."""
    kind = Path(name).suffix
    if kind == ".gz":
        unpacked = gzip.decompress(data)
        lines = unpacked.splitlines(keepends=True)
        at = rng.randrange(len(lines))
        lines[at] = changed(lines[at], ".json", rng)
        return rng.choice([lambda: gzip.compress(b"".join(lines)), lambda: odd_bytes(data, rng)])()
    if kind == ".jsonl":
        lines = data.splitlines(keepends=True)
        at = rng.randrange(len(lines))
        lines[at] = changed(lines[at], ".json", rng)
        return b"".join(lines)
    if kind == ".json" and rng.random() < 0.8:
        return orjson.dumps(odd_value(orjson.loads(data), rng), option=orjson.OPT_APPEND_NEWLINE)
    if kind == ".yaml" and rng.random() < 0.8:
        return yaml.safe_dump(odd_value(yaml.safe_load(data), rng), allow_unicode=True).encode()
    return odd_bytes(data, rng)


def peak(*, begin: bool = False) -> int:
    """Bytes that this process held at most since `begin`."""
    if begin:
        Path("/proc/self/clear_refs").write_text("5")
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) << 10


def run_changed(
    case: Case, seed: int, folders: dict[str, Path], folder: Path, capfd: pytest.CaptureFixture[str]
) -> int:
    """Change the case's file and run its command."""
    rng = random.Random(f"{case} {seed}")
    shutil.copytree(folders[case.folder], folder / "in")
    file = folder / "in" / case.file
    file.write_bytes(changed(file.read_bytes(), case.file, rng))
    names = {"OUT": str(folder / "out"), "DOCS": str(folders["docs"]), "SHARDS": str(folders["shards"])}
    names["RECIPE"] = str(folders["recipe"] / "recipe.yaml")
    words = [w for word in case.words.split() for w in (SMALL if word == "SMALL" else [names.get(word, word)])]
    capfd.readouterr()
    start = peak(begin=True)
    signal.alarm(LONGEST)
    code = cli.run([str(folder / "in") + word[2:] if word[:3] in ("IN", "IN/") else word for word in words])
    signal.alarm(0)
    out, error = capfd.readouterr()
    assert code in (0, 2), error[-3000:]
    assert peak() - start < MEMORY
    assert not {c for c in (out + error).replace("\n", "") if ord(c) < 32 or ord(c) == 127}
    if code == 2:
        said = error.splitlines()
        assert len(said) <= 2 or said[-2].startswith("biomlm"), error[-3000:]
        assert len(error) < 5000
    return code


@pytest.mark.parametrize(
    "case",
    CASES,
    ids=lambda case: f"{case.words.partition(' IN')[0].partition(' --')[0]} {case.file}".replace(" ", "-"),
)
def test_a_changed_folder_is_read_or_refused(
    case: Case, folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        run_changed(case, seed, folders, tmp_path / str(seed), capfd)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_a_thousand_changed_folders_are_read_or_refused(
    part: int, folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    codes = []
    for seed in range(100):
        case = CASES[(100 * part + seed) % len(CASES)]
        codes.append(run_changed(case, 1000 + 100 * part + seed, folders, tmp_path / str(seed), capfd))
        shutil.rmtree(tmp_path / str(seed))
    assert {0, 2} == set(codes)
