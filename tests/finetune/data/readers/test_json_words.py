"""Words and tags as JSON, as EMBO's SourceData sets have them, with one set of tags or several."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from biomlm.core import cli
from biomlm.core.errors import DataError
from biomlm.finetune.data.iob_tags import Span
from biomlm.finetune.data.readers.json_words import read_words

ROW = {
    "words": ["Knock", "-", "down", "of", "p53"],
    "label_ids": {
        "entity_types": ["O", "O", "O", "O", "B-GENEPROD"],
        "geneprod_roles": ["O", "O", "O", "O", "B-CONTROLLED_VAR"],
    },
}
PLAIN = {"tokens": ["a", "b", "c"], "ner_tags": ["B-X", "E-X", "S-Y"]}


def written(folder: Path, *rows: Any, name: str = "train.jsonl") -> Path:
    path = folder / name
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return path


def test_one_set_of_several_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, ROW, ROW)
    for name, kind in (("entity_types", "GENEPROD"), ("geneprod_roles", "CONTROLLED_VAR")):
        first, second = read_words(path, "train", name)
        assert (first.id, second.id, second.line) == ("train:1", "train:2", 2)
        assert first.text == "Knock - down of p53"
        assert first.characters(first.spans) == [Span(16, 19, kind)]


@pytest.mark.parametrize("rows", [(PLAIN,), ([PLAIN],), ({**PLAIN, "label_ids": None},), ({**PLAIN, "id": 1},)])
def test_the_only_set_needs_no_name(rows: tuple[Any], tmp_path: Path) -> None:
    (record,) = read_words(written(tmp_path, *rows, name="train.json"), "train")
    assert record.tags == ("B-X", "I-X", "B-Y")


@pytest.mark.parametrize(
    ("row", "name", "message"),
    [
        (ROW, "", "several sets of tags.\nName one of these by --columns.label: entity_types, geneprod_roles"),
        (ROW, "panels", "no set of tags panels"),
        ({**PLAIN, "ner_tags": [0, 1, 2]}, "", "a word or tag is no string"),
        ({**PLAIN, "ner_tags": ["O"]}, "", "as many tags"),
        ({"tokens": ["a"]}, "", "as many tags"),
        ({"ner_tags": ["O"]}, "", "as many tags"),
        ({"tokens": ["", "b"], "ner_tags": ["O", "O"]}, "", "word or its tag is missing"),
        ([3], "", "no JSON object"),
    ],
)
def test_what_is_not_whole_is_named_by_its_line(row: Any, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_words(written(tmp_path, row), "train", name)
    assert message in str(caught.value)
    assert "line 1" in str(caught.value)


def test_a_folder_of_them_is_trained_on(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "sourcedata"
    data.mkdir()
    for fold, count in (("train", 12), ("eval", 4), ("test", 4)):
        rows = [{**ROW, "words": [*ROW["words"][:4], f"{fold}{i}"]} for i in range(count)]
        written(data, *rows, name=f"{fold}.jsonl")
    argv = ["finetune", "--model", str(tiny_model), "--task", "ner", "--data", str(data), "--epochs", "1"]
    assert cli.run([*argv, "--out", str(tmp_path / "out")]) == 2
    assert "several sets of tags" in capsys.readouterr().err
    assert cli.run([*argv, "--out", str(tmp_path / "out"), "--columns.label", "geneprod_roles"]) == 0
    (data / "train.jsonl").rename(data / "train.tsv")
    assert cli.run([*argv, "--out", str(tmp_path / "more"), "--columns.text", "words"]) == 2
    assert "--columns.text has no effect here: it needs --task classification, relation" in capsys.readouterr().err
