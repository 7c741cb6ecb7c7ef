"""What a stage reads is in its manifest: for every option that names a path, other content at the same path is another input.

A stage that did not notice would find itself done, and the next ones would stand on what was made from the old content.
"""

import gzip
import importlib
import shutil
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from biomlm.core import checkpoint, cli, config
from biomlm.core.files import read_json
from biomlm.core.manifest import Manifest

Without = Callable[[list[str], str], list[str]]

DEMO = Path(__file__).parents[1] / "demo" / "data"
FINETUNE = Path(__file__).parent / "data" / "finetune"
WORDS = [
    (b" the ", b" that "),
    (b"well", b"good"),
    (b"length", b"leisure"),
    (b"Some", b"More"),
    (b"Disorders", b"Ills"),
    (b"first", b"other"),
]
SIZES = [
    "--batch.tokens",
    "64",
    "--batch.max_length",
    "16",
    "--eval_tokens",
    "64",
    "--precision",
    "fp32",
    "--steps",
    "1",
]
SHAPE = ["--model.num_hidden_layers", "1", "--model.hidden_size", "16", "--model.num_attention_heads", "2"]
NO_PATH = {  # words that name no file
    "corpus build": "xpath note_columns where.partition where.time select.languages select.licenses select.article_types select.journals "
    "select.categories select.date_from select.date_to",
    "tokenizer train": "sources weights",
    "tokenizer encode": "",
    "pretrain": "mlm.pos mix.weights examples.sources needs_init",
    "distill": "mlm.pos mix.weights examples.sources needs_init start_layers loss.kl loss.mlm loss.hidden loss.pooled "
    "loss.embeddings loss.relations loss.layers",
    "distill cache": "mlm.pos mix.weights",
    "pretrain average": "",
    "pretrain evaluate": "",
    "pretrain trial": "fleet",
    "finetune": "negative one_type columns.id columns.text columns.pair columns.label columns.choices columns.separator columns.document",
}
RUNTIME = {"deepspeed.config"}  # decides how a run computes, not what


class Library:
    """Small inputs of every kind, made when they are first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, name: str) -> str:
        path = self.folder / name
        if not path.exists():
            getattr(self, f"make_{name}")(path)
        return str(path)

    def make_model(self, path: Path) -> None:
        assert cli.run(["pretrain", "--shards", self("shards"), *SIZES, *SHAPE, "--out", str(path)]) == 0

    make_model2 = make_model

    def make_hf(self, path: Path) -> None:
        assert cli.run(["convert", self("model"), str(path), "--to", "hf"]) == 0

    def make_cache(self, path: Path) -> None:
        words = [
            "--shards",
            self("shards"),
            "--teacher",
            self("model"),
            *SIZES[:4],
            "--steps",
            "1",
            "--k",
            "4",
            "--hidden",
            "1",
        ]
        assert cli.run(["distill", "cache", *words, "--out", str(path)]) == 0

    def make_data(self, path: Path) -> None:
        path.mkdir()
        for fold, drug in (("train", "aspirin"), ("devel", "heparin"), ("test", "insulin")):
            (path / f"{fold}.txt").write_text(
                f"{drug}|t|Some {drug} was given\n{drug}|a|today.\n{drug}\t5\t{5 + len(drug)}\t{drug}\tT121\tC1\n\n"
            )

    def make_groups(self, path: Path) -> None:
        path.write_text("CHEM|Chemicals|T121|Pharmacologic Substance\nDISO|Disorders|T047|Disease\n")

    def make_article(self, path: Path) -> None:
        raw = gzip.decompress((DEMO / "pubmed" / "works_03.xml.gz").read_bytes())
        end = b"</PubmedArticle>"
        path.mkdir()
        (path / "a.xml").write_bytes(end.join(raw.split(end)[:20]) + end + b"</PubmedArticleSet>")

    def make_pmc(self, path: Path) -> None:
        path.mkdir()
        source = sorted((DEMO / "pmc").glob("*.xml.gz"))[0]
        (path / "a.xml").write_bytes(gzip.decompress(source.read_bytes()))

    def make_notes(self, path: Path) -> None:
        path.mkdir()
        rows = "".join(f'{i},{i},Report,"The patient was seen on day {i} and felt well again."\n' for i in range(1, 9))
        (path / "NOTEEVENTS.csv").write_text("ROW_ID,SUBJECT_ID,CATEGORY,TEXT\n" + rows)

    def make_salt(self, path: Path) -> None:
        path.touch(mode=0o600)
        path.write_text("first-4f0c2b9e7d1a8365f0c2b9e7d1a83651")

    def make_text(self, path: Path) -> None:
        path.mkdir()
        for i in range(4):
            (path / f"{i}.txt").write_text(f"Document {i} tells of the heart and of the lung at length.\n")

    def make_evaluation(self, path: Path) -> None:
        path.write_text("The patient was treated with many drugs for many days and then went home well.\n")

    def make_tagger(self, path: Path) -> None:
        path.write_text("first")


def other_weights(path: Path) -> None:
    """Move a run's weights and leave all else; its last checkpoint is whole again."""
    found = checkpoint.load_latest(path)
    assert found is not None
    groups = {group: {name: t.clone() for name, t in tensors.items()} for group, tensors in found.tensors.items()}
    groups["model"]["head.bias"] += 1
    checkpoint.save(path, checkpoint.Checkpoint(found.step, groups, found.state), keep=1)


