"""Recipes: what is filled in, what is refused and where, and that every shipped recipe's options are its verbs' own."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomlm.core import config as configuration
from biomlm.core.errors import ConfigError
from biomlm.core.verbs import VERBS
from biomlm.launch.recipe import Recipe, Stage, read
from biomlm.launch.resolve import shipped
from biomlm.launch.sourced import Place
from biomlm.launch.state import stage_key

RECIPE = """\
description: two stages
vars: {data: raw, deep: "${data}/xml"}
inputs: ["${data}"]
stages:
  - name: corpus
    verb: corpus build
    args: {pubmed: ["${deep}"], out: "${out}/corpus", valid_fraction: 0.1}
    smoke: {valid_fraction: 0.5}
    minutes: 2
  - name: report
    verb: report
    args: {runs: ["${out}"], out: "${out}/report.html"}
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_variables_outputs_and_what_is_read(tmp_path: Path) -> None:
    recipe = read(write(tmp_path, RECIPE), "runs/a", variables=["data=/data"])
    corpus, report = recipe.stages
    assert [need.path for need in recipe.needs] == ["/data"]
    assert corpus.words == [
        *("corpus", "build", "--pubmed", "/data/xml"),
        *("--out", "runs/a/corpus", "--valid_fraction", "0.1"),
    ]
    assert (corpus.outputs, corpus.reads, corpus.minutes) == ((Path("runs/a/corpus"),), (), 2.0)
    assert (report.outputs, report.reads, report.minutes) == ((Path("runs/a/report.html"),), ("corpus",), 1.0)


def test_smoke_is_laid_over_args(tmp_path: Path) -> None:
    assert read(write(tmp_path, RECIPE), "o", "smoke").stages[0].args["valid_fraction"] == 0.5
    nested = RECIPE.replace("valid_fraction: 0.1", "model: {size: base, layers: 2}").replace(
        "smoke: {valid_fraction: 0.5}", "smoke: {model: {size: tiny}}"
    )
    assert read(write(tmp_path, nested), "o", "smoke").stages[0].args["model"] == {"size": "tiny", "layers": 2}


def test_the_current_folder_as_out_does_not_own_every_relative_path(tmp_path: Path) -> None:
    corpus, _ = read(write(tmp_path, RECIPE), ".").stages
    assert corpus.outputs == (Path.cwd() / "corpus",)


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("description:", "descripton:", 1, "Did you mean description?"),
        ("    verb: report", "    vreb: report", 11, "Did you mean verb?"),
        ("verb: report", "verb: reprot", 10, "Did you mean report?"),
        ("${deep}", "${depp}", 7, "Did you mean ${deep}?"),
        ("minutes: 2", "minutes: soon", 9, "positive number"),
        ("minutes: 2", "minutes: true", 9, "positive number"),
        ("name: report", "name: corpus", 10, "no other stage has"),
        ("name: report", "name: ../up", 10, "a-z, 0-9"),
        ("verb: report", "verb: launch", 10, "no verb `launch` for a stage.\nStages have the verbs corpus build"),
        ('runs: ["${out}"]', 'runs: ["${out}/../other"]', 12, "`..` in a path under ${out}"),
        ("${out}/report.html", "${out}/../report.html", 12, "`..` in a path under ${out}"),
        ('args: {runs: ["${out}"], out: "${out}/report.html"}', "args: [1]", 12, "mappings of options"),
        ("    minutes: 2", "    minutes: 2\n    minutes: 3", 10, "stands twice"),
        ("minutes: 2", "minutes: [2", 10, "not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, told: str) -> None:
    assert old in RECIPE
    with pytest.raises(ConfigError) as caught:
        read(write(tmp_path, RECIPE.replace(old, new)), "o")
    assert f"mine.yaml (line {line})" in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a mapping with `stages`"),
        ("- a", "must be a mapping with `stages`"),
        ("stages: []", "a list `stages`"),
        ("stages: [a]", "a stage must be a mapping"),
        ("vars: {out: x}\nstages: [{name: a, verb: doctor}]", "others than out, recipe, demo"),
        ("vars: [x]\nstages: [{name: a, verb: doctor}]", "mapping of names"),
    ],
)
def test_a_recipe_without_sense_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(write(tmp_path, text), "o")
    assert told in str(caught.value)


