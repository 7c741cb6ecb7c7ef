"""Expectations: real runs meet what is true of them, and each thing that is otherwise is named with stage, key, expected and got."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biomlm.core import cli
from biomlm.core.errors import ConfigError, MismatchError, UserError
from biomlm.launch.commands import plan
from biomlm.launch.expectations import facts
from biomlm.launch.expectations.check import check, differences
from biomlm.launch.recipe import Stage, read
from biomlm.launch.sourced import load

SIZES = "--batch.tokens 512 --batch.max_length 64 --precision fp32 --steps 6 --log_every 2 --eval_every 5 --eval_tokens 200 --seed 1"
SHAPE = "--model.num_hidden_layers 1 --model.hidden_size 16 --model.num_attention_heads 2"


@pytest.fixture(scope="module")
def runs(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("expected")
    base = ["pretrain", "--shards", str(tiny_shards), *f"{SIZES} {SHAPE}".split()]
    kinds = {
        "plain": "",
        "pairs": "--model.shape bert --batch.form pairs --objective.sop 0.5 --mlm.unit word --mlm.mask_rate 0.3 --mlm.mask_share 1 "
        "--mlm.random_share 0",
    }
    for name, words in kinds.items():
        assert cli.run([*base, *words.split(), "--out", str(out / name)]) == 0
    return out


@pytest.fixture
def counted_once(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are made again once for each run: it takes a process."""
    monkeypatch.setitem(facts.FACTS, "batches", counts)  # type: ignore[arg-type]


@functools.cache
def counts(run: Path) -> dict[str, Any]:
    return facts.batches(run)


