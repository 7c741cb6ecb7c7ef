"""What goes out and comes back is bit-equal; what a format needs beside the weights is there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForTokenClassification,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
)

from biomlm.convert.commands.check import differences
from biomlm.convert.formats import hf_weights
from biomlm.convert.load import load_model, read_source
from biomlm.core.checkpoint import Checkpoint, save
from biomlm.core.errors import CheckpointError, ConfigError, MismatchError
from biomlm.core.files import sha256
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM

Convert = Callable[..., Path]
Tensors = Callable[[Path], dict[str, torch.Tensor]]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder of our own, with two checkpoints."""
    torch.manual_seed(1)
    config = EncoderConfig(90, 24, 2, 2, 40, max_positions=20)
    run = tmp_path / "run"
    run.mkdir()
    config.save(run)
    for step in (5, 10):
        model = MaskedLM(config)
        save(run, Checkpoint(step, {"model": model.state_dict(), "optimizer": {"m": torch.ones(1)}}, {}), keep=9)
    return run


def test_hf_to_native_to_hf_is_bit_equal(hf_folder: Path, convert: Convert) -> None:
    back = convert(convert(hf_folder, "native"), "hf", "back")
    before, after = load_file(hf_folder / "model.safetensors"), load_file(back / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (back, hf_folder))
    assert {name: ours[name] for name in ours.keys() & theirs.keys()} == {
        name: theirs[name] for name in ours.keys() & theirs.keys()
    }


def test_native_to_hf_to_native_is_bit_equal(run_folder: Path, convert: Convert) -> None:
    back = load_model(convert(convert(run_folder, "hf"), "native", "back"))
    before = load_model(run_folder)
    assert before.facts["step"] == 10
    assert back.config == before.config
    assert all(torch.equal(a, b) for a, b in zip(before.model.parameters(), back.model.parameters(), strict=True))


def test_one_checkpoint_of_a_run_can_be_named(run_folder: Path) -> None:
    early = load_model(run_folder / "checkpoints" / "step_5")
    assert early.facts["step"] == 5
    assert early.sha256 == sha256(run_folder / "checkpoints" / "step_5" / "model.safetensors")
    assert not torch.equal(early.model.head.dense.weight, load_model(run_folder).model.head.dense.weight)


def test_native_to_native_copies_the_newest_checkpoint_alone(run_folder: Path, convert: Convert) -> None:
    copy = convert(run_folder, "native")
    assert differences(read_source(run_folder), read_source(copy)).logits == 0
    assert not (copy / "checkpoints" / "step_0" / "optimizer.safetensors").exists()


def test_hf_to_fairseq_folds_the_token_type_into_the_positions(hf_folder: Path, convert: Convert) -> None:
    source = read_source(hf_folder)
    assert source.config.type_vocab_size == 1
    target = read_source(convert(hf_folder, "fairseq"))
    assert target.config.type_vocab_size == 0
    assert differences(source, target).first_above(1e-5) is None


def test_a_norm_that_fairseq_cannot_have_is_refused(hf_folder: Path, convert: Convert) -> None:
    config = json.loads((hf_folder / "config.json").read_text())
    (hf_folder / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-12}))
    with pytest.raises(MismatchError, match="eps 1e-12"):
        convert(hf_folder, "fairseq")