def other_moments(path: Path) -> None:
    found = checkpoint.load_latest(path)
    assert found is not None
    groups = {group: {name: t.clone() for name, t in tensors.items()} for group, tensors in found.tensors.items()}
    name = next(name for name in groups["optimizer"] if name.startswith("exp_avg."))
    groups["optimizer"][name] += 1
    checkpoint.save(path, checkpoint.Checkpoint(found.step, groups, found.state), keep=1)


def other_activation(path: Path) -> None:
    raw = read_json(path / "config.json")
    (path / "config.json").write_bytes(orjson.dumps(raw | {"hidden_act": "gelu_new"}))


def other_settings(path: Path) -> None:
    file = path / "tokenizer_config.json"
    file.write_bytes(orjson.dumps(read_json(file) | {"model_max_length": 77}))


def other_encoder(path: Path) -> None:
    raw = read_json(path / "encoder.json")
    (path / "encoder.json").write_bytes(orjson.dumps(raw | {"layer_norm_eps": 1e-3}))


def other_stage(path: Path) -> None:
    """A folder made again by its stage: other outputs, another manifest."""
    raw: Any = read_json(path / "manifest.json")
    Manifest(**(raw | {"outputs": {**raw["outputs"], "x": "0" * 64}})).write(path)


def other_text(path: Path) -> None:
    file = path if path.is_file() else max(p for p in path.rglob("*") if p.is_file())
    old, new = next(pair for pair in WORDS if pair[0] in file.read_bytes())
    file.write_bytes(file.read_bytes().replace(old, new, 1))


