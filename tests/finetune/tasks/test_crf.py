"""The CRF against brute force over all rows of labels; and a run that learns its transitions."""

from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biomlm.convert.load import load_model
from biomlm.core import cli
from biomlm.core.files import read_json
from biomlm.finetune.tasks.crf import Chains, conditionals, max_marginals, negative_log_likelihood

LABELS = 3


def chains(lengths: Sequence[int]) -> Chains:
    """Of windows with so many words, and one without behind them."""
    owner_m = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return Chains.of(owner_m, len(lengths) + 1, max(lengths))


def score(logits_nk: torch.Tensor, transitions_kk: torch.Tensor, row: tuple[int, ...]) -> float:
    return float(
        sum(logits_nk[i, label] for i, label in enumerate(row)) + sum(transitions_kk[a, b] for a, b in pairwise(row))
    )


def drawn(lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    logits_mk = torch.randn(sum(lengths), LABELS, generator=made, dtype=torch.float64)
    return logits_mk, torch.randn(LABELS, LABELS, generator=made, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 1000))
def test_probabilities_and_best_rows_equal_brute_force(lengths: list[int], seed: int) -> None:
    logits_mk, transitions_kk = drawn(lengths, seed)
    logs_mkk, marginals_mk = (f(logits_mk, transitions_kk, chains(lengths)) for f in (conditionals, max_marginals))
    windows = zip(*(x.split(lengths) for x in (logits_mk, logs_mkk, marginals_mk)), strict=True)
    for logits_nk, logs_nkk, marginals_nk in windows:
        rows = list(product(range(LABELS), repeat=len(logits_nk)))
        scores = torch.tensor([score(logits_nk, transitions_kk, row) for row in rows], dtype=torch.float64)
        expected = scores - scores.logsumexp(0)
        found = torch.stack([-negative_log_likelihood(logs_nkk, torch.tensor(row)) for row in rows])
        assert torch.allclose(found, expected, atol=1e-10)
        assert tuple(marginals_nk.argmax(-1).tolist()) == rows[int(scores.argmax())]
        assert torch.allclose(marginals_nk.amax(-1), scores.max(), atol=1e-10)


def test_the_loss_of_a_batch_is_the_sum_of_its_windows_whatever_stands_before() -> None:
    logits_mk, transitions_kk = drawn([3, 4], 1)
    labels_m = torch.tensor([0, 1, 2, 2, 1, 0, 0])
    whole = negative_log_likelihood(conditionals(logits_mk, transitions_kk, chains([3, 4])), labels_m)
    parts = [
        negative_log_likelihood(conditionals(logits, transitions_kk, chains([len(logits)])), labels)
        for logits, labels in zip(logits_mk.split([3, 4]), labels_m.split([3, 4]), strict=True)
    ]
    assert float(whole) == pytest.approx(float(sum(parts)))


def test_without_transitions_it_is_cross_entropy_and_argmax() -> None:
    logits_mk, _ = drawn([2, 5, 1], 2)
    labels_m = torch.arange(8) % LABELS
    none_kk = torch.zeros(LABELS, LABELS, dtype=torch.float64)
    loss = negative_log_likelihood(conditionals(logits_mk, none_kk, chains([2, 5, 1])), labels_m)
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(logits_mk, labels_m, reduction="sum"))
    assert torch.equal(max_marginals(logits_mk, none_kk, chains([2, 5, 1])).argmax(-1), logits_mk.argmax(-1))


def test_gradients_are_those_of_finite_differences() -> None:
    logits_mk, transitions_kk = drawn([1, 3, 2], 3)
    labels_m = torch.tensor([0, 1, 2, 0, 1, 1])
    inputs = (logits_mk.requires_grad_(), transitions_kk.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda a, b: negative_log_likelihood(conditionals(a, b, chains([1, 3, 2])), labels_m), inputs
    )


def test_a_run_learns_transitions_and_predict_decodes_with_them(tiny_model: Path, toy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = ["--model", str(tiny_model), "--task", "ner", "--data", str(toy), "--out", str(run), "--crf"]
    more = ["--optim.lr", "3e-3", "--batch.size", "8", "--epochs", "6", "--precision", "fp32"]
    assert cli.run(["finetune", *argv, *more]) == 0
    scores: dict[str, Any] = read_json(run / "scores.json")
    assert scores["test"]["f1"] > 0.9
    learnt = load_model(run).extra_tensors["classification_heads.transitions"]
    assert learnt[1, 2] > learnt[0, 2]  # I-Drug stands behind B-Drug, not behind O
    said = [orjson.loads(line) for line in (run / "seed_1/predictions.jsonl").read_bytes().splitlines()]
    words = [line.split("\t")[0] for line in (toy / "test.tsv").read_text().splitlines()]
    texts = " ".join(word or "\n" for word in words).replace(" \n ", "\n")
    (tmp_path / "in.txt").write_text(texts)
    predict = ["finetune", "predict", str(run), str(tmp_path / "in.txt"), "--precision", "fp32"]
    assert cli.run([*predict, "--out", str(tmp_path / "out.jsonl")]) == 0
    predicted = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [line["entities"] for line in predicted] == [line["entities"] for line in said]