def test_old_bin_and_sharded_folders_give_the_same_model(
    hf_model: RobertaForMaskedLM, hf_folder: Path, tmp_path: Path
) -> None:
    expected = load_model(hf_folder).model.state_dict()
    old, sharded = tmp_path / "old", tmp_path / "sharded"
    hf_model.save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    old.mkdir()
    (old / "config.json").write_bytes((hf_folder / "config.json").read_bytes())
    state = {**hf_model.state_dict(), "roberta.embeddings.position_ids": torch.arange(35)[None]}
    for new_format in (True, False):
        torch.save(state, old / "pytorch_model.bin", _use_new_zipfile_serialization=new_format)
        for folder in (old, sharded):
            found = load_model(folder).model.state_dict()
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_large_model_is_written_in_shards(hf_folder: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_weights, "SHARD", 20_000)
    folder = convert(hf_folder, "hf", "sharded")
    files = sorted(folder.glob("model-*-of-*.safetensors"))
    assert len(files) > 2
    assert all(file.stat().st_size < 30_000 for file in files)
    record = json.loads((folder / "conversion.json").read_text())
    assert {file.name for file in files} < record["sha256"].keys()
    expected = RobertaForMaskedLM.from_pretrained(hf_folder, local_files_only=True).state_dict()
    found = RobertaForMaskedLM.from_pretrained(folder, local_files_only=True).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_old_sharded_bin(hf_model: RobertaForMaskedLM, hf_folder: Path) -> None:
    expected = load_model(hf_folder).model.state_dict()
    (hf_folder / "model.safetensors").unlink()
    weight_map = {}
    for i in range(2):
        shard = {name: value for n, (name, value) in enumerate(hf_model.state_dict().items()) if n % 2 == i}
        torch.save(shard, hf_folder / f"pytorch_model-{i}.bin")
        weight_map |= dict.fromkeys(shard, f"pytorch_model-{i}.bin")
    (hf_folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    found = load_model(hf_folder).model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype_is_kept_or_changed_as_told(hf_folder: Path, convert: Convert, dtype: str) -> None:
    half = convert(hf_folder, "hf", "half", dtype=dtype)
    kept = convert(half, "native", "kept")
    assert {t.dtype for t in load_file(half / "model.safetensors").values()} == {getattr(torch, dtype)}
    assert json.loads((half / "config.json").read_text())["torch_dtype"] == dtype
    assert load_model(kept).facts["dtype"] == dtype
    assert load_model(kept).model.head.bias.dtype == torch.float32


def test_classification_head_and_labels_survive(tmp_path: Path, hf_folder: Path, convert: Convert) -> None:
    """The classifier of a fine-tuned model goes through native and back, and its class reads it there."""
    classes = {"id2label": {"0": "no", "1": "yes", "2": "maybe"}, "label2id": {"no": 0, "yes": 1, "maybe": 2}}
    config = json.loads((hf_folder / "config.json").read_text()) | classes
    (hf_folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(hf_folder / "model.safetensors")
    head = RobertaForSequenceClassification(RobertaConfig(**config)).classifier
    tensors |= {f"classifier.{name}": value for name, value in head.state_dict().items()}
    save_file(tensors, hf_folder / "model.safetensors", {"format": "pt"})
    for through in ("native", "fairseq"):
        back = convert(convert(hf_folder, through, through), "hf", f"back-{through}")
        read = RobertaForSequenceClassification.from_pretrained(back, local_files_only=True)
        assert torch.equal(read.classifier.out_proj.weight, head.out_proj.weight)
        assert read.config.num_labels == 3
        assert read.config.id2label == {0: "no", 1: "yes", 2: "maybe"}


def test_mixed_number_types_lose_nothing(hf_folder: Path, convert: Convert) -> None:
    tensors = load_file(hf_folder / "model.safetensors")
    tensors = {name: t.half() if "LayerNorm" not in name else t for name, t in tensors.items()}
    save_file(tensors, hf_folder / "model.safetensors", {"format": "pt"})
    after = load_file(convert(hf_folder, "hf", "again") / "model.safetensors")
    assert all(torch.equal(after[name], value.float()) for name, value in tensors.items())


@pytest.mark.parametrize("labels", [{"a": "x"}, {"0": 7}, ["x"], {"0": "two\nlines"}])
def test_senseless_labels_are_refused(hf_folder: Path, labels: object) -> None:
    config = json.loads((hf_folder / "config.json").read_text())
    (hf_folder / "config.json").write_text(json.dumps({**config, "id2label": labels}))
    with pytest.raises(CheckpointError, match="id2label"):
        load_model(hf_folder)


def test_a_token_classifier_of_ours_loads_in_transformers(run_folder: Path, convert: Convert) -> None:
    """What `finetune` writes: a native model with a plain linear head; fairseq has none of that kind."""
    found = load_model(run_folder)
    rest = {
        "classification_heads.classifier.weight": torch.rand(3, 24),
        "classification_heads.classifier.bias": torch.rand(3),
    }
    labels = {"id2label": {"0": "O", "1": "B", "2": "I"}, "label2id": {"O": 0, "B": 1, "I": 2}}
    save(run_folder, Checkpoint(20, {"model": found.model.state_dict(), "rest": rest}, {"facts": labels}), keep=9)
    folder = convert(run_folder, "hf")
    read = AutoModelForTokenClassification.from_pretrained(folder, local_files_only=True)
    assert torch.equal(read.classifier.weight, rest["classification_heads.classifier.weight"])
    assert read.config.id2label == {0: "O", 1: "B", 2: "I"}
    back = load_model(convert(folder, "native", "back"))
    assert torch.equal(
        back.extra_tensors["classification_heads.classifier.bias"], rest["classification_heads.classifier.bias"]
    )
    assert back.facts["id2label"] == labels["id2label"]
    with pytest.raises(MismatchError, match="no head"):
        convert(run_folder, "fairseq")


def test_a_pooler_is_kept_or_said_to_be_left_out(hf_folder: Path, convert: Convert) -> None:
    tensors = load_file(hf_folder / "model.safetensors")
    tensors["roberta.pooler.dense.weight"] = torch.rand(36, 36)
    save_file(tensors, hf_folder / "model.safetensors", {"format": "pt"})
    back = convert(convert(hf_folder, "native"), "hf", "back")
    assert torch.equal(
        load_file(back / "model.safetensors")["roberta.pooler.dense.weight"], tensors["roberta.pooler.dense.weight"]
    )
    record = json.loads((convert(hf_folder, "fairseq") / "conversion.json").read_text())
    assert record["left_out"] == ["pooler.dense.weight"]


def test_padded_rows_are_kept_or_cut(one_golden: Path, convert: Convert) -> None:
    folder = convert(one_golden, "hf")
    ids = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"].values()
    rows = load_file(folder / "model.safetensors")["roberta.embeddings.word_embeddings.weight"]
    assert len(rows) == len(ids) > 505
    assert torch.equal(rows[505], rows[3]), "a piece outside the dictionary reads as <unk>"
    assert load_model(convert(folder, "native", "kept")).config.vocab_size == len(ids)
    assert load_model(convert(folder, "native", "cut", rows="cut")).config.vocab_size == 505


def test_record_and_model_card(one_golden: Path, convert: Convert) -> None:
    folder = convert(one_golden, "hf")
    record = json.loads((folder / "conversion.json").read_text())
    assert record["source_kind"] == "fairseq"
    assert record["source_sha256"] == sha256(one_golden / "checkpoint_best.pt")
    assert record["texts"] == 100
    assert record["max_difference_logits"] <= 1e-5
    assert len(record["max_difference_hidden"]) == 4
    assert record["tokenizer_agreement"]["equal"] == record["tokenizer_agreement"]["sentences"] > 1000
    assert all(sha256(folder / name) == digest for name, digest in record["sha256"].items())
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "fill-mask"
    assert record["sha256"]["model.safetensors"] in card
    assert "| updates | 20 |" in card


def test_card_of_a_run_tells_its_training_but_no_path(run_folder: Path, convert: Convert) -> None:
    config = {"shards": "s", "steps": 10, "init": "/home/me/old", "optim": {"lr": 5e-4}, "note": "C:\\mine"}
    manifest = {"stage": "pretrain", "config": config, "counts": {}, "format": 1, "config_hash": "", "status": "done"}
    (run_folder / "manifest.json").write_text(json.dumps(manifest))
    (run_folder / "result.json").write_text(json.dumps({"loss": 2.5}))
    card = (convert(run_folder, "hf") / "README.md").read_text()
    for row in ("| stage | pretrain |", "| optim.lr | 0.0005 |", "| result: loss | 2.5 |", "| steps | 10 |"):
        assert row in card
    assert not any(path in card for path in ("/home", "C:", "| shards"))


def test_existing_target_is_refused_unless_told(hf_folder: Path, convert: Convert) -> None:
    target = convert(hf_folder, "native", "same")
    before = sha256(target / "conversion.json")
    with pytest.raises(ConfigError, match="exists"):
        convert(hf_folder, "hf", "same")
    assert sha256(target / "conversion.json") == before
    assert (convert(hf_folder, "hf", "same", override=True) / "config.json").exists()
    mine = target.parent / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("irreplaceable")
    for name in ("mine", "hf", "."):
        with pytest.raises(ConfigError):
            convert(hf_folder, "hf", name, override=True)
    assert (mine / "thesis.txt").read_text() == "irreplaceable"
    assert load_model(hf_folder).kind == "hf"


def test_models_of_other_shapes_are_not_compared(hf_folder: Path, run_folder: Path) -> None:
    with pytest.raises(MismatchError, match="num_hidden_layers"):
        differences(read_source(hf_folder), read_source(run_folder))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", "many"),
        ("hidden_size", -36),
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", True),
        ("intermediate_size", 0),
        ("max_position_embeddings", 2),
        ("hidden_dropout_prob", 7),
        ("layer_norm_eps", None),
        ("pad_token_id", 500),
        ("type_vocab_size", -1),
        ("num_attention_heads", 5),
        ("hidden_size", None),
    ],
)
def test_a_senseless_configuration_is_refused(hf_folder: Path, name: str, value: object) -> None:
    config = json.loads((hf_folder / "config.json").read_text())
    (hf_folder / "config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(CheckpointError):
        load_model(hf_folder)


@pytest.mark.parametrize(("name", "value"), [("model_type", "bart"), ("hidden_act", "relu"), ("is_decoder", True)])
def test_another_architecture_is_refused(hf_folder: Path, name: str, value: object) -> None:
    config = json.loads((hf_folder / "config.json").read_text())
    (hf_folder / "config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(CheckpointError, match=name):
        load_model(hf_folder)
