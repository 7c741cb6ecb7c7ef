"""Recipes that extend recipes: what is laid over what, in which order stages stand, what is refused and on which line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from biomlm.core import cli
from biomlm.core.errors import ConfigError
from biomlm.launch import resolve as resolving
from biomlm.launch.recipe import read
from biomlm.launch.resolve import SHIPPED, catalogue, resolve, shipped

PARENT = """\
description: the parent
vars: {data: raw, steps: 100, rate: 0.5, all: true, sources: [pubmed]}
inputs: ["${data}"]
stages:
  - name: corpus
    verb: corpus build
    args: {pubmed: ["${data}"], out: "${out}/corpus", select: {max_words: 3000}}
  - name: tokenizer
    verb: tokenizer train
    args: {docs: "${out}/corpus", vocab_size: 500, out: "${out}/tokenizer"}
    smoke: {vocab_size: 300}
  - name: shards
    verb: tokenizer encode
    args: {docs: "${out}/corpus", tokenizer: "${out}/tokenizer", out: "${out}/shards"}
  - name: model
    verb: pretrain
    args:
      shards: ${out}/shards
      out: ${out}/model
      steps: ${steps}
      optim: {lr: 1.0e-3, warmup: 0.1} # theirs
smoke:
  vars: {data: few}
  stages:
    - {name: model, args: {steps: 2}}
"""
CHILD = """\
extends: parent.yaml
description: the child
vars: {steps: 200}
stages:
  - {name: model, args: {optim: {warmup: 0.2}}}
"""


def folder(tmp_path: Path, **files: str) -> Path:
    for name, text in {"parent": PARENT, "child": CHILD, **files}.items():
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def args(recipe: Path, stage: str, scale: str = "full", **more: Any) -> dict[str, Any]:
    return next(each for each in read(str(recipe), "o", scale, **more).stages if each.name == stage).args


def names(recipe: Path, scale: str = "full") -> list[str]:
    return [stage.name for stage in read(str(recipe), "o", scale).stages]


def test_a_child_differs_by_what_it_says(tmp_path: Path) -> None:
    place = folder(tmp_path)
    parent, child = read(str(place / "parent.yaml"), "o"), read(str(place / "child.yaml"), "o")
    assert (child.name, child.description) == ("child", "the child")
    assert child.stages[:3] == parent.stages[:3]
    expected = yaml.safe_load(PARENT)["stages"][3]["args"]
    expected |= {"shards": "o/shards", "out": "o/model", "steps": 200, "optim": {"lr": 1e-3, "warmup": 0.2}}
    assert child.stages[3].args == expected
    assert list(child.stages[3].args) == list(expected), "options keep their order, of which the command is made"


def test_smoke_of_parents_lies_over_what_a_child_says(tmp_path: Path) -> None:
    place = folder(tmp_path, grandchild="extends: child.yaml\nsmoke: {stages: [{name: model, args: {seed: 7}}]}\n")
    assert args(place / "child.yaml", "model", "smoke")["steps"] == 2
    assert args(place / "child.yaml", "tokenizer", "smoke")["vocab_size"] == 300
    assert args(place / "child.yaml", "corpus", "smoke")["pubmed"] == ["few"]
    last = args(place / "grandchild.yaml", "model", "smoke")
    assert (last["seed"], last["steps"], last["optim"]["warmup"]) == (7, 2, 0.2)
    assert "seed" not in args(place / "grandchild.yaml", "model")


def test_stages_are_removed_added_and_replaced_by_name(tmp_path: Path) -> None:
    text = """\
extends: parent.yaml
remove: [tokenizer]
stages:
  - {name: shards, verb: tokenizer encode, args: {docs: "${out}/corpus", tokenizer: elsewhere, out: "${out}/shards"}}
  - {name: facts, verb: corpus stats, before: shards, args: {docs: "${out}/corpus"}}
  - {name: page, verb: report, args: {runs: ["${out}"], out: "${out}/page.html"}}
  - {name: middle, verb: corpus stats, after: corpus, args: {docs: "${out}/corpus"}}
