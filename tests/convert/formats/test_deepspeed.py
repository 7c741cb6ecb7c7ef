"""ZeRO folders that DeepSpeed wrote, against what its own script puts together."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from biomlm.convert.commands.check import differences
from biomlm.convert.formats.deepspeed import master_weights
from biomlm.convert.load import load_model, read_source
from biomlm.core.errors import CheckpointError

ZERO = Path(__file__).parents[2] / "data" / "convert" / "zero"
FOLDERS = ("z1-fp32-native", "z2-bf16-hf", "z3-bf16-native")


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ZERO / request.param, tmp_path / request.param))


def test_master_weights_equal_deepspeeds_own(folder: Path) -> None:
    ours, theirs = master_weights(folder / "global_step3"), load_file(folder / "fp32.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_zero_folder_is_a_model(folder: Path, convert: Callable[..., Path]) -> None:
    loaded = load_model(folder)
    assert loaded.config.num_hidden_layers == 2
    assert all(parameter.dtype == torch.float32 for parameter in loaded.model.parameters())
    assert torch.equal(load_model(folder / "global_step3").model.head.bias, loaded.model.head.bias)
    for to in ("native", "hf"):
        assert differences(read_source(folder), read_source(convert(folder, to, to))).first_above(1e-5) is None


def test_an_incomplete_zero_folder_is_refused(folder: Path) -> None:
    lost = next((folder / "global_step3").glob("*rank_1*optim_states.pt"))
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(CheckpointError, match="1 of 2 ranks"):
        load_model(folder)
    lost.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="not a whole"):
        load_model(folder)
    shutil.copy(next(ZERO.glob("z1*/global_step3/*rank_1*optim_states.pt")), lost)
    if folder.name != FOLDERS[0]:
        with pytest.raises(CheckpointError):
            load_model(folder)


def test_a_zero_folder_needs_the_models_shape(folder: Path) -> None:
    for name in ("config.json", "encoder.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="shape"):
        load_model(folder)
