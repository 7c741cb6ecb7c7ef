"""A run that starts from a model with another vocabulary."""

from pathlib import Path

import pytest
import torch

from biomlm.convert.load import load_model
from biomlm.core import checkpoint, cli
from biomlm.core.files import read_json, write_json
from biomlm.model.packed import pack
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.training.initial_model import initial_model
from biomlm.pretrain.training.vocabulary_match import overlap
from biomlm.tokenizer.formats import folder

SIZE = [
    "--model.size",
    "tiny",
    "--model.num_hidden_layers",
    "2",
    "--model.hidden_size",
    "32",
    "--model.num_attention_heads",
    "2",
]
SMALL = ["--batch.tokens", "256", "--batch.max_length", "32", "--seed", "1"]


@pytest.fixture(scope="module")
def other_shards(tiny_docs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same documents in a smaller vocabulary."""
    made = tmp_path_factory.mktemp("other")
    docs = ["--docs", str(tiny_docs)]
    assert cli.run(["tokenizer", "train", *docs, "--vocab_size", "285", "--out", str(made / "tokenizer")]) == 0
    encode = ["tokenizer", "encode", *docs, "--tokenizer", str(made / "tokenizer"), "--out", str(made / "shards")]
    assert cli.run(encode) == 0
    return made / "shards"


def test_overlap_copies_shared_pieces_and_spells_the_others(tiny_tokenizer: Path, other_shards: Path) -> None:
    large, small = folder.load(tiny_tokenizer), folder.load(other_shards / "tokenizer")
    down, up = overlap(large, small), overlap(small, large)
    assert down.shared.all(), "the smaller vocabulary's merges are the larger one's first"
    assert 0 < (~up.shared).sum() == large.vocab_size - small.vocab_size
    for i in range(large.vocab_size):
        spelled = "".join(small.pieces[j] for j in up.pieces[i])
        assert spelled == large.pieces[i]


@pytest.mark.parametrize("how", ["random", "mean", "focus"])
def test_a_model_moves_to_another_vocabulary(how: str, tiny_shards: Path, other_shards: Path, tmp_path: Path) -> None:
    old = ["pretrain", "--shards", str(other_shards), *SIZE, *SMALL, "--optim.lr", "3e-3", "--steps", "80"]
    assert cli.run([*old, "--out", str(tmp_path / "old")]) == 0
    move = ["pretrain", "--shards", str(tiny_shards), "--init", str(tmp_path / "old"), "--init_vocabulary", how, *SMALL]
    assert cli.run([*move, "--optim.lr", "1e-9", "--steps", "1", "--out", str(tmp_path / "new")]) == 0
    weights = checkpoint.load(checkpoint.path_of(tmp_path / "new", 1)).tensors["model"]
    assert weights["encoder.word_embeddings.weight"].shape == (300, 32)
    loss = read_json(tmp_path / "new" / "result.json")["valid"]["loss"]  # type: ignore[index]
    assert loss < 5.0 if how != "random" else loss > 3.4


def test_it_must_be_asked_for(
    tiny_shards: Path, other_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = ["pretrain", "--shards", str(other_shards), *SIZE, *SMALL, "--steps", "1", "--out", str(tmp_path / "old")]
    assert cli.run(old) == 0
    capsys.readouterr()
    new = ["pretrain", "--shards", str(tiny_shards), *SMALL, "--steps", "1", "--out", str(tmp_path / "new")]
    assert cli.run([*new, "--init", str(tmp_path / "old")]) == 2
    assert "--init_vocabulary" in capsys.readouterr().err
    assert cli.run([*new, "--init_vocabulary", "mean"]) == 2
    assert "needs a model" in capsys.readouterr().err


KINDS = {"bpe": "300", "wordpiece": "110", "sentencepiece-bpe": "110"}  # <pad> 1; [PAD] 0; <pad> 1


@pytest.fixture(scope="module")
def kinds(tiny_docs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same documents in three kinds of vocabulary."""
    base, docs = tmp_path_factory.mktemp("kinds"), ["--docs", str(tiny_docs)]
    for kind, size in KINDS.items():
        out = ["--out", str(base / kind / "tokenizer")]
        assert cli.run(["tokenizer", "train", *docs, "--kind", kind, "--vocab_size", size, *out]) == 0
        out = ["--tokenizer", str(base / kind / "tokenizer"), "--out", str(base / kind / "shards")]
        assert cli.run(["tokenizer", "encode", *docs, *out]) == 0
    return {kind: base / kind / "shards" for kind in KINDS}


@pytest.mark.parametrize("shape", ["roberta", "bert"])
@pytest.mark.parametrize(("old", "new"), [("wordpiece", "bpe"), ("bpe", "wordpiece"), ("bpe", "sentencepiece-bpe")])
def test_padding_is_the_new_vocabularys(old: str, new: str, shape: str, kinds: dict[str, Path], tmp_path: Path) -> None:
    """Every row but the new padding's has a gradient where its piece is read, and the model converts."""
    first = ["pretrain", "--shards", str(kinds[old]), "--model.shape", shape, *SIZE, *SMALL, "--steps", "1"]
    assert cli.run([*first, "--out", str(tmp_path / "old")]) == 0
    config = PretrainConfig(
        shards=str(kinds[new]),
        out="",
        init=str(tmp_path / "old"),
        init_vocabulary="mean",
        batch=BatchConfig(max_length=32),
    )
    reader = Shards([kinds[new]], "train")
    model, _ = initial_model(config, reader)
    assert model.config.pad_token_id == reader.tokenizer.ids.pad
    words = model.encoder.word_embeddings
    rows = [i for i in range(reader.vocab_size) if i != reader.tokenizer.ids.pad]
    for at in range(0, len(rows), 30):
        model.encoder(pack([rows[at : at + 30]]))[-1].square().sum().backward()
    assert words.weight.grad is not None
    assert (words.weight.grad[rows].abs().sum(1) > 0).all()

    move = ["pretrain", "--shards", str(kinds[new]), "--init", str(tmp_path / "old"), "--init_vocabulary", "mean"]
    assert cli.run([*move, *SMALL, "--steps", "1", "--out", str(tmp_path / "new")]) == 0
    assert cli.run(["convert", str(tmp_path / "new"), str(tmp_path / "hf"), "--to", "hf"]) == 0
    assert read_json(tmp_path / "hf" / "config.json")["pad_token_id"] == reader.tokenizer.ids.pad


def test_padding_of_a_model_that_was_moved_before_is_mended(kinds: dict[str, Path], tmp_path: Path) -> None:
    """A run folder with the old vocabulary's padding id: whoever starts from it trains every row, and it converts."""
    first = ["pretrain", "--shards", str(kinds["bpe"]), *SIZE, *SMALL, "--steps", "1", "--out", str(tmp_path / "old")]
    assert cli.run(first) == 0
    shape = read_json(tmp_path / "old" / "encoder.json")
    write_json(tmp_path / "old" / "encoder.json", shape | {"pad_token_id": 0})
    config = PretrainConfig(
        shards=str(kinds["bpe"]), out="", init=str(tmp_path / "old"), batch=BatchConfig(max_length=32)
    )
    model, _ = initial_model(config, Shards([kinds["bpe"]], "train"))
    assert (model.config.pad_token_id, model.encoder.word_embeddings.padding_idx) == (1, 1)
    assert cli.run(["convert", str(tmp_path / "old"), str(tmp_path / "hf"), "--to", "hf"]) == 0
    assert read_json(tmp_path / "hf" / "config.json")["pad_token_id"] == 1
    assert torch.equal(load_model(tmp_path / "hf").model.head.bias, load_model(tmp_path / "old").model.head.bias)
