"""Pair objectives equal Hugging Face's in loss and gradient, and their pooler and classifier travel with the model, there and back."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertForPreTraining, MegatronBertConfig, MegatronBertForPreTraining

from biomlm.convert.load import load_model
from biomlm.convert.names import hf_architectures, hf_config
from biomlm.convert.names.table import from_native, to_native
from biomlm.core import checkpoint, cli
from biomlm.core.errors import ConfigError, DataError
from biomlm.core.metrics import read_metrics
from biomlm.model.config import ModelConfig, Shape
from biomlm.model.encoder import MaskedLM
from biomlm.model.kernels.cross_entropy import NO_LABEL
from biomlm.model.packed import pad
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.batches import Batch, Batches
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.pretrain.objectives.config import PAIRINGS, MlmConfig, ObjectiveConfig
from biomlm.training.objective import LossDenominators

LENGTH = 32
THEIRS = {"bert": (BertForPreTraining, BertConfig), "megatron-bert": (MegatronBertForPreTraining, MegatronBertConfig)}
CASES: list[tuple[Shape, str]] = [("bert", "nsp"), ("megatron-bert", "sop"), ("bert", "drp")]


def pairs_of(shards: Path, kind: str, segments: bool = True) -> Batch:
    sizes = BatchConfig(tokens=512, max_length=LENGTH, form="pairs")
    batch = Batches(
        Shards([shards], "train"), MlmConfig(), sizes, 3, pairing=PAIRINGS[kind], segments=segments
    ).micro_batch(0, 1)
    assert batch is not None
    return batch


def ours_and_theirs(shape: Shape, kind: str, pad_id: int) -> tuple[MaskedLM, PretrainObjective, nn.Module]:
    """The same random weights twice."""
    torch.manual_seed(0)
    sizes = ModelConfig(shape=shape, num_hidden_layers=2, hidden_size=32, num_attention_heads=4, intermediate_size=64)
    config = sizes.resolve(300, LENGTH, pad_id)
    model, objective = MaskedLM(config).eval(), PretrainObjective(ObjectiveConfig(**{kind: 0.5}), config)
    nn.init.normal_(model.head.bias, std=0.1)
    cls, settings = THEIRS[shape]
    keys = hf_config.keys(config)
    theirs = cls(settings(**{key: keys[key] for key in keys if key not in ("architectures", "model_type")})).eval()
    if kind == "drp":
        theirs.cls.seq_relationship = nn.Linear(32, 3)
    state = from_native(hf_architectures.BY_SHAPE[shape].table, model.state_dict(), {}, 0)
    state |= {hugging_face(name): tensor for name, tensor in objective.state_dict().items()}
    assert not theirs.load_state_dict(state, strict=False).unexpected_keys
    theirs.tie_weights()
    return model, objective, theirs


def hugging_face(name: str) -> str:
    return f"bert.{name}" if name.startswith("pooler") else f"cls.{name}"


def padded(values_t: Tensor, batch: Batch, value: int) -> Tensor:
    return pad(values_t[:, None] - value, batch.packed.lengths)[..., 0] + value


@pytest.mark.parametrize(("shape", "kind"), CASES)
def test_loss_and_gradient_equal_hugging_faces(shape: Shape, kind: str, tiny_shards: Path) -> None:
    """NSP as BertForPreTraining has it, SOP as MegatronBertForPreTraining, DRP the same with three classes."""
    batch = pairs_of(tiny_shards, "nsp" if kind == "drp" else kind)
    if kind == "drp":
        batch = replace(batch, pair_labels_b=torch.arange(len(batch.packed.lengths)) % 3)
    assert batch.pair_labels_b is not None
    assert batch.packed.token_type_ids_t is not None
    model, objective, theirs = ours_and_theirs(shape, kind, pad_id=1)
    terms = objective(model, batch, LossDenominators.of([batch]))
    terms["loss"].backward()

    labels_t = torch.full_like(batch.packed.input_ids_t, NO_LABEL)
    labels_t[batch.positions_m] = batch.labels_m
    out = theirs(
        input_ids=padded(batch.packed.input_ids_t, batch, 1),
        attention_mask=padded(torch.ones_like(batch.packed.input_ids_t), batch, 0),
        token_type_ids=padded(batch.packed.token_type_ids_t, batch, 0),
    )
    mlm = F.cross_entropy(out.prediction_logits.flatten(0, 1), padded(labels_t, batch, NO_LABEL).flatten())
    pair = F.cross_entropy(out.seq_relationship_logits, batch.pair_labels_b)
    (mlm + 0.5 * pair).backward()

    assert terms["mlm"].item() == pytest.approx(mlm.item(), abs=1e-5)
    assert terms[kind].item() == pytest.approx(pair.item(), abs=1e-5)
    assert terms["loss"].item() == pytest.approx((mlm + 0.5 * pair).item(), abs=1e-5)
    right = (out.seq_relationship_logits.argmax(-1) == batch.pair_labels_b).sum() / (batch.pair_labels_b >= 0).sum()
    assert terms[f"{kind}_accuracy"].item() == pytest.approx(right.item())
    compare_gradients(model, objective, theirs)


def compare_gradients(model: MaskedLM, objective: PretrainObjective, theirs: nn.Module) -> None:
    found: dict[str, Tensor] = {}
    for name, parameter in theirs.named_parameters(remove_duplicate=False):
        assert parameter.grad is not None, name
        found[name] = parameter.grad
    table = hf_architectures.BY_SHAPE[model.config.shape].table
    expected, rest = to_native(table, found, model.config, Path("gradients"))
    ours = dict(model.named_parameters())
    assert ours.keys() == expected.keys()
    for name, parameter in [*ours.items(), *objective.named_parameters()]:
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, {**expected, **rest}[name], atol=1e-5, rtol=1e-4, msg=name)


def test_a_single_segment_has_no_part_in_the_pair_loss(tiny_shards: Path) -> None:
    batch = pairs_of(tiny_shards, "sop")
    assert batch.pair_labels_b is not None
    alone = torch.full_like(batch.pair_labels_b, NO_LABEL)
    model, objective, _ = ours_and_theirs("bert", "sop", pad_id=1)
    none = replace(batch, pair_labels_b=alone)
    assert LossDenominators.of([none]).pairs == 0
    assert LossDenominators.of([]) == LossDenominators(0, 0, 0), (
        "a rank without a micro-batch adds nothing to a step's totals"
    )
    terms = objective(model, none, replace(LossDenominators.of([none]), pairs=1))
    assert terms["sop"].item() == 0
    assert terms["loss"].item() == pytest.approx(terms["mlm"].item())


def test_parts_add_up_over_micro_batches(tiny_shards: Path) -> None:
    """Two micro-batches of a step give the same loss as their sequences in one."""
    sizes = BatchConfig(tokens=512, accumulation=2, max_length=LENGTH, form="pairs")
    made = Batches(Shards([tiny_shards], "train"), MlmConfig(), sizes, 3, pairing=PAIRINGS["nsp"], segments=True).step(
        0
    )
    model, objective, _ = ours_and_theirs("bert", "nsp", pad_id=1)
    totals = LossDenominators.of(made)
    assert totals.pairs == sum(len(batch.packed.lengths) for batch in made)
    parts = [objective(model, batch, totals) for batch in made]
    means = [
        objective(model, batch, LossDenominators.of([batch]))["nsp"].item() * len(batch.packed.lengths)
        for batch in made
    ]
    assert sum(part["nsp"].item() for part in parts) == pytest.approx(sum(means) / totals.pairs, abs=1e-6)


def arguments(shards: Path, out: Path, kind: str, *more: str) -> list[str]:
    sizes = ["--batch.tokens=512", f"--batch.max_length={LENGTH}", "--batch.form=pairs", f"--objective.{kind}=1"]
    return ["pretrain", "--shards", str(shards), "--out", str(out), *sizes, "--steps=6", "--seed=1", *more]


TINY = ["--model.num_hidden_layers=2", "--model.hidden_size=32", "--model.num_attention_heads=2"]


def test_pooler_and_classifier_go_to_hugging_face_and_come_back(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = tmp_path / "run", tmp_path / "hf"
    assert cli.run(arguments(tiny_shards, run, "nsp", "--model.shape=bert", *TINY)) == 0
    own = checkpoint.load(checkpoint.path_of(run, 6)).tensors["objective"]
    valid = [record for record in read_metrics(run) if record["split"] == "valid"][-1]
    assert 0 < valid["nsp"] < 2
    assert 0.3 < valid["nsp_accuracy"] < 1

    assert cli.run(["convert", str(run), str(folder), "--to", "hf"]) == 0
    theirs = BertForPreTraining.from_pretrained(folder)
    assert torch.equal(theirs.bert.pooler.dense.weight, own["pooler.dense.weight"])
    assert torch.equal(theirs.cls.seq_relationship.bias, own["seq_relationship.bias"])
    loaded = load_model(run)
    assert {name: tensor.shape for name, tensor in loaded.extra_tensors.items()} == {n: t.shape for n, t in own.items()}

    for kind, taken in (("nsp", {"pooler", "seq_relationship"}), ("drp", {"pooler"})):
        capsys.readouterr()
        again = tmp_path / kind
        start = ["--init", str(folder), "--optim.lr=1e-9", "--optim.weight_decay=0"]
        assert cli.run([*arguments(tiny_shards, again, kind, *start), "--steps=1"]) == 0
        said = capsys.readouterr().err
        assert ("no fitting seq_relationship.bias, seq_relationship.weight" in said) == (kind == "drp")
        found = load_file(checkpoint.path_of(again, 1) / "objective.safetensors")
        close = {
            name
            for name in own
            if own[name].shape == found[name].shape and torch.allclose(own[name], found[name], atol=1e-6)
        }
        assert {name.split(".")[0] for name in close} == taken


def test_a_run_with_pairs_is_resumed_with_its_pooler(tiny_shards: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    shape = ["--model.shape=roberta", *TINY, "--save_every=3"]
    assert cli.run(arguments(tiny_shards, whole, "sop", *shape)) == 0
    assert cli.run(arguments(tiny_shards, parts, "sop", *shape)) == 0
    (checkpoint.path_of(parts, 6) / "objective.safetensors").write_bytes(b"damaged")
    manifest = parts / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"done"', '"running"'))
    assert cli.run(arguments(tiny_shards, parts, "sop", *shape)) == 0
    for name in ("model", "objective"):
        a, b = ((checkpoint.path_of(run, 6) / f"{name}.safetensors").read_bytes() for run in (whole, parts))
        assert a == b


def test_models_without_token_types_separate_pairs_twice(tiny_shards: Path) -> None:
    """RoBERTa's `<s> A </s></s> B </s>`."""
    batch = pairs_of(tiny_shards, "nsp", segments=False)
    ids = Shards([tiny_shards], "train").ids
    assert batch.packed.token_type_ids_t is None
    for part in torch.split(batch.packed.input_ids_t, list(batch.packed.lengths)):
        ends = (part == ids.eos).nonzero()[:, 0].tolist()
        assert len(ends) == 3
        assert ends[1] == ends[0] + 1
        assert ends[2] == len(part) - 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"objective": {"nsp": 1.0}}, "go together"),
        ({"batch": {"form": "pairs"}}, "go together"),
        ({"objective": {"nsp": 1.0, "sop": 1.0}, "batch": {"form": "pairs"}}, "different kinds"),
        ({"objective": {"mlm": 0.0}}, "positive"),
        ({"objective": {"drp": -1.0}}, "negative"),
        ({"batch": {"short_seq_prob": 1.5}}, "short_seq_prob"),
    ],
)
def test_contradictions_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PretrainConfig(
            shards="S",
            out="O",
            objective=ObjectiveConfig(**wrong.get("objective", {})),
            batch=BatchConfig(**wrong.get("batch", {})),
        )


def test_masks_by_part_of_speech_need_the_parts(tiny_shards: Path) -> None:
    with pytest.raises(DataError, match="--pos"):
        Batches(Shards([tiny_shards], "train"), MlmConfig(pos=["DET"]), BatchConfig(512, 1, LENGTH), 0)


def test_two_processes_share_out_the_pooler_as_well(
    tiny_shards: Path, tmp_path: Path, start_ranks: Callable[..., Any], small_run: Callable[..., list[str]]
) -> None:
    """FSDP2: training and held-out figures of the pairs are those of one process."""
    more = ["--model.shape=bert", "--batch.form=pairs", "--objective.nsp=1", "--batch.accumulation=2", "--log_every=1"]
    alone, two = tmp_path / "alone", tmp_path / "two"
    assert cli.run(small_run(tiny_shards, alone, 4, *more)) == 0
    ranks = start_ranks(2, small_run(tiny_shards, two, 4, *more, "--engine", "fsdp"))
    assert ranks.wait(240) == [0, 0], ranks.said()
    for a, b in zip(*map(read_metrics, (alone, two)), strict=True):
        for name in ("loss", "nsp", "nsp_accuracy"):
            assert a[name] == pytest.approx(b[name], abs=1e-4), (name, a["step"], a["split"])
