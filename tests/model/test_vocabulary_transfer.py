"""Vocabulary transfer: shared rows are copied, others are the stated mixes, and nothing but the vocabulary changes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.packed import pack
from biomlm.model.vocabulary_transfer import (
    Overlap,
    context_vectors,
    focus_weights,
    mean_weights,
    sparsemax,
    transfer,
)

OLD = 6
OVERLAP = Overlap([[0], [1], [4], [2, 5], [3, 3, 4], []], np.array([True, True, True, False, False, False]))


@pytest.fixture
def model() -> MaskedLM:
    torch.manual_seed(0)
    shape = EncoderConfig(
        vocab_size=OLD, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    made = MaskedLM(shape).eval()
    made.head.bias.data.normal_()
    return made


def test_mean(model: MaskedLM) -> None:
    new = transfer(model, mean_weights(OVERLAP, OLD), pad_token_id=1)
    old_rows, rows = model.encoder.word_embeddings.weight, new.encoder.word_embeddings.weight
    assert new.config.vocab_size == 6
    torch.testing.assert_close(rows[2], old_rows[4])
    torch.testing.assert_close(rows[3], (old_rows[2] + old_rows[5]) / 2)
    torch.testing.assert_close(rows[4], (2 * old_rows[3] + old_rows[4]) / 3)
    torch.testing.assert_close(new.head.bias[3], (model.head.bias[2] + model.head.bias[5]) / 2)
    assert rows[5].abs().sum() > 0, "a piece that nothing is known of starts at random, not at zero"
    assert rows[1].abs().sum() == 0, "padding stays zero"


def test_all_else_is_untouched(model: MaskedLM) -> None:
    new = transfer(model, mean_weights(OVERLAP, OLD), pad_token_id=1)
    for name, tensor in model.state_dict().items():
        if name not in ("encoder.word_embeddings.weight", "head.bias"):
            assert torch.equal(new.state_dict()[name], tensor), name


def test_rows_added_to_a_round_number_are_never_predicted_nor_trained(model: MaskedLM) -> None:
    new = transfer(model, mean_weights(OVERLAP, OLD), 1, pad_vocab_to=64)
    assert new.config.vocab_size == 64
    logits = new(pack([[0, 4, 3, 2]]))
    assert (logits.softmax(-1)[:, 6:] == 0).all()
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 4, 3, 2])).backward()
    assert new.head.bias.grad is not None
    assert (new.head.bias.grad[6:] == 0).all()
    assert (new.encoder.word_embeddings.weight.grad[6:] == 0).all()  # type: ignore[index]


def two_topics() -> np.ndarray:
    """Text in which pieces 2 and 3 stand among 10 … 19, piece 4 among 20 … 29, and piece 5 does not occur."""
    rng = np.random.default_rng(0)
    blocks = [np.append(rng.integers(10, 20, 15), rng.choice([2, 3], 3)) for _ in range(150)]
    blocks += [np.append(rng.integers(20, 30, 15), [4, 4, 4]) for _ in range(150)]
    return np.concatenate([rng.permutation(blocks[i]) for i in rng.permutation(len(blocks))])


def test_context_vectors_are_near_for_pieces_in_the_same_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "biomlm.model.vocabulary_transfer.DIMENSIONS", 4
    )  # far fewer than pieces, as in a real vocabulary
    v = torch.nn.functional.normalize(context_vectors(two_topics(), 30), dim=1)
    assert v[2] @ v[3] > v[3] @ v[4] + 0.5
    assert v[5].abs().sum() == 0


def test_focus_mixes_shared_pieces_of_similar_contexts() -> None:
    """Piece 3 is new: it should be made of pieces of its own topic, and 2 is one of them."""
    pieces = [[i] for i in range(30)]
    pieces[3], pieces[5] = [10, 25], [11, 12]
    shared = np.ones(30, dtype=bool)
    shared[[3, 5]] = False
    weights = focus_weights(Overlap(pieces, shared), 30, two_topics()).to_dense()
    kept = [i for i in range(30) if shared[i]]
    torch.testing.assert_close(weights[kept], torch.eye(30)[kept])
    torch.testing.assert_close(weights[3].sum(), torch.tensor(1.0))
    assert weights[3, [2, *range(10, 20)]].sum() > 0.95
    assert weights[5].nonzero()[:, 0].tolist() == [11, 12], "a piece that never occurs has no contexts: it is spelled"
    again = focus_weights(Overlap(pieces, shared), 30, two_topics()).to_dense()
    assert torch.equal(again, weights), "the same corpus gives the same rows"


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=8))
def test_sparsemax_is_the_nearest_point_of_the_simplex(scores: list[float]) -> None:
    row = torch.tensor([scores], dtype=torch.float64)
    p = sparsemax(row)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(), torch.tensor(1.0, dtype=torch.float64))
    inside = p > 0
    gap = (row - p)[inside]  # where it is positive, p = score - threshold, the same threshold for all
    torch.testing.assert_close(gap, gap[:1].expand_as(gap))
    assert (row[~inside] <= gap[0] + 1e-9).all()