def test_unknown_recipe_and_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean demo"):
        read("demmo", "o")
    with pytest.raises(ConfigError, match="It has: data, deep"):
        read(write(tmp_path, RECIPE), "o", variables=["dta=x"])


def test_variables_may_name_later_ones_but_not_each_other(tmp_path: Path) -> None:
    swapped = RECIPE.replace('{data: raw, deep: "${data}/xml"}', '{deep: "${data}/xml", data: raw}')
    assert read(write(tmp_path, swapped), "o").stages == read(write(tmp_path, RECIPE), "o").stages
    circle = RECIPE.replace("{data: raw,", '{data: "${deep}",')
    with pytest.raises(ConfigError, match=r"mine.yaml \(line 2\): .* in a circle: data → deep → data"):
        read(write(tmp_path, circle), "o")
    assert read(write(tmp_path, circle), "o", variables=["data=x"]).needs[0].path == "x", "a value ends it"


def test_a_variable_without_a_value_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`--var data` gives no value.\nWrite --var data=VALUE."):
        read(write(tmp_path, RECIPE), "o", variables=["data"])


@pytest.mark.parametrize(("file", "out"), [("odd\nname.yaml", "o"), ("mine.yaml", "o\n#SBATCH --qos=high")])
def test_a_name_with_a_line_end_is_refused(tmp_path: Path, file: str, out: str) -> None:
    (tmp_path / file).write_text(RECIPE)
    with pytest.raises(ConfigError, match="a line end") as caught:
        read(str(tmp_path / file), out)
    assert len(str(caught.value).splitlines()) == 2


def test_binary_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read(str(tmp_path / "x.yaml"), "o")


@dataclasses.dataclass(frozen=True)
class Inner:
    """Nested options.

    Args:
        rate: A number.
    """

    rate: float = 0.0


@dataclasses.dataclass(frozen=True)
class Options:
    """Every kind of option that a stage can have.

    Args:
        words: A list.
        text: A text.
        number: A number.
        on: A switch.
        maybe: None, or a text.
        inner: Nested.
    """

    words: list[str] = dataclasses.field(default_factory=list)
    text: str = ""
    number: int = 0
    on: bool = True
    maybe: str | None = "x"
    inner: Inner = dataclasses.field(default_factory=Inner)


letters = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
named = st.from_regex(r"[a-z/][a-zA-Z_./ \[-]{1,12}", fullmatch=True).filter(
    lambda word: word not in ("null", "true", "false")
)


@given(
    words=st.lists(letters, max_size=4), text=named, number=st.integers(-9, 9), on=st.booleans(), rate=st.floats(-1, 1)
)
def test_options_arrive_as_they_stand_in_the_recipe(
    words: list[str], text: str, number: int, on: bool, rate: float
) -> None:
    args = {"words": words, "text": text, "number": number, "on": on, "maybe": None, "inner": {"rate": rate}}
    stage = Stage("s", "doctor", args, Place(Path("mine.yaml"), 1))
    parsed = configuration.parse(Options, stage.words[1:], prog="test", as_it_was=True)  # of any number
    assert parsed == Options(words, text, number, on, None, Inner(rate))


def accepted(recipe: Recipe) -> None:
    """Every stage's options are its verb's own."""
    for stage in recipe.stages:
        verb = VERBS[stage.verb]
        words = stage.words[len(stage.verb.split()) :]
        parsed = configuration.parse(verb.config, words, prog=stage.verb, positionals=verb.positionals)
        assert isinstance(parsed, verb.config)
        assert stage.outputs, f"{stage.name} names nothing under the output folder"


