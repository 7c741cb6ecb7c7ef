"""Models to convert: the golden fairseq checkpoints with their files beside them, and a random Hugging Face RoBERTa."""

import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import transformers

from biomlm.convert.commands.convert import run
from biomlm.convert.config import ConvertConfig
from biomlm.convert.load import load_model
from biomlm.convert.safe_load import archive
from biomlm.core.errors import UserError

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
        return {**loaded.model.state_dict(), **loaded.extra_tensors}

    return read


FORBIDDEN = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "pickle.find_class",
    "socket.connect",
}
watched: list[list[str]] = []  # empty while nobody watches


def watch(event: str, _: object) -> None:
    """Note what a program in a checkpoint would do; Python never lets go of such a hook, so it has a switch."""
    if watched and event in FORBIDDEN:
        watched[-1].append(event)


sys.addaudithook(watch)


@pytest.fixture
def fuzz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Convert a model many times, each time with bytes of one of its files changed or its end cut off; how many were refused.

    Each time there is either a result whose check passed, or nothing: no folder, no file beside it, and in the end no scratch folder.
    """
    scratch, place = tmp_path / "scratch", tmp_path / "place"
    scratch.mkdir()
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the disk is not what is tested

    def call(
        source: Path,
        file: Path,
        count: int,
        places: Sequence[int] = (),
        content: bytes = b"",
        wrap: Callable[[bytes], bytes] = bytes,
    ) -> int:
        draw, content, refused, before = random.Random(8), content or file.read_bytes(), 0, len(archive._scratch)
        watched.append([])
        for i in range(count):
            changed = bytearray(content)
            for _ in range(draw.choice((1, 3, 30))):
                changed[draw.choice(places or range(len(content)))] = draw.randrange(256)
            file.write_bytes(wrap(bytes(changed[: draw.randrange(len(changed))] if i % 10 == 9 else changed)))
            try:
                run(ConvertConfig(str(source), str(place / "out"), "native"))
            except UserError:
                refused += 1
            else:
                record = json.loads((place / "out" / "conversion.json").read_text())
                assert record["texts"] == 100
                differences = [*record["max_difference_hidden"], record["max_difference_logits"] or 0.0]
                assert all(value <= record["tolerance"] for value in differences)
                shutil.rmtree(place / "out")
            assert not list(place.iterdir())
        assert watched.pop() == []
        for folder in archive._scratch[before:]:
            folder.cleanup()
        del archive._scratch[before:]
        assert not list(scratch.iterdir())
        return refused

    return call
