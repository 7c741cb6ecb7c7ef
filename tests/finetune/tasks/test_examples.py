"""The examples that `--help` shows are commands that work."""

import shlex
import shutil
from pathlib import Path

import orjson
import pytest

from biomlm.core import cli
from biomlm.core.files import read_json
from biomlm.core.verbs import VERBS


def test_every_example_works_where_its_files_are(
    tiny_model: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(example: str) -> None:
        name, *argv = shlex.split(example)
        assert name == "biomlm"
        assert cli.run(argv) == 0, capsys.readouterr().err

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/demo").mkdir(parents=True)
    shutil.copytree(tiny_model, "runs/demo/student")
    shutil.copytree(toy, "NCBI-disease-IOB")
    Path("notes.jsonl").write_bytes(b"".join(orjson.dumps({"id": i, "text": "aspirin"}) + b"\n" for i in range(3)))
    (tmp_path / "questions").mkdir()
    for fold in ("train", "dev", "test"):
        rows = [{"text": f"aspirin {fold} {i}", "label": "yn"[i % 2]} for i in range(8)]
        (tmp_path / f"questions/{fold}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    work(VERBS["finetune"].example)
    fold = capsys.readouterr().out.splitlines()[1]
    assert fold.split()[:2] == ["dev", "30"]  # the number of records comes first
    work(VERBS["finetune predict"].example)
    lines = Path("entities.jsonl").read_bytes().splitlines()
    assert [orjson.loads(line)["id"] for line in lines] == ["0", "1", "2"]
    for name in ("before", "after"):
        shutil.copytree("runs/ncbi", f"runs/{name}")
    work(VERBS["finetune compare"].example)
    assert Path("compared.html").read_text().startswith("<!doctype html>")
    work(f"{VERBS['finetune'].example} --task classification --data questions --out runs/pubmedqa")
    assert read_json("runs/pubmedqa/scores.json")["metric"] == "accuracy"
    work(VERBS["finetune blurb"].example)
    assert "not all data sets are there" in capsys.readouterr().out
