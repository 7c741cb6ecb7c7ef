"""Every loss against an independent computation: its formula in plain torch, autograd, scipy-free counting, or Hugging Face's attention."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from biomlm.distill.losses.predictions import Weighting, prediction_losses
from biomlm.distill.losses.targets import Sampled, Top, Whole, sample, top

M, V = 7, 50


def logits(seed: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(M, V, generator=torch.Generator().manual_seed(seed))


def labels() -> Tensor:
    return torch.randint(0, V, (M,), generator=torch.Generator().manual_seed(9))


def kl_by_hand(student_mv: Tensor, teacher_mv: Tensor, temperature: float) -> Tensor:
    p, q = F.softmax(teacher_mv / temperature, -1), F.softmax(student_mv / temperature, -1)
    return temperature**2 * (p * (p / q).log()).sum()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_soft_cross_entropy_and_mlm_with_their_gradients(temperature: float) -> None:
    student = logits(0).requires_grad_()
    weights = Weighting(kl=3.0, mlm=0.7, temperature=temperature)
    total, kl, mlm, right = prediction_losses(student, labels(), Whole((logits(1),), temperature), weights)
    (gradient,) = torch.autograd.grad(2 * total, student)
    expected_kl = kl_by_hand(student, logits(1), temperature)
    expected_mlm = F.cross_entropy(student, labels(), reduction="sum")
    (expected_gradient,) = torch.autograd.grad(2 * (3.0 * expected_kl + 0.7 * expected_mlm), student)
    torch.testing.assert_close(kl, expected_kl)
    torch.testing.assert_close(mlm, expected_mlm)
    torch.testing.assert_close(total, 3.0 * expected_kl + 0.7 * expected_mlm)
    torch.testing.assert_close(gradient, expected_gradient)
    assert right == (student.argmax(-1) == labels()).sum()


def test_many_rows_are_worked_on_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = Weighting(kl=1.0, mlm=1.0, temperature=2.0)
    whole = prediction_losses(logits(0), labels(), Whole((logits(1),), 2.0), weights)
    monkeypatch.setattr("biomlm.distill.losses.predictions.BLOCK", 3 * V)
    blocks = prediction_losses(logits(0), labels(), Whole((logits(1),), 2.0), weights)
    for a, b in zip(whole, blocks, strict=True):
        torch.testing.assert_close(a, b)


def test_equal_predictions_leave_nothing_to_learn() -> None:
    _, kl, *_ = prediction_losses(logits(1), labels(), Whole((logits(1),), 2.0), Weighting(1.0, 0.0, 2.0))
    assert kl.abs() < 1e-5


def test_without_a_teacher_only_the_masked_lm_loss_is_left() -> None:
    total, kl, mlm, _ = prediction_losses(logits(0), labels(), None, Weighting(5.0, 2.0, 1.0))
    assert kl == 0
    torch.testing.assert_close(total, 2 * mlm)


def test_several_teachers_are_averaged_as_probabilities() -> None:
    ours, one, two = logits(0), logits(1), logits(2)
    mean = (F.softmax(one / 2, -1) + F.softmax(two / 2, -1)) / 2
    _, kl, *_ = prediction_losses(ours, labels(), Whole((one, two), 2.0), Weighting(1.0, 0.0, 2.0))
    torch.testing.assert_close(kl, 4 * (mean * (mean.log() - F.log_softmax(ours / 2, -1))).sum())


@pytest.mark.parametrize("k", [1, 5, V - 1])
def test_top_k_with_the_rest_as_one_class(k: int) -> None:
    student = logits(0).requires_grad_()
    log_p = F.log_softmax(logits(1) / 2, -1)
    _, kl, *_ = result = prediction_losses(student, labels(), top(log_p, k), Weighting(1.0, 0.0, 2.0))
    (gradient,) = torch.autograd.grad(result[0], student)
    q, p = F.softmax(student / 2, -1), log_p.exp()
    keep = torch.zeros(M, V, dtype=torch.bool).scatter_(1, p.topk(k).indices, True)
    p_rest, q_rest = (x.masked_fill(keep, 0).sum(1) for x in (p, q))
    inside = (p * (p.log() - q.log()))[keep].sum()
    expected = 4 * (inside + (p_rest * (p_rest / q_rest).log()).sum())
    torch.testing.assert_close(kl, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, student)[0], rtol=1e-4, atol=1e-4)


def test_all_entries_are_the_whole_distribution_and_fewer_never_say_more() -> None:
    log_p, weights = F.log_softmax(logits(1) / 2, -1), Weighting(1.0, 0.0, 2.0)
    values = [float(prediction_losses(logits(0), labels(), top(log_p, k), weights)[1]) for k in (1, 4, 16, V)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(float(kl_by_hand(logits(0), logits(1), 2.0)), rel=1e-5)


@pytest.mark.parametrize("k", [1, 8])
def test_random_samples_are_right_on_average(k: int) -> None:
    """Over 4,000 draws loss and gradient come within five standard errors of the whole distribution's; top-k scaled up does not."""
    student, log_p, draws = logits(0), F.log_softmax(logits(1), -1), 4000
    p, log_q = log_p.exp(), F.log_softmax(student, -1)
    random = np.random.default_rng(0)
    drawn = sample(log_p.repeat(draws, 1), k, torch.from_numpy(random.random((draws * M, k))))
    values = torch.stack(
        [drawn.divergence(slice(i, i + M), log_q.clone())[0] for i in range(0, draws * M, M)]
    )  # one for each set of draws
    exact = float(kl_by_hand(student, logits(1), 1.0))
    assert abs(float(values.mean()) - exact) < 5 * float(values.std()) / math.sqrt(draws)
    _, slope = drawn.divergence(slice(None), log_q.repeat(draws, 1))
    error = (slope.view(draws, M, V).mean(0) - (log_q.exp() - p)).abs()
    allowed = 5 * (p * (1 - p) / (k * draws)).sqrt() + 5 / (
        k * draws
    )  # the second where a piece is drawn a few times in all
    assert (error < allowed).all()
    kept = top(log_p, k)
    naive = Sampled(kept.ids_mk, F.softmax(kept.log_p_mk, -1), torch.zeros(M))
    _, slope = naive.divergence(slice(None), log_q.clone())
    assert not ((slope - (log_q.exp() - p)).abs() < allowed).all()


