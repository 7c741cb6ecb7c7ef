"""Every shape equals the Hugging Face class of its name with the same random weights: hidden states, logits and gradients."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    MegatronBertConfig,
    MegatronBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from biomlm.model.config import EncoderConfig, ModelConfig, Shape
from biomlm.model.encoder import MaskedLM
from biomlm.model.packed import Packed, unpad

V, H, LAYERS, HEADS, INNER, LONGEST = 97, 32, 4, 4, 64, 40
BERT = {
    "vocab_size": V,
    "hidden_size": H,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": LONGEST,
    "pad_token_id": 0,
}
Pairs = Iterator[tuple[nn.Module, nn.Module]]
Copy = Callable[[MaskedLM, Any], None]


def bert_pairs(ours: MaskedLM, theirs: Any) -> Pairs:
    bert, encoder = theirs.bert, ours.encoder
    yield encoder.word_embeddings, bert.embeddings.word_embeddings
    yield encoder.position_embeddings, bert.embeddings.position_embeddings  # type: ignore[misc]
    yield encoder.token_type_embeddings, bert.embeddings.token_type_embeddings  # type: ignore[misc]
    for mine, other in zip(encoder.layers, bert.encoder.layer, strict=True):
        yield mine.attention.out, other.attention.output.dense
        yield mine.mlp.up, other.intermediate.dense
        yield mine.mlp.down, other.output.dense
    transform = theirs.cls.predictions.transform
    yield ours.head.dense, transform.dense
    yield ours.head.norm, transform.LayerNorm


def split_qkv(ours: MaskedLM, layers: nn.ModuleList) -> None:
    for mine, other in zip(ours.encoder.layers, layers, strict=True):
        s = other.attention.self
        mine.attention.qkv.weight.copy_(torch.cat([s.query.weight, s.key.weight, s.value.weight]))
        mine.attention.qkv.bias.copy_(torch.cat([s.query.bias, s.key.bias, s.value.bias]))


def bert() -> tuple[nn.Module, Copy]:
    def copy(ours: MaskedLM, theirs: Any) -> None:
        pairs = list(bert_pairs(ours, theirs))
        pairs.append((ours.encoder.embedding_norm, theirs.bert.embeddings.LayerNorm))  # type: ignore[arg-type]
        for mine, other in zip(ours.encoder.layers, theirs.bert.encoder.layer, strict=True):
            pairs += [(mine.attention_norm, other.attention.output.LayerNorm), (mine.mlp_norm, other.output.LayerNorm)]
        load(pairs)
        split_qkv(ours, theirs.bert.encoder.layer)
        ours.head.bias.copy_(theirs.cls.predictions.bias)

    return BertForMaskedLM(BertConfig(**BERT)), copy


def megatron() -> tuple[nn.Module, Copy]:
    def copy(ours: MaskedLM, theirs: Any) -> None:
        pairs = list(bert_pairs(ours, theirs))
        pairs.append((ours.encoder.final_norm, theirs.bert.encoder.ln))  # type: ignore[arg-type]
        for mine, other in zip(ours.encoder.layers, theirs.bert.encoder.layer, strict=True):
            pairs += [(mine.attention_norm, other.attention.ln), (mine.mlp_norm, other.ln)]
        load(pairs)
        split_qkv(ours, theirs.bert.encoder.layer)
        ours.head.bias.copy_(theirs.cls.predictions.bias)

    return MegatronBertForMaskedLM(MegatronBertConfig(**BERT)), copy


def modern(**settings: int) -> tuple[nn.Module, Copy]:
    def copy(ours: MaskedLM, theirs: Any) -> None:
        encoder, other = ours.encoder, theirs.model
        pairs: list[tuple[nn.Module, nn.Module]] = [
            (encoder.word_embeddings, other.embeddings.tok_embeddings),
            (encoder.embedding_norm, other.embeddings.norm),  # type: ignore[list-item]
            (encoder.final_norm, other.final_norm),  # type: ignore[list-item]
            (ours.head.dense, theirs.head.dense),
            (ours.head.norm, theirs.head.norm),
        ]
        for a, b in zip(encoder.layers, other.layers, strict=True):
            pairs += [(a.attention.qkv, b.attn.Wqkv), (a.attention.out, b.attn.Wo), (a.mlp.up, b.mlp.Wi)]
            pairs += [(a.mlp.down, b.mlp.Wo), (a.attention_norm, b.attn_norm), (a.mlp_norm, b.mlp_norm)]
        load(pairs)
        ours.head.bias.copy_(theirs.decoder.bias)

    ends = {"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    return ModernBertForMaskedLM(ModernBertConfig(**{**BERT, **ends, "local_attention": 8, **settings})), copy


SHAPES = {"bert": bert, "megatron-bert": megatron, "modernbert": modern}


def load(pairs: list[tuple[nn.Module, nn.Module]]) -> None:
    for mine, theirs in pairs:
        mine.load_state_dict(theirs.state_dict())


@pytest.fixture(params=list(SHAPES))
def pair(request: pytest.FixtureRequest) -> tuple[MaskedLM, nn.Module]:
    shape: Shape = request.param
    torch.manual_seed(0)
    theirs, copy = SHAPES[shape]()
    return same_weights(shape, LONGEST, 4, theirs, copy)


def same_weights(shape: Shape, longest: int, window: int, theirs: nn.Module, copy: Copy) -> tuple[MaskedLM, nn.Module]:
    """Ours and theirs with the same random weights."""
    resolved = ModelConfig(
        shape=shape, num_hidden_layers=LAYERS, hidden_size=H, num_attention_heads=HEADS, intermediate_size=INNER
    )
    base = resolved.resolve(V, longest, pad_token_id=0)
    ours = MaskedLM(EncoderConfig(**{**vars(base), "local_window": window})).eval()
    theirs.eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.2)
        copy(ours, theirs)
    return ours, theirs


def batch(lengths: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(lengths))
    ids, types = (
        torch.zeros(len(lengths), max(lengths), dtype=torch.int64),
        torch.zeros(len(lengths), max(lengths), dtype=torch.int64),
    )
    for row, kinds, length in zip(ids, types, lengths, strict=True):
        row[:length] = torch.randint(3, V, (length,), generator=generator)
        kinds[length // 2 : length] = 1
    return ids, (ids != 0).long(), types


def inputs(ours: MaskedLM, lengths: list[int]) -> tuple[Packed, dict[str, Tensor], Tensor]:
    """Packed for ours, padded for theirs, and which padded positions are real."""
    ids, mask, types = batch(lengths)
    packed, given = unpad(ids, mask), {"input_ids": ids, "attention_mask": mask}
    if ours.config.type_vocab_size:
        packed = Packed(packed.input_ids_t, packed.lengths, types[mask.bool()])
        given["token_type_ids"] = types
    return packed, given, mask.bool()


@pytest.mark.parametrize("lengths", [[17], [40, 40], [5, 40, 1, 23]], ids=["single", "equal", "padded"])
def test_hidden_states_and_logits(pair: tuple[MaskedLM, nn.Module], lengths: list[int]) -> None:
    ours, theirs = pair
    packed, given, real = inputs(ours, lengths)
    with torch.no_grad():
        expected = theirs(**given, output_hidden_states=True)
        hidden = ours.encoder(packed)
        for layer in (0, 1, LAYERS // 2):
            torch.testing.assert_close(hidden[layer], expected.hidden_states[layer][real], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours(packed), expected.logits[real], atol=2e-5, rtol=1e-5)


def test_gradients(pair: tuple[MaskedLM, nn.Module]) -> None:
    ours, theirs = pair
    packed, given, real = inputs(ours, [5, 40, 1, 23])
    positions, labels = torch.tensor([0, 3, 8, 44, 60]), torch.tensor([4, 9, 50, 96, 2])
    nn.functional.cross_entropy(ours(packed, positions), labels).backward()
    nn.functional.cross_entropy(theirs(**given).logits[real][positions], labels).backward()
    words = theirs.get_input_embeddings().weight.grad  # type: ignore[operator]
    torch.testing.assert_close(ours.encoder.word_embeddings.weight.grad, words, atol=1e-5, rtol=1e-4)


def test_a_local_layer_really_is_local(pair: tuple[MaskedLM, nn.Module]) -> None:
    """Changing a token far away moves nothing in a local layer's output, and something in a global one's."""
    ours, _ = pair
    if ours.config.shape != "modernbert":
        assert not any(ours.config.is_local(layer) for layer in range(LAYERS))
        return
    x = torch.randn(20, H)
    other = x.clone()
    other[19] += 1
    packed = Packed(torch.zeros(20, dtype=torch.int64), (20,))
    tables = ours.encoder._rotary(packed.position_ids_t)
    for index, moved in ((1, False), (3, True)):
        layer = ours.encoder.layers[index]
        a, b = (layer(v, packed, tables[ours.config.is_local(index)])[0] for v in (x, other))
        assert (not torch.equal(a, b)) is moved


def test_a_sequence_of_8192_tokens() -> None:
    """ModernBERT's length and window, through two local and two global layers."""
    torch.manual_seed(0)
    theirs, copy = modern(max_position_embeddings=8192, local_attention=128)
    ours, theirs = same_weights("modernbert", 8192, 64, theirs, copy)
    packed, given, real = inputs(ours, [8192])
    with torch.no_grad():
        expected = theirs(**given, output_hidden_states=True)
        hidden = ours.encoder(packed)
        for layer in (1, 2, LAYERS - 1):
            torch.testing.assert_close(hidden[layer], expected.hidden_states[layer][real], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours(packed), expected.logits[real], atol=2e-5, rtol=1e-5)
