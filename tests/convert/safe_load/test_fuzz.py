"""Checkpoints with bytes changed at random: a result that passed its check, or nothing at all; never a run of code, never a crash."""

import gzip
import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import transformers

from biomlm.convert.formats import fairseq
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM

Fuzz = Callable[..., int]
DATA = Path(__file__).parents[2] / "data" / "convert"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """fairseq's format, 12 kB."""
    torch.manual_seed(0)
    config = EncoderConfig(40, 8, 2, 2, 12, max_positions=9)
    fairseq.write(SourceCheckpoint("native", config, MaskedLM(config).state_dict(), tmp_path), tmp_path, torch.float32)
    return tmp_path / "model.pt"


def program_of(file: Path) -> range:
    """Where in a zip of `torch.save` the pickle lies."""
    with zipfile.ZipFile(file) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith("data.pkl"))
    return range(info.header_offset + 64, info.header_offset + 64 + info.file_size)


@pytest.mark.parametrize(("where", "count"), [("program", 150), ("anywhere", 150)])
def test_zip(where: str, count: int, checkpoint: Path, fuzz: Fuzz) -> None:
    refused = fuzz(checkpoint, checkpoint, count, program_of(checkpoint) if where == "program" else ())
    assert count // 2 < refused <= count


def test_zip_with_a_valid_checksum(checkpoint: Path, fuzz: Fuzz) -> None:
    """The zip's checksum hides most changes of the program; here it is right."""
    with zipfile.ZipFile(checkpoint) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    program = next(name for name in members if name.endswith("data.pkl"))

    def zipped(changed: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, content in (members | {program: changed}).items():
                archive.writestr(name, content)
        return file.getvalue()

    assert 75 < fuzz(checkpoint, checkpoint, 200, content=members[program], wrap=zipped) < 200


def test_legacy(checkpoint: Path, fuzz: Fuzz) -> None:
    state = torch.load(checkpoint, weights_only=False)
    torch.save(state, checkpoint, _use_new_zipfile_serialization=False)
    assert 75 < fuzz(checkpoint, checkpoint, 150, range(6000)) < 150


@pytest.mark.parametrize("packed", [gzip.compress, bytes])
def test_archive(packed: Callable[[bytes], bytes], checkpoint: Path, tmp_path: Path, fuzz: Fuzz) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(checkpoint, "model/model.pt")
    file = tmp_path / "model.tar.gz"
    assert 20 < fuzz(file, file, 75, range(1024), content.getvalue(), packed) < 75


@pytest.mark.parametrize(("name", "places"), [("model.safetensors", ()), ("config.json", range(400))])
def test_hugging_face(name: str, places: Sequence[int], tmp_path: Path, fuzz: Fuzz) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=12, max_position_embeddings=9)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    assert 15 < fuzz(tmp_path / "bert", tmp_path / "bert" / name, 75, places) < 75


@pytest.mark.parametrize(("end", "count"), [(".index", 60), (".data-00000-of-00001", 15), ("config.json", 30)])
def test_tensorflow(end: str, count: int, tmp_path: Path, fuzz: Fuzz) -> None:
    folder = Path(shutil.copytree(DATA / "tf", tmp_path / "bert"))
    assert 1 <= fuzz(folder, next(folder.glob(f"*{end}")), count) <= count
