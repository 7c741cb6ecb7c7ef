"""A run that starts from a model with another vocabulary."""

from pathlib import Path

import pytest

from biomlm.core import checkpoint, cli
from biomlm.core.files import read_json
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
