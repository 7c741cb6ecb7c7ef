"""A finished run whose model was emptied behind its back is not called done."""

from pathlib import Path

import pytest

from biomlm.core import cli


def test_a_finished_run_without_its_model_is_refused(
    tiny_model: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--model", str(tiny_model), "--task", "ner", "--data", str(toy), "--out", str(tmp_path / "run")]
    argv = ["finetune", *where, "--epochs", "1", "--batch.size", "8"]
    assert cli.run(argv) == 0
    assert cli.run(argv) == 0
    file = max((tmp_path / "run").rglob("model.safetensors"))
    file.write_bytes(b"")
    capsys.readouterr()
    assert cli.run(argv) == 2
    assert "model.safetensors: it is not what the finished stage wrote" in capsys.readouterr().err
