"""The encoder equals Hugging Face's RobertaForMaskedLM with the same random weights: forward and gradients."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RobertaConfig, RobertaForMaskedLM

from biomlm.core.errors import ConfigError, DataError
from biomlm.core.files import write_json
from biomlm.model.config import EncoderConfig, ModelConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.packed import pack, pad, unpad

PAD = 1
CONFIG = EncoderConfig(
    vocab_size=97,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    max_positions=40,
    type_vocab_size=1,
)


@pytest.fixture
def pair() -> tuple[MaskedLM, RobertaForMaskedLM]:
    torch.manual_seed(0)
    ours = MaskedLM(CONFIG).eval()
    theirs = RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=97,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=42,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            pad_token_id=PAD,
        )
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.2)
        copy_from_hf(ours, theirs)
    return ours, theirs


def copy_from_hf(ours: MaskedLM, theirs: RobertaForMaskedLM) -> None:
    """Written out by hand, apart from `convert`'s table, so that neither can hide the other's mistake."""
    r, e = theirs.roberta, ours.encoder
    e.word_embeddings.weight.copy_(r.embeddings.word_embeddings.weight)
    e.position_embeddings.weight.copy_(r.embeddings.position_embeddings.weight[PAD + 1 :])
    assert e.token_type_embeddings is not None
    e.token_type_embeddings.weight.copy_(r.embeddings.token_type_embeddings.weight)
    e.embedding_norm.load_state_dict(r.embeddings.LayerNorm.state_dict())
    for a, b in zip(e.layers, r.encoder.layer, strict=True):
        s = b.attention.self
        a.attention.qkv.weight.copy_(torch.cat([s.query.weight, s.key.weight, s.value.weight]))
        a.attention.qkv.bias.copy_(torch.cat([s.query.bias, s.key.bias, s.value.bias]))
        a.attention.out.load_state_dict(b.attention.output.dense.state_dict())
        a.attention_norm.load_state_dict(b.attention.output.LayerNorm.state_dict())
        a.mlp.up.load_state_dict(b.intermediate.dense.state_dict())
        a.mlp.down.load_state_dict(b.output.dense.state_dict())
        a.mlp_norm.load_state_dict(b.output.LayerNorm.state_dict())
    ours.head.dense.load_state_dict(theirs.lm_head.dense.state_dict())
    ours.head.norm.load_state_dict(theirs.lm_head.layer_norm.state_dict())
    ours.head.bias.copy_(theirs.lm_head.bias)


def batch(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(lengths))
    ids = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = torch.randint(2, 97, (length,), generator=generator)
    return ids, (ids != PAD).long()


@pytest.mark.parametrize("lengths", [[17], [40, 40], [5, 40, 1, 23]], ids=["single", "equal", "padded"])
def test_hidden_states_and_logits_equal_hugging_face(
    pair: tuple[MaskedLM, RobertaForMaskedLM], lengths: list[int]
) -> None:
    ours, theirs = pair
    ids, mask = batch(lengths)
    packed = unpad(ids, mask)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        for mine, reference in zip(ours.encoder(packed), expected.hidden_states, strict=True):
            torch.testing.assert_close(mine, reference[mask.bool()], atol=1e-5, rtol=0)
        torch.testing.assert_close(ours(packed), expected.logits[mask.bool()], atol=1e-5, rtol=1e-5)


def test_gradients_equal_hugging_face(pair: tuple[MaskedLM, RobertaForMaskedLM]) -> None:
    ours, theirs = pair
    ids, mask = batch([5, 40, 1, 23])
    positions = torch.tensor([0, 3, 8, 44, 60])
    labels = torch.tensor([4, 9, 50, 96, 2])
    torch.nn.functional.cross_entropy(ours(unpad(ids, mask), positions), labels).backward()
    logits = theirs(input_ids=ids, attention_mask=mask).logits[mask.bool()][positions]
    torch.nn.functional.cross_entropy(logits, labels).backward()
    mine = ours.encoder.layers[0].attention.qkv.weight.grad
    reference = torch.cat(
        [getattr(theirs.roberta.encoder.layer[0].attention.self, n).weight.grad for n in ("query", "key", "value")]
    )
    torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-4)
    words = theirs.roberta.embeddings.word_embeddings.weight.grad
    torch.testing.assert_close(ours.encoder.word_embeddings.weight.grad, words, atol=1e-5, rtol=1e-4)


def test_masked_positions_only_is_a_row_selection(pair: tuple[MaskedLM, RobertaForMaskedLM]) -> None:
    ours, _ = pair
    packed = unpad(*batch([5, 40, 1, 23]))
    positions = torch.tensor([2, 7, 68])
    with torch.no_grad():
        torch.testing.assert_close(ours(packed, positions), ours(packed)[positions], atol=1e-6, rtol=0)


@given(st.lists(st.lists(st.integers(2, 90), min_size=1, max_size=7), min_size=1, max_size=5))
def test_packing_round_trip(sequences: list[list[int]]) -> None:
    packed = pack(sequences)
    back = pad(packed.input_ids_t[:, None], packed.lengths)[..., 0]
    assert [row[:n].tolist() for row, n in zip(back, packed.lengths, strict=True)] == sequences
    assert packed.position_ids_t.tolist() == [i for s in sequences for i in range(len(s))]
    assert packed.cu_seqlens.tolist() == [sum(len(s) for s in sequences[:i]) for i in range(len(sequences) + 1)]


def test_sizes_have_the_published_parameter_counts() -> None:
    with torch.device("meta"):
        base = MaskedLM(ModelConfig(size="base").resolve(50265, 512, PAD))
        large = MaskedLM(ModelConfig(size="large").resolve(50265, 512, PAD))
    # RobertaForMaskedLM has 124,697,433 and 355,412,057; it adds 2 position rows and 1 token type.
    assert sum(p.numel() for p in base.parameters()) == 124_697_433 - 3 * 768
    assert sum(p.numel() for p in large.parameters()) == 355_412_057 - 3 * 1024


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="no multiple"):
        ModelConfig(hidden_size=100, num_attention_heads=7).resolve(10, 10, PAD)
    with pytest.raises(ConfigError, match="hidden_dropout"):
        ModelConfig(hidden_dropout=1.5)


def test_a_shape_of_a_later_version_is_refused(tmp_path: Path) -> None:
    """It was read as RoBERTa's, whose features are the defaults."""
    config = ModelConfig(size="tiny").resolve(90, 32, PAD)
    write_json(tmp_path / "encoder.json", {**asdict(config), "shape": "of-2027"})
    with pytest.raises(DataError, match="there is no shape of-2027"):
        EncoderConfig.load(tmp_path)