"""
    place = folder(tmp_path, mine=text)
    assert names(place / "mine.yaml") == ["corpus", "middle", "facts", "shards", "model", "page"]
    assert args(place / "mine.yaml", "shards")["tokenizer"] == "elsewhere"
    assert names(place / "mine.yaml", "smoke") == names(place / "mine.yaml"), "a parent's smoke of it is left out"


def test_a_replaced_stage_has_nothing_of_the_parents(tmp_path: Path) -> None:
    args_text = "{docs: '${out}/corpus', out: '${out}/tokenizer'}"
    text = f"extends: parent.yaml\nstages: [{{name: tokenizer, verb: tokenizer train, args: {args_text}}}]"
    place = folder(tmp_path, mine=text)
    for scale in ("full", "smoke"):
        assert args(place / "mine.yaml", "tokenizer", scale) == {"docs": "o/corpus", "out": "o/tokenizer"}


def test_a_shipped_configuration_lies_under_a_stages_options(tmp_path: Path) -> None:
    text = "extends: parent.yaml\nstages: [{name: model, config: bio-lm-base, args: {steps: 7}}]"
    place = folder(tmp_path, mine=text, own=text.replace("bio-lm-base", "few.yaml"), few="seed: 3\nsteps: 9\n")
    found = args(place / "mine.yaml", "model")
    with (Path(resolving.__file__).parents[1] / "pretrain" / "configs" / "bio-lm-base.yaml").open() as file:
        shipped_values = yaml.safe_load(file)
    assert found["batch"] == shipped_values["batch"]
    assert found["optim"] == shipped_values["optim"] | {"lr": 1e-3, "warmup": 0.1}
    assert found["steps"] == 7
    assert (args(place / "own.yaml", "model")["seed"], args(place / "own.yaml", "model")["steps"]) == (3, 7)
    assert args(place / "own.yaml", "model", "smoke")["steps"] == 2


def test_variables_keep_their_kind(tmp_path: Path) -> None:
    text = "extends: parent.yaml\nstages: [{name: model, args: {optim: {lr: '${rate}'}, seed: '${steps}', shards: '${sources}'}}]"
    place = folder(tmp_path, mine=text)
    given = ["rate=1e-4", "steps=5", "sources=[a, b]"]
    found = args(place / "mine.yaml", "model", variables=given)
    assert (found["optim"]["lr"], found["seed"], found["shards"]) == (1e-4, 5, ["a", "b"])
    assert args(place / "mine.yaml", "model", variables=["sources=notes"])["shards"] == ["notes"]


@pytest.mark.parametrize(
    ("text", "file", "line", "told"),
    [
        ("description: x\nextends: parant.yaml", "mine", 2, "no recipe `parant.yaml` to extend"),
        ("extends: demmo", "mine", 1, "Did you mean demo?"),
        ("extends: mine.yaml", "mine", 1, "in a circle: mine → mine"),
        ("extends: [parent.yaml]", "mine", 1, "one word"),
        ("extends: parent.yaml\nremove: [tokeniser]", "mine", 2, "Did you mean tokenizer?"),
        ("extends: parent.yaml\n\nremove: [tokenizer]", "parent", 14, "which stage tokenizer made, and "),
        ("extends: parent.yaml\nremove: tokenizer", "mine", 2, "this must be a list"),
        ("extends: parent.yaml\nstages: [{name: modle, args: {}}]", "mine", 2, "it has no verb, and no parent"),
        ("extends: parent.yaml\nstages:\n- {name: a, verb: report, before: zz}", "mine", 3, "no other stage `zz`"),
        ("extends: parent.yaml\nstages:\n- {name: model, before: corpus, after: corpus}", "mine", 3, "or `after` one"),
        ("extends: parent.yaml\nstages:\n- {name: model, before: shards}", "parent", 18, "which no stage before it makes"),
        ("extends: parent.yaml\nstages:\n- {name: model}\n- {name: model}", "mine", 4, "no other stage has"),
        ("extends: parent.yaml\nstages:\n- name: model\n  args: {seed: 1, seed: 2}", "mine", 4, "`stages.args.seed` stands twice"),
        ("extends: parent.yaml\nvars: {steps: many}", "mine", 2, "variable steps must be a whole number, and not text"),
        ("extends: parent.yaml\nvars: {steps: null}", "mine", 2, "a variable must be text"),
        ("extends: parent.yaml\nvars: {steps: {wat: 1}}", "mine", 2, "must be a whole number, and not text"),
        ("extends: parent.yaml\nvars: {new: {wat: 1}}", "mine", 2, "no key `wat`"),
        ("extends: parent.yaml\ninputs: [{what: records}]", "mine", 2, "needs its `path`"),
        ("extends: parent.yaml\nsmoke: {stages: [{name: model, agrs: {}}]}", "mine", 2, "Did you mean args?"),
        ("extends: parent.yaml\nstages:\n- {name: model, expect: [x]}", "mine", 3, "`expect` must be a mapping"),
        ("extends: parent.yaml\nstages:\n- {name: model, config: none.yaml}", "mine", 3, "there is no file"),
        ("extends: parent.yaml\nsmoke: {description: x}", "mine", 2, "no key `description` in `smoke`"),
        ("extends: parent.yaml\nstages:\n- {name: model, config: bio-lm-bas}", "mine", 3, "Did you mean bio-lm-base?"),
        ("extends: parent.yaml\nstages:\n- {name: model, args: {seed: 'a${sources}'}}", "mine", 3, "is a list"),
        ("a: &a [*a]", "mine", 1, "holds itself"),
        ("extends: parent.yaml\nremove: [shards]\nstages:\n- {name: shards, args: {}}", "mine", 4, "stage shards is changed here"),
        ("extends: parent.yaml\nstages:\n- {name: model, args: {out: '${out'}}", "mine", 3, "a variable is not closed"),
        ("extends: parent.yaml\nstages:\n- {name: model, args: {out: '${out}/shards'}}", "mine", 3, "has the `out` of stage shards"),
        ("extends: parent.yaml\nremove: [shards, shards]", "mine", 2, "removed twice"),
        ("extends: parent.yaml\nstages:\n- {name: model, args: {optim.lr: 1, optim: {lr: 2}}}", "mine", 3, "args.optim.lr` stands twice"),
        ("extends: parent.yaml\nstages:\n- {name: model, args: {print_config: true}}", "mine", 3, "no option of a stage"),
        ("extends: parent.yaml\nstages:\n- <<: 3", "mine", 3, "not valid YAML"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_file_and_line(tmp_path: Path, text: str, file: str, line: int, told: str) -> None:
    place = folder(tmp_path, mine=text)
    with pytest.raises(ConfigError) as caught:
        read(str(place / "mine.yaml"), "o")
    assert f"{file}.yaml (line {line}): " in str(caught.value)
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("word", ["steps=many", "steps=1.5", "steps=true", "rate=fast", "all=perhaps", "steps=[1]"])
def test_a_variable_of_the_wrong_kind_is_refused(tmp_path: Path, word: str) -> None:
    with pytest.raises(ConfigError, match=rf"parent.yaml \(line 2\): `--var {word.partition('=')[0]}="):
        read(str(folder(tmp_path) / "parent.yaml"), "o", variables=[word])


def test_a_variable_is_given_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--var gives steps twice"):
        read(str(folder(tmp_path) / "parent.yaml"), "o", variables=["steps=1", "steps=2"])


def test_a_circle_of_three_is_named(tmp_path: Path) -> None:
    place = folder(tmp_path, a="extends: b.yaml", b="extends: c.yaml", c="extends: a.yaml")
    with pytest.raises(ConfigError, match="a → b → c → a"):
        resolve(place / "a.yaml", "full")


def test_what_is_missing_is_named_with_its_origin_and_licence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "extends: parent.yaml\nvars:\n  init: {what: BioBERT v1.0, from: github.com/naver/biobert-pretrained, licence: Apache-2.0}\n"
        "inputs: []\nstages: [{name: model, args: {init: '${init}'}}]"
    )
    mine = str(folder(tmp_path, mine=text) / "mine.yaml")
    assert cli.run(["launch", mine, "--out", str(tmp_path / "o")]) == 2
    told = capsys.readouterr().err
    assert "mine.yaml (line 3): recipe mine needs BioBERT v1.0, and it is not there.\n" in told
    assert "Get it from github.com/naver/biobert-pretrained (licence: Apache-2.0), then say" in told
    assert "--var init=PATH" in told
    assert len(told.splitlines()) == 2
    assert not (tmp_path / "o").exists()
    assert cli.run(["launch", mine, "--out", str(tmp_path / "o"), "--var", f"init={tmp_path}/none"]) == 2
    assert f"{tmp_path}/none: recipe mine needs BioBERT v1.0" in capsys.readouterr().err
    assert "'<init>'" in " ".join(read(mine, "o").stages[3].words) or "<init>" in read(mine, "o").stages[3].words
    assert cli.run(["launch", mine, "--dry_run"]) == 0, "commands can be read without it"


def test_shipped_recipes_are_listed_by_system(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["launch", "--list"]) == 0
    told = capsys.readouterr().out
    listed = [name for recipes in catalogue().values() for name in recipes]
    assert sorted(listed) == sorted(shipped())
    assert all(name in told for name in listed)
    assert not any(Path(name).name.startswith("_") for name in listed)
    assert {path for path in SHIPPED.rglob("*.yaml") if not path.name.startswith("_")} == set(shipped().values())
    assert cli.run(["launch", "demo", "--list"]) == 2
    assert cli.run(["launch"]) == 2