def test_the_documented_recipe_works(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    example = text.partition("```yaml\n")[2].partition("```")[0]
    for scale in ("full", "smoke"):
        recipe = read(write(tmp_path, example), "o", scale)
        accepted(recipe)
        assert recipe.stages[1].reads == ("corpus",)


@pytest.mark.parametrize("scale", ["full", "smoke"])
@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_give_their_verbs_options_that_they_have(name: str, scale: str) -> None:
    recipe: Recipe = read(name, "runs/x", scale)
    assert recipe.name == name
    assert recipe.description
    accepted(recipe)


def test_nested_lists_and_maps_are_what_they_are_in_a_configuration_file(tmp_path: Path) -> None:
    """The same options as a stage's `args` and as a file for `--config` give one configuration."""
    args = """\
shards: S
out: O
curriculum: [{share: 0.5, max_length: 64}, {steps: 10, tokens: 4096}]
mix: {by: source, weights: {pubmed: 1, notes: 2.5}}
optim: {betas: [0.9, 0.95], schedule: wsd, decay: 0.2}
mlm: {pos: [NOUN, VERB]}
"""
    (tmp_path / "config.yaml").write_text(args)
    indented = "".join(f"      {line}\n" for line in args.splitlines())
    recipe = read(write(tmp_path, f"stages:\n  - name: model\n    verb: pretrain\n    args:\n{indented}"), "o")
    verb = VERBS["pretrain"]
    direct = configuration.parse(verb.config, ["--config", str(tmp_path / "config.yaml")], prog="biomlm pretrain")
    assert configuration.parse(verb.config, recipe.stages[0].words[1:], prog="biomlm pretrain") == direct
    assert direct.curriculum[0].max_length == 64


def test_the_records_that_come_with_biomlm_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a clone they are named as it names them, so that a demo of earlier releases goes on."""
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    assert [need.path for need in read("demo", "o").needs] == ["demo/data/pubmed", "demo/data/pmc", "demo/data/notes"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo/data").mkdir(parents=True)
    (tmp_path / "demo/data/README.md").write_text("of another project")
    for need in read("demo", "").needs:
        assert (Path(need.path).resolve()).parent == (root / "demo/data").resolve()
    assert read("demo", "").out == Path("runs/demo")
    assert read("demo", "", "smoke").out == Path("runs/demo-smoke")


def test_runs_that_are_given_with_a_name_are_read(tmp_path: Path) -> None:
    """`finetune blurb DATA=RUN`: on a cluster its job must wait for the run's, and it is run again when the scores change."""
    text = """\
stages:
  - {name: gad, verb: finetune, args: {model: M, task: relation, negative: "0", data: D, out: "${out}/gad"}}
  - {name: blurb, verb: finetune blurb, args: {runs: ["GAD=${out}/gad"], out: "${out}/blurb.json"}}
"""
    (tmp_path / "r.yaml").write_text(text)
    blurb = read(str(tmp_path / "r.yaml"), str(tmp_path / "out")).stages[1]
    assert blurb.reads == ("gad",)
    before = stage_key(blurb)
    (tmp_path / "out" / "gad").mkdir(parents=True)
    (tmp_path / "out" / "gad" / "scores.json").write_text("{}")
    assert stage_key(blurb) != before


DOUBLED = "".join(f"  v{i}: '${{v{i - 1}}}${{v{i - 1}}}'\n" for i in range(1, 64))
LISTED = "".join(f"  v{i}: ['${{v{i - 1}}}', '${{v{i - 1}}}']\n" for i in range(1, 64))


@pytest.mark.parametrize("variables", ["  v0: ab\n" + DOUBLED, "  v0: [a, b]\n" + LISTED], ids=["texts", "lists"])
def test_variables_that_double_are_refused(variables: str, tmp_path: Path) -> None:
    text = f"vars:\n{variables}stages:\n  - {{name: a, verb: doctor, args: {{}}}}\n"
    with pytest.raises(ConfigError, match="over 1,000,000 characters") as caught:
        read(write(tmp_path, text), str(tmp_path / "out"))
    assert "line" in str(caught.value)


def test_a_deep_value_of_a_variable_is_refused(tmp_path: Path) -> None:
    text = "vars: {many: [a]}\nstages:\n  - {name: a, verb: doctor, args: {}}\n"
    with pytest.raises(ConfigError):
        read(write(tmp_path, text), str(tmp_path / "out"), variables=["many=" + "[" * 5000 + "]" * 5000])
