"""Megatron-LM's layout, written here from the known weights of a transformers model: each version, on 1 and 2 ranks."""

import argparse
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from biomlm.convert.load import load_model
from biomlm.core.errors import CheckpointError
from biomlm.model.packed import pack
from biomlm.tokenizer.formats import vocab_txt

HIDDEN, HEADS, LAYERS, INNER = 24, 4, 2, 40
VERSIONS = (0, 1.0, 2.0, 3.0)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    config = transformers.MegatronBertConfig(
        vocab_size=64,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        max_position_embeddings=30,
        layer_norm_eps=1e-5,
    )
    found = transformers.MegatronBertForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.normal_(std=0.2)
    return found


def write(model: Any, folder: Path, version: float, ranks: int, **args: object) -> Path:
    """Cut a model into ranks as Megatron-LM stores them; written from its documentation, not from the code under test."""
    (folder / "iter_0000007").mkdir(parents=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("7\n")
    arguments = {"hidden_size": HIDDEN, "num_layers": LAYERS, "num_attention_heads": HEADS, "ffn_hidden_size": INNER}
    arguments |= {"tensor_model_parallel_size": ranks, "bias_gelu_fusion": False, "params_dtype": torch.float16, **args}
    for rank in range(ranks):
        place = folder / "iter_0000007" / f"mp_rank_{rank:02d}"
        place.mkdir()
        state = {
            "args": argparse.Namespace(**arguments),
            "checkpoint_version": version,
            "iteration": 7,
            "model": one_rank(model, version, rank, ranks),
            "rng_state": {
                "np_rng_state": np.random.RandomState(0).get_state(),
                "torch_rng_state": torch.get_rng_state(),
            },
        }
        torch.save(state, place / "model_optim_rng.pt")
    return folder


def one_rank(model: Any, version: float, rank: int, ranks: int) -> dict[str, Any]:
    def rows(x: Tensor) -> Tensor:
        return x.chunk(ranks, 0)[rank].clone()

    def columns(x: Tensor) -> Tensor:
        return x.chunk(ranks, 1)[rank].clone()

    def qkv(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        per_head = [
            rows(x).reshape(HEADS // ranks, HIDDEN // HEADS, -1) for x in (query, key, value)
        ]  # [heads, size, …]
        dim = {0: 0, 1: 2, 2: 1, 3: 1}[int(version)]  # where the 3 stands
        stacked = torch.stack(per_head, dim=dim)
        return stacked.reshape(-1, HIDDEN) if query.ndim == 2 else stacked.reshape(-1)

    bert, head = model.bert, model.cls.predictions
    name = "self_attention" if version == 3 else "attention"
    layers: dict[str, Tensor] = {}
    for i, layer in enumerate(bert.encoder.layer):
        inner = layer.attention.self
        for leaf in ("weight", "bias"):
            parts = (getattr(x, leaf) for x in (inner.query, inner.key, inner.value))
            layers[f"layers.{i}.{name}.query_key_value.{leaf}"] = qkv(*parts)
            layers[f"layers.{i}.input_layernorm.{leaf}"] = getattr(layer.attention.ln, leaf)
            layers[f"layers.{i}.post_attention_layernorm.{leaf}"] = getattr(layer.ln, leaf)
            layers[f"layers.{i}.mlp.dense_h_to_4h.{leaf}"] = rows(getattr(layer.intermediate.dense, leaf))
            layers[f"final_layernorm.{leaf}"] = getattr(bert.encoder.ln, leaf)
        layers[f"layers.{i}.{name}.dense.weight"] = columns(layer.attention.output.dense.weight)
        layers[f"layers.{i}.{name}.dense.bias"] = layer.attention.output.dense.bias
        layers[f"layers.{i}.mlp.dense_4h_to_h.weight"] = columns(layer.output.dense.weight)
        layers[f"layers.{i}.mlp.dense_4h_to_h.bias"] = layer.output.dense.bias
    embeddings = bert.embeddings
    return {
        "language_model": {
            "embedding": {
                "word_embeddings": {"weight": rows(embeddings.word_embeddings.weight)},
                "position_embeddings": {"weight": embeddings.position_embeddings.weight},
                "tokentype_embeddings": {"weight": embeddings.token_type_embeddings.weight},
            },
            "encoder" if version == 3 else "transformer": layers,
            "pooler": {f"dense.{leaf}": getattr(bert.pooler.dense, leaf) for leaf in ("weight", "bias")},
        },
        "lm_head": {
            "bias": rows(head.bias),
            **{f"dense.{leaf}": getattr(head.transform.dense, leaf) for leaf in ("weight", "bias")},
            **{f"layernorm.{leaf}": getattr(head.transform.LayerNorm, leaf) for leaf in ("weight", "bias")},
        },
        "binary_head": {leaf: getattr(model.cls.seq_relationship, leaf) for leaf in ("weight", "bias")},
    }


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_and_rank_gives_the_known_weights(
    model: Any, version: float, ranks: int, tmp_path: Path, convert: Callable[..., Path]
) -> None:
    target = convert(write(model, tmp_path / "megatron", version, ranks), "hf")
    read = transformers.MegatronBertForPreTraining.from_pretrained(target, local_files_only=True)
    expected = model.state_dict()
    for name, value in read.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert read.config.layer_norm_eps == 1e-5


@pytest.mark.parametrize(
    ("args", "activation"),
    [
        ({"bias_gelu_fusion": True}, "gelu_new"),
        ({"openai_gelu": True}, "gelu_new"),
        ({"onnx_safe": True}, "gelu"),
        ({}, "gelu"),
    ],
)
def test_the_approximation_of_gelu_follows_from_the_arguments(
    model: Any, args: dict[str, bool], activation: str, tmp_path: Path, convert: Callable[..., Path]
) -> None:
    """GatorTron was trained with Megatron's default, the fused kernel: tanh in the layers, not in the head."""
    target = convert(write(model, tmp_path / "megatron", 2.0, 1, **args), "hf")
    read = transformers.MegatronBertForPreTraining.from_pretrained(target, local_files_only=True)
    assert read.config.hidden_act == activation
    fused = "bias_gelu_fusion" in args
    native = load_model(tmp_path / "megatron")
    model.config.hidden_act = activation
    known = transformers.MegatronBertForPreTraining(model.config).eval()
    known.load_state_dict(model.state_dict())
    ids = torch.randint(5, 60, (2, 20))
    with torch.inference_mode():
        expected = known(ids)
        assert torch.equal(read.eval()(ids).prediction_logits, expected.prediction_logits)
        if fused:
            known.cls.predictions.transform.transform_act_fn = torch.nn.GELU()
        head = known.cls.predictions(known.bert(ids).last_hidden_state).flatten(0, 1)
        torch.testing.assert_close(native.model(pack(ids.tolist())), head, atol=1e-5, rtol=1e-5)
    said = json.loads((target / "conversion.json").read_text())["left_out"]
    assert said == (["the head's activation, gelu: gelu_tanh instead"] if fused else [])


def test_a_single_file_is_a_model(model: Any, tmp_path: Path, convert: Callable[..., Path]) -> None:
    """As GatorTron's first release: `MegatronBERT.pt`, with the vocabulary beside it or elsewhere."""
    folder = write(model, tmp_path / "megatron", 3.0, 1)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(59))]
    for place in ("alone", "tokenizer"):
        (tmp_path / place).mkdir()
    shutil.move(next(folder.rglob("model_optim_rng.pt")), tmp_path / "alone" / "MegatronBERT.pt")
    (tmp_path / "alone" / "vocab.txt").write_text("\n".join(pieces) + "\n")
    vocab_txt.write_folder(tmp_path / "alone" / "vocab.txt", tmp_path / "tokenizer")
    beside = convert(tmp_path / "alone", "hf", "beside")
    given = convert(tmp_path / "alone" / "MegatronBERT.pt", "hf", "given", tokenizer=str(tmp_path / "tokenizer"))
    for target in (beside, given):
        read = transformers.MegatronBertForPreTraining.from_pretrained(target, local_files_only=True)
        for name, value in read.state_dict().items():
            assert torch.equal(value, model.state_dict()[name]), name
        assert transformers.AutoTokenizer.from_pretrained(target)("w7 w58")["input_ids"] == [2, 12, 63, 3]
        assert json.loads((target / "conversion.json").read_text())["source_kind"] == "megatron"


def test_an_archive_of_nemo_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "gatortron.nemo", "w") as archive:
        for name in ("model_config.yaml", "model_weights.ckpt"):
            (tmp_path / name).write_text("x")
            archive.add(tmp_path / name, name)
    with pytest.raises(CheckpointError, match="NeMo"):
        load_model(tmp_path / "gatortron.nemo")


def test_what_megatron_cannot_give_is_refused(model: Any, tmp_path: Path) -> None:
    short = write(model, tmp_path / "short", 2.0, 2)
    next(short.rglob("mp_rank_01/model_optim_rng.pt")).unlink()
    with pytest.raises(CheckpointError, match="1 of 2 ranks"):
        load_model(short)
    with pytest.raises(CheckpointError):
        load_model(write(model, tmp_path / "heads", 2.0, 1, num_attention_heads=5))
    with pytest.raises(CheckpointError):
        load_model(write(model, tmp_path / "layers", 2.0, 1, num_layers=3))


def test_mutated_ranks_are_refused_or_converted_whole(model: Any, tmp_path: Path, fuzz: Callable[..., int]) -> None:
    folder = write(model, tmp_path / "megatron", 3.0, 2)
    file = folder / "iter_0000007" / "mp_rank_01" / "model_optim_rng.pt"
    assert 20 < fuzz(folder, file, 60, range(8000)) < 60