def stage(tmp_path: Path, folder: Path, expect: str) -> Stage:
    """A stage at smoke scale that has made a folder, and what is expected of it."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"stages:\n- name: model\n  verb: pretrain\n  args: {{shards: s, out: '${{out}}/{folder.name}'}}\n  expect:\n    {expect}\n"
    )
    return read(str(recipe), str(folder.parent), "smoke").stages[0]


@pytest.mark.usefixtures("counted_once")
@pytest.mark.parametrize(
    ("run", "expect"),
    [
        ("plain", "objective: {mlm: 1, sop: absent}"),
        ("pairs", "objective: {mlm: 1, sop: 0.5}"),
        ("plain", "batches: {masks: {rate: 0.15, mask: 0.8, random: 0.1, kept: 0.1, special: 0}, pairs: [], token_types: 1}"),
        ("pairs", "batches: {masks: {rate: [0.25, 0.35], mask: 1, random: 0, kept: 0, whole_words: 1}, pairs: [0.5, 0.5]}"),
        ("pairs", "batches: {token_types: 2, longest: [32, 64]}"),
        ("plain", "encoder: {shape: roberta, hidden_size: 16}"),
        ("pairs", "tensors: {seq_relationship.weight: [2, 16], pooler.dense.bias: present}"),
        ("plain", "tensors: {seq_relationship.weight: absent}"),
        ("plain", "inputs: {shards: present, init: absent}"),
        ("plain", "settings: {optim: {lr: 5.0e-4}}"),
        ("plain", "tokenizer: {ids: {<s>: 0, <pad>: 1}}"),
    ],
)  # fmt: skip
def test_what_is_true_of_a_run_is_found(runs: Path, tmp_path: Path, run: str, expect: str) -> None:
    if expect.startswith("settings"):
        lr = json.loads((runs / run / "manifest.json").read_text())["config"]["optim"]["lr"]
        expect = expect.replace("5.0e-4", repr(lr))
    check(stage(tmp_path, runs / run, expect))


@pytest.mark.usefixtures("counted_once")
@pytest.mark.parametrize(
    ("run", "expect", "told"),
    [
        ("plain", "objective: {mlm: 1, sop: 1}", "expected objective.sop 1, got nothing"),
        ("pairs", "objective: {sop: 1}", "expected objective.sop 1, got 0.5"),
        ("plain", "batches: {masks: {rate: 0.3}}", "expected batches.masks.rate 0.3, got 0.1"),
        ("plain", "batches: {masks: {whole_words: 1}}", "expected batches.masks.whole_words 1, got 0."),
        ("pairs", "batches: {pairs: [1, 0]}", "expected batches.pairs[0] 1, got 0."),
        ("pairs", "batches: {pairs: [0.3, 0.3, 0.4]}", "expected batches.pairs [0.3, 0.3, 0.4]"),
        ("plain", "tensors: {pooler.dense.bias: present}", "expected tensors.pooler.dense.bias present, got nothing"),
        ("pairs", "tensors: {pooler.dense.bias: absent}", "expected tensors.pooler.dense.bias absent, got [16]"),
        ("plain", "encoder: {shape: bert}", "expected encoder.shape bert, got roberta"),
        ("plain", "tokenizer: {ids: {<pad>: 0}}", "expected tokenizer.ids.<pad> 0, got 1"),
    ],
)  # fmt: skip
def test_what_is_otherwise_is_named(runs: Path, tmp_path: Path, run: str, expect: str, told: str) -> None:
    with pytest.raises(MismatchError) as caught:
        check(stage(tmp_path, runs / run, expect))
    assert f"mine.yaml (line 6): stage model: {told}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_a_loss_that_is_not_the_sum_of_its_terms_is_found(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("manifest.json", "metrics.jsonl"):
        (folder / name).write_bytes((runs / "pairs" / name).read_bytes())
    assert facts.objective(folder) == {"mlm": 1.0, "sop": 0.5}
    record = json.loads((folder / "manifest.json").read_text())
    record["config"]["objective"]["sop"] = 0.6
    (folder / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="is not the sum"):
        facts.objective(folder)


def test_batches_of_another_run_are_not_taken_for_its_own(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("manifest.json", "metrics.jsonl", "encoder.json", "config.yaml"):
        (folder / name).write_bytes((runs / "plain" / name).read_bytes())
    assert facts.batches(folder)["own"]
    other = (folder / "config.yaml").read_text().replace("seed: 1", "seed: 2")
    (folder / "config.yaml").write_text(other)
    with pytest.raises(UserError, match="not known to be those"):
        facts.batches(folder)


@pytest.mark.parametrize(
    ("expected", "got", "agrees"),
    [
        ("0.5", {"share": 0.51, "of": 1000}, True),
        ("0.5", {"share": 0.6, "of": 1000}, False),
        ("1", {"share": 0.999, "of": 1000}, False),
        ("0.5", {"share": 0.0, "of": 0}, False),
        ("[0.4, 0.7]", {"share": 0.6, "of": 1000}, True),
        ("[a, b]", ["a", "b"], True),
        ("[a]", ["a", "b"], False),
        ("[1, 3]", 2, True),
        ("[1, 3]", 4, False),
        ("1.0e-12", 1e-12, True),
        ("true", 1, False),
        ("1", True, False),
        ("null", None, True),
        ("present", None, True),
        ("absent", None, False),
        ("{a: {b: 1}}", {"a": 3}, False),
    ],
)
def test_what_agrees(tmp_path: Path, expected: str, got: Any, agrees: bool) -> None:
    (tmp_path / "x.yaml").write_text(f"fact: {expected}")
    value = load(tmp_path / "x.yaml", "").entries["fact"]
    assert (not list(differences("fact", value, got))) == agrees


def test_chance_seldom_moves_a_share_out_of_bounds(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("fact: 0.15")
    value = load(tmp_path / "x.yaml", "").entries["fact"]
    draws = np.random.default_rng(1).binomial(3000, 0.15, 20_000) / 3000
    outside = sum(bool(list(differences("fact", value, {"share": float(share), "of": 3000}))) for share in draws)
    assert outside <= 8  # 20,000 × 6.3e-5 is 1.3


def test_a_child_takes_an_expectation_away(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "stages:\n- {name: a, verb: pretrain, args: {shards: s, out: '${out}/a'}, expect: {objective: {mlm: 1}}}\n"
    )
    (tmp_path / "child.yaml").write_text("extends: mine.yaml\nstages:\n- {name: a, expect: {objective: null}}\n")
    asking, silent = (read(str(tmp_path / f"{name}.yaml"), str(tmp_path), "smoke") for name in ("mine", "child"))
    with pytest.raises(UserError):
        check(asking.stages[0])  # there is no folder to ask
    check(silent.stages[0])


def test_an_unknown_fact_is_refused_before_anything_runs(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "stages:\n- {name: a, verb: pretrain, args: {shards: s, out: '${out}/a'}, expect: {objectiv: 1}}\n"
    )
    for scale in ("full", "smoke"):
        with pytest.raises(
            ConfigError, match=r"line 2\): stage a: there is no fact `objectiv`(.|\n)*Did you mean objective"
        ):
            plan.check(read(str(recipe), "o", scale))
    recipe.write_text("stages:\n- {name: a, verb: doctor, expect: {objective: {}}}\n")
    with pytest.raises(ConfigError, match="has no output"):
        plan.check(read(str(recipe), "o", "smoke"))


def test_facts_of_documents_shards_tokenizers_and_converted_models(
    runs: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    vocabulary = json.loads((tiny_shards / "tokenizer" / "vocab.json").read_text())
    known = facts.tokenizer(tiny_shards)
    assert known["ids"] == vocabulary
    assert (known["model"], known["splits"], known["size"]) == ("BPE", "ByteLevel", len(vocabulary))
    assert not known["lowercase"]
    assert facts.sources(tiny_shards)
    out = tmp_path / "hf"
    assert cli.run(["convert", str(runs / "plain"), str(out), "--to", "hf", "--override"]) == 0
    assert facts.config(out)["model_type"] == "roberta"
    assert facts.tensors(out)["roberta.embeddings.word_embeddings.weight"][0] == facts.config(out)["vocab_size"]
    assert facts.conversion(out)["target_kind"] == "hf"
