"""Google's BERT from TensorFlow, without TensorFlow: against values taken from the data file by hand."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from biomlm.convert.formats import tensorflow
from biomlm.convert.load import load_model
from biomlm.core.errors import CheckpointError, DataError, UserError
from biomlm.tokenizer.formats import bert, vocab_txt

DATA = Path(__file__).parents[2] / "data" / "convert" / "tf"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA, tmp_path / "bert"))


def test_values_equal_the_data_file_read_in_order(folder: Path) -> None:
    """TensorFlow wrote end to end, in order of names, each tensor and its two of Adam, then the step: no index is needed."""
    found = tensorflow.load(folder / "bert_model.ckpt.index")
    values = np.fromfile(folder / "bert_model.ckpt.data-00000-of-00001", "<f4")
    place = 0
    for name in sorted(found):
        tensor = found[name]
        shape = tuple(reversed(tensor.shape)) if name.endswith("/kernel") else tuple(tensor.shape)
        size = tensor.numel()
        expected = values[place : place + size].reshape(shape)
        assert np.array_equal(tensor.numpy(), expected.T if name.endswith("/kernel") else expected)
        place += 3 * size
    assert place == len(values) - 2


def test_it_becomes_a_hugging_face_bert_with_every_head(folder: Path, convert: Callable[..., Path]) -> None:
    variables = tensorflow.load(folder / "bert_model.ckpt.index")
    target = convert(folder, "hf")
    model = transformers.BertForPreTraining.from_pretrained(target, local_files_only=True)
    layer = model.bert.encoder.layer[1]
    prefix = "bert/encoder/layer_1"
    pairs = {
        f"{prefix}/attention/self/query/kernel": layer.attention.self.query.weight,
        f"{prefix}/intermediate/dense/kernel": layer.intermediate.dense.weight,
        f"{prefix}/output/LayerNorm/gamma": layer.output.LayerNorm.weight,
        "bert/pooler/dense/kernel": model.bert.pooler.dense.weight,
        "cls/predictions/transform/dense/kernel": model.cls.predictions.transform.dense.weight,
        "cls/predictions/output_bias": model.cls.predictions.bias,
        "cls/seq_relationship/output_weights": model.cls.seq_relationship.weight,
    }
    for name, tensor in pairs.items():
        assert torch.equal(variables[name], tensor), name
    tokenizer = transformers.AutoTokenizer.from_pretrained(target, local_files_only=True)
    assert tokenizer("All WORK")["input_ids"] == [2, 5, 6, 3]
    assert tokenizer.model_max_length == 16


@pytest.mark.parametrize(
    "names",
    [(b"BERTAdam", b"BERTAdam_1"), (b"AdamWeightDecayOptimizer/m", b"AdamWeightDecayOptimizer/v"), (b"LAMB_m", b"x")],
)
def test_an_optimisers_variables_have_any_name(
    names: tuple[bytes, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, table = load_model(folder), tensorflow._table

    def renamed(content: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key, value in table(content):
            yield key.replace(b"adam_m", names[0]).replace(b"adam_v", names[1]).replace(b"global", b"my"), value

    monkeypatch.setattr(tensorflow, "_table", renamed)
    after = load_model(folder)
    assert before.extra_tensors.keys() == after.extra_tensors.keys()
    assert all(torch.equal(a, b) for a, b in zip(before.model.parameters(), after.model.parameters(), strict=True))


def test_one_of_several_is_named_by_a_file_or_by_what_its_files_begin_with(folder: Path) -> None:
    before = load_model(folder)
    for path in list(folder.glob("bert_model.ckpt.*")):
        shutil.copy(path, folder / path.name.replace("bert_model.ckpt", "model.ckpt-100"))
    with pytest.raises(DataError, match="no model of a known kind"):
        load_model(folder)
    for name in ("model.ckpt-100", "model.ckpt-100.index", "bert_model.ckpt.data-00000-of-00001"):
        after = load_model(folder / name)
        assert all(torch.equal(a, b) for a, b in zip(before.model.parameters(), after.model.parameters(), strict=True))
        assert after.tokenizer_dir
    with pytest.raises(DataError, match="no such file"):
        load_model(folder / "model.ckpt-200")


def test_damaged_and_incomplete_checkpoints_are_refused(folder: Path) -> None:
    index, data = folder / "bert_model.ckpt.index", folder / "bert_model.ckpt.data-00000-of-00001"
    whole = index.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2] + whole[-48:], b"<html>" + whole[6:-8] + b"</html>"):
        index.write_bytes(content)
        with pytest.raises(CheckpointError):
            load_model(folder)
    index.write_bytes(whole)
    data.write_bytes(data.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="TensorFlow"):
        load_model(folder)
    data.unlink()
    with pytest.raises(CheckpointError):
        load_model(folder)


def test_mutated_indexes_never_crash(folder: Path) -> None:
    index = folder / "bert_model.ckpt.index"
    whole = index.read_bytes()
    source = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        changed = bytearray(whole)
        for place in source.integers(0, len(whole), source.integers(1, 20)):
            changed[place] = source.integers(0, 256)
        index.write_bytes(changed)
        try:
            load_model(folder)
        except UserError:
            refused += 1
    assert refused > 200


def test_casing_follows_the_vocabulary_unless_stated(tmp_path: Path) -> None:
    specials = [*bert.SPECIALS]
    cases: list[tuple[list[str], bool | None, list[int]]] = [
        (["fever", "Fever"], None, [6]),
        (["fever", "##s"], None, [5]),
        (["fever", "Fever"], True, [5]),
    ]
    for words, lower, expected in cases:
        (tmp_path / "vocab.txt").write_text("\n".join([*specials, *words]) + "\n")
        settings = {} if lower is None else {"do_lower_case": lower}
        loaded = vocab_txt.write_folder(tmp_path / "vocab.txt", tmp_path / "tok", settings=settings)
        assert loaded.encode("Fever") == expected
    (tmp_path / "vocab.txt").write_text("fever\n")
    with pytest.raises(DataError, match="lacks"):
        vocab_txt.write_folder(tmp_path / "vocab.txt", tmp_path / "tok")
