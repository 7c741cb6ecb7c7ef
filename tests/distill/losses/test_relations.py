"""Attention relations against Hugging Face's attention and against the papers' formulas on padded batches."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from biomlm.distill.losses.captured import captured
from biomlm.distill.losses.kinds import Kind
from biomlm.distill.losses.relations import PAIRS, grouped_distance, relation_distance
from biomlm.model.packed import pack, pad

SEQUENCES = [[0, 5, 6, 7, 2], [0, 8, 9, 2], [0, 11, 12, 13, 14, 15, 2]]
LENGTHS = tuple(map(len, SEQUENCES))


def by_hand(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], heads: int, kind: Kind) -> Tensor:
    """Padded, masked, head by head."""
    total = torch.zeros(())
    for a, b in PAIRS[kind]:
        for head in range(heads):
            relations = []
            for side in (student, teacher):
                width = side[0].shape[1] // heads
                x, y = (pad(side[i], LENGTHS)[..., head * width : (head + 1) * width] for i in (a, b))
                relations.append(x @ y.transpose(1, 2) / width**0.5)
            for i, length in enumerate(LENGTHS):
                ours, theirs = (F.softmax(r[i, :length, :length], -1) for r in relations)
                total = total + (theirs * (theirs / ours).log()).sum()
    return total / heads


@pytest.mark.parametrize("kind", ["minilm", "minilmv2"])
@pytest.mark.parametrize("heads", [1, 3, 4, 12])
def test_heads_of_any_number_give_the_papers_formula(kind: Kind, heads: int) -> None:
    """MiniLMv2's relation heads cut 24 and 48 dimensions alike, whatever heads the models have."""
    random = torch.Generator().manual_seed(1)
    student = tuple(torch.randn(sum(LENGTHS), 24, generator=random) for _ in range(3))
    teacher = tuple(torch.randn(sum(LENGTHS), 48, generator=random) for _ in range(3))
    ours = relation_distance(student, teacher, LENGTHS, heads, kind=kind)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, by_hand(student, teacher, heads, kind), rtol=1e-4, atol=1e-4)
    same = relation_distance(teacher, teacher, LENGTHS, heads, kind=kind)  # type: ignore[arg-type]
    assert same.abs() < 1e-4


@pytest.mark.parametrize("area", [1, 50, 1 << 20])
@pytest.mark.parametrize("kind", ["minilm", "minilmv2"])
def test_sequences_in_groups_have_the_loss_and_gradient_of_each_by_itself(
    kind: Kind, area: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomlm.distill.losses.relations.AREA", area)
    random, (single, grouped) = torch.Generator().manual_seed(1), ([], [])  # type: ignore[var-annotated]
    student = tuple(torch.randn(sum(LENGTHS), 24, generator=random, requires_grad=True) for _ in range(3))
    teacher = tuple(20 * torch.randn(sum(LENGTHS), 48, generator=random) for _ in range(3))
    for distance, results in ((relation_distance, single), (grouped_distance, grouped)):
        loss = distance(student, teacher, LENGTHS, 4, kind=kind)  # type: ignore[operator]
        results += [loss.detach(), *torch.autograd.grad(loss, student, allow_unused=True)]
    for ours, theirs in zip(grouped, single, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_query_key_relation_is_hugging_faces_attention(make_model) -> None:  # type: ignore[no-untyped-def]
    """Our capture of a layer, through the relation's formula, is what RobertaModel returns as attentions."""
    from transformers import RobertaConfig, RobertaModel

    model = make_model(16, heads=4).eval()
    c = model.config
    theirs = RobertaModel(
        RobertaConfig(
            vocab_size=c.vocab_size,
            hidden_size=c.hidden_size,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=32,
            max_position_embeddings=c.max_positions + 2,
            type_vocab_size=1,
            layer_norm_eps=c.layer_norm_eps,
            attn_implementation="eager",
        ),
        add_pooling_layer=False,
    ).eval()
    state = theirs.state_dict()
    ours = model.encoder.state_dict()
    with torch.no_grad():
        state["embeddings.word_embeddings.weight"].copy_(ours["word_embeddings.weight"])
        state["embeddings.position_embeddings.weight"][2:].copy_(ours["position_embeddings.weight"])
        state["embeddings.token_type_embeddings.weight"].zero_()
        for i in range(2):
            front, qkv = f"encoder.layer.{i}.", ours[f"layers.{i}.attention.qkv.weight"].chunk(3)
            for name, weight in zip(("query", "key", "value"), qkv, strict=True):
                state[f"{front}attention.self.{name}.weight"].copy_(weight)
            for name, own in (
                ("attention.output.dense", "attention.out"),
                ("intermediate.dense", "mlp.up"),
                ("output.dense", "mlp.down"),
            ):
                state[f"{front}{name}.weight"].copy_(ours[f"layers.{i}.{own}.weight"])
        theirs.load_state_dict(state)
        ids = torch.tensor([SEQUENCES[0]])
        attentions = theirs(ids, output_attentions=True).attentions[1][0]
        with captured(model.encoder, 2) as kept:
            model.encoder(pack([SEQUENCES[0]]))
    q, k, _ = (x.view(5, 4, 4).transpose(0, 1) for x in kept[0])
    torch.testing.assert_close(F.softmax(q @ k.transpose(1, 2) / 2, -1), attentions, rtol=1e-4, atol=1e-5)


def test_rotary_queries_are_captured_as_they_are_used(make_model) -> None:  # type: ignore[no-untyped-def]
    """A token and its copy have one vector, so only the turn by position can make their queries differ."""
    model = make_model(16, heads=2, shape="modernbert").eval()
    with torch.no_grad(), captured(model.encoder, 1) as kept:
        model.encoder(pack([[5, 5, 5, 5]]))
    q, k, v = kept[0]
    assert torch.equal(v[0], v[1])
    torch.testing.assert_close(q.norm(dim=1), q.norm(dim=1)[:1].expand(4))
    assert not torch.allclose(q[0], q[1])
    torch.testing.assert_close(q[0] @ k[1], q[2] @ k[3])  # a score depends on the distance alone


def test_nothing_is_captured_after_the_pass(make_model) -> None:  # type: ignore[no-untyped-def]
    model = make_model(16)
    with captured(model.encoder, 1) as kept:
        model.encoder(pack(SEQUENCES))
    model.encoder(pack(SEQUENCES))
    assert len(kept) == 1