def other_tokenizer(path: Path) -> None:
    """Two pieces change their ids."""
    raw: Any = read_json(path / "tokenizer.json")
    pieces = raw["model"]["vocab"]
    pieces["a"], pieces["b"] = pieces["b"], pieces["a"]
    (path / "tokenizer.json").write_bytes(orjson.dumps(raw))
    for name in ("dict.txt", "encoder.json", "vocab.bpe", "vocab.json", "merges.txt"):
        (path / name).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def library(
    tiny_shards: Path, tiny_tokenizer: Path, tiny_docs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Library:
    made = Library(tmp_path_factory.mktemp("library"))
    for name, source in (("shards", tiny_shards), ("tokenizer", tiny_tokenizer), ("docs", tiny_docs)):
        (made.folder / name).symlink_to(source)
    return made


def words(verb: str, place: Callable[[str], str]) -> list[str]:
    """A small command of a verb, without the options that a case adds."""
    shards = ["--shards", place("shards"), *SIZES]
    return {
        "corpus build": ["--min_words", "1"],
        "tokenizer train": ["--docs", place("docs"), "--vocab_size", "300"],
        "tokenizer encode": ["--docs", place("docs"), "--tokenizer", place("tokenizer"), "--workers", "1"],
        "pretrain": shards,
        "pretrain average": ["--last", "1"],
        "pretrain evaluate": ["--eval_tokens", "64", "--precision", "fp32"],
        "pretrain trial": ["--largest", "16", "--precision", "fp32"],
        "distill": shards,
        "distill cache": [*shards[:6], "--steps", "1", "--k", "4"],
        "finetune": ["--task", "ner", "--epochs", "1", "--precision", "fp32", "--batch.max_length", "16"],
    }[verb]


Change = Callable[[Path], None]
# verb, the option whose path's content changes, the place, the other options with theirs, the change
CASES: list[tuple[str, str, str, dict[str, str], Change]] = [
    ("corpus build", "pubmed", "article", {}, other_text),
    ("corpus build", "pmc", "pmc", {}, other_text),
    ("corpus build", "notes", "notes", {"salt_file": "salt"}, other_text),
    (
        "corpus build",
        "salt_file",
        "salt",
        {"notes": "notes"},
        other_text,
    ),  # stored as a fingerprint in the configuration
    ("corpus build", "text", "text", {}, other_text),
    ("corpus build", "select.decontaminate", "evaluation", {"text": "text"}, other_text),
    ("tokenizer train", "docs", "docs", {}, other_stage),
    ("tokenizer encode", "docs", "docs", {}, other_stage),
    ("tokenizer encode", "tokenizer", "tokenizer", {}, other_tokenizer),
    ("tokenizer encode", "pos", "tagger", {}, other_text),
    ("pretrain", "shards", "shards", {}, other_stage),
    ("pretrain", "init", "model", {}, other_weights),
    ("pretrain", "init", "hf", {}, other_activation),
    ("pretrain", "longer", "model", {}, other_weights),
    ("pretrain", "longer", "model", {}, other_moments),
    ("pretrain average", "run", "model", {}, other_weights),
    ("pretrain average", "run", "model", {}, other_encoder),
    ("pretrain evaluate", "model", "model", {"shards": "shards"}, other_weights),
    ("pretrain evaluate", "shards", "shards", {"model": "model"}, other_stage),
    ("pretrain trial", "init", "hf", {"shards": "shards"}, other_activation),
    ("pretrain trial", "shards", "shards", {"init": "model"}, other_stage),
    ("distill", "shards", "shards", {"teacher": "model"}, other_stage),
    ("distill", "teacher", "model", {}, other_weights),
    ("distill", "teacher", "hf", {}, other_activation),
    ("distill", "init", "model", {"teacher": "model2"}, other_weights),
    ("distill", "longer", "model", {"teacher": "model2"}, other_moments),
    ("distill", "cache", "cache", {}, other_stage),
    ("distill cache", "shards", "shards", {"teacher": "model"}, other_stage),
    ("distill cache", "teacher", "model", {}, other_weights),
    ("distill cache", "teacher", "hf", {}, other_activation),
    ("finetune", "model", "model", {"data": "data"}, other_weights),
    ("finetune", "model", "hf", {"data": "data"}, other_activation),
    ("finetune", "model", "hf", {"data": "data"}, other_settings),
    ("finetune", "data", "data", {"model": "model"}, other_text),
    ("finetune", "groups", "groups", {"model": "model", "data": "data"}, other_text),
]


def make_spacy() -> types.ModuleType:
    """A spaCy whose pipelines are files; what is in them changes nothing that it says of itself."""

    class Pipeline:
        pipe_names = ("attribute_ruler",)
        meta: typing.ClassVar = {"lang": "en", "name": "none", "version": "1"}

        def __init__(self, path: Path):
            self.path = path

        def pipe(self, texts: list[str]) -> list[list[object]]:
            return [[] for _ in texts]

    made = types.ModuleType("spacy")
    made.__version__ = "0"  # type: ignore[attr-defined]
    made.load = lambda name, exclude: Pipeline(Path(name).parent)  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize(
    ("verb", "option", "name", "others", "change"), CASES, ids=lambda value: getattr(value, "__name__", str(value))[:30]
)
def test_other_content_at_a_path_is_another_input(
    verb: str,
    option: str,
    name: str,
    others: dict[str, str],
    change: Change,
    library: Library,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    without: Without,
) -> None:
    monkeypatch.setitem(sys.modules, "spacy", make_spacy())
    if verb == "corpus build":
        monkeypatch.delenv("BIOMLM_SALT", raising=False)
    out = tmp_path / "out"

    def place(which: str) -> str:
        """A copy, if it is the one that changes."""
        copy = tmp_path / which
        if which == name and not copy.exists():
            source = Path(library(which))
            shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
        return str(copy) if which == name else library(which)

    given = {**others, option: name}
    argv = [*verb.split(), *words(verb, place), "--out", str(out)]
    argv += SHAPE if verb in ("pretrain", "distill") and not {"init", "longer"} & given.keys() else []
    for key, value in given.items():
        argv = [*without(argv, f"--{key}"), f"--{key}", place(value)]
    assert cli.run(argv) == 0
    before = read_json(out / "manifest.json")["inputs"]
    change(tmp_path / name)
    capsys.readouterr()
    assert cli.run(argv) == 2
    assert "made with another " + ("configuration" if option == "salt_file" else "input: ") in capsys.readouterr().err
    assert read_json(out / "manifest.json")["inputs"] == before


def test_every_option_that_can_name_a_path_is_in_the_table() -> None:
    """The verbs that keep a manifest, as their modules tell; every one of their options that holds words."""
    for verb, place in cli.VERBS.items():
        imported = importlib.import_module(place.module)
        if not hasattr(imported, "STAGE") or "out" not in config.keys(place.config):
            continue
        texts = {key for key, kind in config.keys(place.config).items() if _holds_words(kind)} - {"out"}
        tested = {option for of, option, *_ in CASES if of == verb}
        assert texts - RUNTIME == tested | set(NO_PATH[verb].split()), verb


def _holds_words(kind: Any) -> bool:
    if kind is str:
        return True
    return typing.get_origin(kind) is not typing.Literal and any(map(_holds_words, typing.get_args(kind)))


def test_an_old_folder_without_a_models_hash_goes_on_and_says_so(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["pretrain", "--shards", library("shards"), *SIZES, "--init", library("model"), "--out", str(out)]
    assert cli.run(argv) == 0
    raw: Any = read_json(out / "manifest.json")
    del raw["inputs"]["init"]
    Manifest(**raw).write(out)
    assert cli.run(argv) == 0
    assert "init was not written down" in capsys.readouterr().err
    Manifest(**(raw | {"inputs": {"shards": "0" * 64}})).write(out)
    assert cli.run(argv) == 2


def test_a_recipes_second_stage_is_trained_again_from_a_new_first(tiny_shards: Path, tmp_path: Path) -> None:
    """The first stage's folder is removed and made anew; the second one's weights must not stay the old one's."""
    sizes = f"shards: {tiny_shards}, steps: 1, eval_tokens: 64, precision: fp32, batch: {{tokens: 64, max_length: 16}}"
    shape = "model: {num_hidden_layers: 1, hidden_size: 16, num_attention_heads: 2}"
    recipe = tmp_path / "chain.yaml"
    recipe.write_text(
        "vars: {seed: 1}\nstages:\n"
        f"  - {{name: first, verb: pretrain, args: {{{sizes}, {shape}, seed: '${{seed}}', out: '${{out}}/first'}}}}\n"
        f"  - {{name: second, verb: pretrain, args: {{{sizes}, init: '${{out}}/first', out: '${{out}}/second'}}}}\n"
    )
    launch = ["launch", str(recipe), "--out", str(tmp_path / "made")]
    assert cli.run(launch) == 0
    shutil.rmtree(tmp_path / "made" / "first")
    assert cli.run([*launch, "--var", "seed=2"]) == 2, "the second says that it was made from another first"
    assert cli.run([*launch, "--var", "seed=2", "--override"]) == 0
