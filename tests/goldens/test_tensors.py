"""A checkpoint of every shape and objective has the files, and these the tensors, that it had: names, types, shapes."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from biomlm.core import cli

RECORDED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "goldens" / "tensors.json").read_text())


def listing(file: Path) -> list[str]:
    """The tensors of a file: name, type and shape."""
    with safe_open(file, "pt") as tensors:
        slices = {name: tensors.get_slice(name) for name in sorted(tensors.keys())}
        return [f"{name} {part.get_dtype()} {part.get_shape()}" for name, part in slices.items()]


@pytest.mark.parametrize("name", RECORDED["runs"])
def test_a_checkpoint_has_the_tensors_it_had(name: str, world: Path, tmp_path: Path) -> None:
    run = RECORDED["runs"][name]
    assert cli.run([*run["line"].split(), "--out", str(tmp_path / "run")]) == 0
    files = sorted((tmp_path / "run" / "checkpoints" / "step_1").glob("*.safetensors"))
    assert {file.name: listing(file) for file in files} == {
        file: RECORDED["listings"][key] for file, key in run["files"].items()
    }
