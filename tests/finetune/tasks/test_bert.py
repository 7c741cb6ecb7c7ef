"""A model of BERT's shape: its pooler is the classifier's first layer, and transformers computes the same from the converted run."""

from pathlib import Path
from typing import Any

import orjson
import pytest
import torch

from biomlm.convert.formats import native
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.load import load_model
from biomlm.core import cli
from biomlm.finetune.training import checkpoint
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.packed import Packed
from biomlm.tokenizer.formats import folder as tokenizer_folder


@pytest.fixture(scope="module")
def sentence_encoder(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without a masked-LM head and with a pooler, as sentence encoders are published."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    folder.mkdir()
    torch.manual_seed(0)
    size = tokenizer_folder.load(tiny_tokenizer).vocab_size
    config = EncoderConfig(size, 32, 2, 2, 64, max_positions=32, type_vocab_size=2, shape="bert", initializer_range=0.1)
    tensors = {name: t for name, t in MaskedLM(config).state_dict().items() if not name.startswith("head.")}
    pooler = {"pooler.dense.weight": torch.randn(32, 32) / 6, "pooler.dense.bias": torch.randn(32)}
    native.write(SourceCheckpoint("native", config, tensors, folder, pooler, has_head=False), folder, torch.float32)
    tokenizer_folder.copy(tiny_tokenizer, folder / native.TOKENIZER)
    return folder


def run(model: Path, tmp_path: Path, *more: str) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    for fold in ("train", "dev", "test"):
        rows = [{"text": f"aspirin {fold} {i}", "pair": "heart", "label": "yn"[i % 2]} for i in range(16)]
        (data / f"{fold}.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    argv = ["--model", str(model), "--task", "classification", "--data", str(data), "--columns.pair", "pair"]
    assert cli.run(["finetune", *argv, "--out", str(tmp_path / "run"), "--epochs", "1", *more]) == 0
    return tmp_path / "run"


def test_the_pretrained_pooler_is_taken_over(sentence_encoder: Path, tmp_path: Path) -> None:
    out = run(sentence_encoder, tmp_path, "--optim.lr", "1e-12")
    before, after = load_model(sentence_encoder), load_model(out)
    assert torch.allclose(
        after.extra_tensors["pooler.dense.weight"], before.extra_tensors["pooler.dense.weight"], atol=1e-6
    )
    assert not after.has_head  # what the source lacked is not made up


def test_transformers_computes_the_same(sentence_encoder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    out = run(sentence_encoder, tmp_path, "--optim.lr", "3e-3")
    assert cli.run(["convert", str(out), str(tmp_path / "hf"), "--to", "hf"]) == 0
    theirs: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    _, ours = checkpoint.read(str(out))
    ids, types = torch.tensor([0, 10, 20, 2, 30, 2]), torch.tensor([0, 0, 0, 0, 1, 1])
    with torch.no_grad():
        expected = theirs(ids[None], token_type_ids=types[None]).logits
        found = ours(Packed(ids, (6,), types), torch.tensor([0]))
    assert torch.allclose(found, expected, atol=1e-5)
    assert theirs.config.id2label == {0: "n", 1: "y"}