@settings(max_examples=30, deadline=None)
@given(k=st.integers(1, 60), seed=st.integers(0, 1000))
def test_samples_are_distinct_and_their_shares_add_up(k: int, seed: int) -> None:
    log_p = F.log_softmax(logits(seed, 4.0), -1)
    drawn = sample(log_p, k, torch.rand(M, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    torch.testing.assert_close(drawn.shares_mk.sum(1), torch.ones(M))
    for ids, shares in zip(drawn.ids_mk, drawn.shares_mk, strict=True):
        seen = ids[shares > 0].tolist()
        assert len(set(seen)) == len(seen)
    torch.testing.assert_close(drawn.entropy_m, torch.distributions.Categorical(logits=log_p).entropy())


def test_a_certain_teacher_is_sampled_as_certain() -> None:
    log_p = F.log_softmax(torch.tensor([[0.0, 200.0, 0.0]]), -1)
    drawn = sample(log_p, 4, torch.tensor([[0.0, 0.5, 0.99, 1 - 1e-16]], dtype=torch.float64))
    assert drawn.ids_mk[0, 0] == 1
    assert drawn.shares_mk[0, 0] == 1


def test_half_precision_gradients_keep_float32_where_fp16_would_lose_them() -> None:
    student = logits(0).half().requires_grad_()
    total, *_ = prediction_losses(student, labels(), None, Weighting(0.0, 1e-6, 1.0))
    (total * 1e6).backward()
    assert student.grad is not None
    expected = F.softmax(student.detach().float(), -1) - F.one_hot(labels(), V)
    torch.testing.assert_close(student.grad.float(), expected, rtol=2e-3, atol=1e-3)


def test_the_largest_entries_and_what_remains() -> None:
    found = top(torch.log(torch.tensor([[0.1, 0.6, 0.3]])), 2)
    assert isinstance(found, Top)
    assert found.ids_mk.tolist() == [[1, 2]]
    torch.testing.assert_close(found.log_rest_m.exp(), torch.tensor([0.1]))


def test_of_equal_scores_the_first_one_is_the_prediction() -> None:
    scores = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]], dtype=torch.bfloat16)
    for labels, expected in (([0, 1, 0], 3), ([1, 2, 2], 0), ([0, 2, 2], 1)):
        found = prediction_losses(scores, torch.tensor(labels), None, Weighting(0.0, 1.0, 1.0))[3]
        assert found == expected
