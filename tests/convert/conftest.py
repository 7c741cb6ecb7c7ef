"""Models to convert: the golden fairseq checkpoints with their files beside them, and a random Hugging Face RoBERTa."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from biolm.convert.load import load_model
from biolm.convert.verb import ConvertConfig, run

DATA = Path(__file__).parent.parent / "data" / "convert"
GOLDENS = ("fairseq-0.12.2", "fairseq-fixed-0.12.3.1")

transformers.utils.logging.disable_progress_bar()


@pytest.fixture(params=GOLDENS)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder as published: the checkpoint, its dictionary and its BPE side by side."""
    return place_golden(request.param, tmp_path / "golden")


@pytest.fixture
def one_golden(tmp_path: Path) -> Path:
    """The fork's golden, which has no unused tensors."""
    return place_golden(GOLDENS[1], tmp_path / "golden")


def place_golden(name: str, folder: Path) -> Path:
    """Copy a golden checkpoint, its dictionary and its BPE into a folder, and its expected values beside it."""
    folder.mkdir()
    for file in [DATA / name / "checkpoint_best.pt", *(DATA / "bpe").iterdir()]:
        shutil.copy(file, folder)
    shutil.copy(DATA / name / "logits.npz", folder.parent)
    return folder


@pytest.fixture
def omegaconf_golden(tmp_path: Path) -> Path:
    """Settings in omegaconf's classes, a classification head, 111 kB."""
    return place_golden("omegaconf", tmp_path / "golden")


@pytest.fixture
def prenorm_golden(tmp_path: Path) -> Path:
    """fairseq's prenorm RoBERTa, 108 kB."""
    return place_golden("prenorm", tmp_path / "golden")


@pytest.fixture
def hf_model() -> transformers.RobertaForMaskedLM:
    """A random RoBERTa of odd sizes, with weights large enough that a swapped layer shows."""
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=101,
        hidden_size=36,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=52,
        max_position_embeddings=35,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    model = transformers.RobertaForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15)
    return model


@pytest.fixture
def hf_folder(hf_model: transformers.RobertaForMaskedLM, tmp_path: Path) -> Path:
    """The same, saved by transformers, without a tokenizer."""
    hf_model.save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., Path]:
    """Run the verb; the folder that it wrote."""

    def call(source: Path, to: str, name: str = "", **options: object) -> Path:
        target = tmp_path / (name or f"{source.name}-{to}")
        run(ConvertConfig(src=str(source), dst=str(target), to=to, **options))  # type: ignore[arg-type]
        return target

    return call


@pytest.fixture
def tensors() -> Callable[[Path], dict[str, torch.Tensor]]:
    """Every tensor of a model under native names, what is carried along included."""

    def read(path: Path) -> dict[str, torch.Tensor]:
        loaded = load_model(path)
        return {**loaded.model.state_dict(), **loaded.rest}

    return read
