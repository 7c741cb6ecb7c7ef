"""What can be wrong with shards, settings and machines ends in two lines that name it, and leaves the last checkpoint whole."""

import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from biomlm.core import checkpoint, cli
from biomlm.core.errors import ConfigError
from biomlm.core.metrics import read_metrics
from biomlm.model import device
from biomlm.model.encoder import MaskedLM
from biomlm.model.packed import Packed
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.curriculum import Curriculum
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.training.objective import LossDenominators
from biomlm.training.out_of_memory import largest

ListAnew = Callable[[Path], None]
SHAPE = ["--model.size", "tiny", "--model.num_hidden_layers", "1", "--model.hidden_size", "32"]
SHAPE += ["--model.num_attention_heads", "2"]


def argv(shards: Path, out: Path, *more: str) -> list[str]:
    size = ["--batch.tokens", "256", "--batch.max_length", "32", "--steps", "16", "--save_every", "5"]
    return ["pretrain", "--shards", str(shards), "--out", str(out), *SHAPE, *size, *more]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The last two lines of standard error."""
    lines = capsys.readouterr().err.splitlines()
    assert "Traceback" not in "".join(lines)
    return " ".join(lines[-2:])


@pytest.fixture
def shards(tiny_shards: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(tiny_shards, tmp_path / "shards")
    return tmp_path / "shards"


def test_lengths_that_disagree_with_the_tokens(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (shards / "train.bin").read_bytes()
    (shards / "train.bin").write_bytes(whole[:-20])
    assert cli.run(argv(shards, tmp_path / "run")) == 2
    assert f"train.bin: it has {len(whole) - 20} bytes, and its .idx speaks of {len(whole)}" in said(capsys)
    (shards / "train.bin").write_bytes(whole)
    index = bytearray((shards / "train.idx").read_bytes())
    index[26:30] = struct.pack("<i", 99)  # the first item's size
    (shards / "train.idx").write_bytes(bytes(index))
    assert cli.run(argv(shards, tmp_path / "run")) == 2
    assert "train.idx: its byte offsets do not follow from its sizes" in said(capsys)


def test_documents_that_disagree_with_the_lengths(
    shards: Path, list_anew: ListAnew, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(shards / "train.doc_index.npy", np.load(shards / "train.doc_index.npy")[:-1])
    assert cli.run(argv(shards, tmp_path / "run")) == 2
    assert "train.doc_index.npy: it is not what the manifest of the shards says" in said(capsys)
    list_anew(shards)
    assert cli.run(argv(shards, tmp_path / "run")) == 2
    assert "train.doc_index.npy: it does not end with the" in said(capsys)


def test_an_id_beyond_the_vocabulary(
    shards: Path, list_anew: ListAnew, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = np.memmap(shards / "train.bin", dtype=np.uint16, mode="r+")
    place = int(np.flatnonzero(tokens > 3)[100])
    tokens[place] = 999
    tokens.flush()
    list_anew(shards)
    assert cli.run(argv(shards, tmp_path / "run", "--steps", "200")) == 2
    assert f"train.bin (token {place}): id 999 is beyond the vocabulary of 300" in said(capsys)


def test_a_source_that_is_not_there(tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mix = ["--mix.weights", '{"text": 1, "notes": 1}']
    assert cli.run(argv(tiny_shards, tmp_path / "run", *mix)) == 2
    assert "there is no source notes. The shards hold text" in said(capsys)


def test_sequences_longer_than_the_models_positions(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(argv(tiny_shards, tmp_path / "short", "--steps", "1")) == 0
    capsys.readouterr()
    longer = ["--init", str(tmp_path / "short"), "--batch.max_length", "64"]
    assert cli.run(argv(tiny_shards, tmp_path / "run", *longer)) == 2
    assert "the model has 32 positions, sequences up to 64 tokens. Give --batch.max_length 32" in said(capsys)


def test_a_precision_that_the_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla V100")
    with pytest.raises(ConfigError, match="V100 has no bf16"):
        device.choose("bf16")


def test_a_loss_that_is_not_finite_names_its_step_and_batch(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: PretrainObjective, model: MaskedLM, batch: Batch, totals: LossDenominators) -> dict[str, Tensor]:
        terms = plain(self, model, batch, totals)
        return {**terms, "loss": terms["loss"] * (float("nan") if (batch.epoch, batch.index) == (0, 27) else 1)}

    plain = PretrainObjective.forward
    monkeypatch.setattr(PretrainObjective, "forward", forward)
    assert cli.run(argv(tiny_shards, tmp_path / "run", "--batch.accumulation", "2")) == 0
    events = [record for record in read_metrics(tmp_path / "run") if record["split"] == "guard"]
    assert [event["step"] for event in events] == [14]
    words = "the loss is not finite (micro-batch 26 of epoch 0, micro-batch 27 of epoch 0): this step is left out"
    assert events[0]["event"] == words
    kept = checkpoint.load(checkpoint.path_of(tmp_path / "run", 16)).tensors["model"]
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values())


def test_out_of_memory_names_the_largest_micro_batch_that_fits(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forward(self: PretrainObjective, model: MaskedLM, batch: Batch, totals: LossDenominators) -> dict[str, Tensor]:
        if batch.step >= 12 and len(batch.packed.input_ids_t) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return plain(self, model, batch, totals)

    plain, limit = PretrainObjective.forward, 170
    monkeypatch.setattr(PretrainObjective, "forward", forward)
    run = tmp_path / "run"
    assert cli.run(argv(tiny_shards, run)) == 2
    message = said(capsys)
    assert "(micro-batch 12 of epoch 0); the largest that fits has about 1" in message
    fitting = int(message.split("has about ")[1].split(".")[0])
    assert limit - 2 * 32 <= fitting <= limit
    assert f"Give --batch.tokens {fitting - 32} --batch.accumulation {-(-256 // (fitting - 32))}:" in message
    assert checkpoint.steps(run) == [5, 10]
    checkpoint.load(checkpoint.path_of(run, 10))
    monkeypatch.undo()
    assert cli.run(argv(tiny_shards, run)) == 0, "the same command goes on where there is more memory"


def batch(lengths: list[int]) -> Batch:
    tokens = sum(lengths)
    positions = torch.arange(1, tokens, 3)
    packed = Packed(torch.arange(tokens), tuple(lengths), torch.zeros(tokens, dtype=torch.int64))
    return Batch(packed, positions, positions * 2, places_m=positions.numpy(), pair_labels_b=torch.arange(len(lengths)))


def test_a_cut_batch_keeps_what_belongs_to_its_sequences() -> None:
    part = batch([5, 7, 4, 9]).first(2)
    assert part.packed.lengths == (5, 7)
    assert part.positions_m.tolist() == [1, 4, 7, 10]
    assert part.labels_m.tolist() == [2, 8, 14, 20]
    assert part.places_m is not None
    assert part.places_m.tolist() == [1, 4, 7, 10]
    assert part.pair_labels_b is not None
    assert part.pair_labels_b.tolist() == [0, 1]


@pytest.mark.parametrize("limit", [0, 9, 10, 333, 640])
def test_the_largest_run_that_fits_is_found_by_few_trials(limit: int) -> None:
    tried: list[int] = []

    def fits(part: Batch) -> bool:
        tried.append(len(part.packed.input_ids_t))
        return tried[-1] <= limit

    found = largest(batch([10] * 64), fits)
    assert limit - 50 < found <= limit or found == limit // 10 * 10
    assert len(tried) <= 6


def test_where_nothing_fits_another_remedy_is_given(tiny_shards: Path) -> None:
    config = PretrainConfig(shards=str(tiny_shards), out="run", batch=BatchConfig(tokens=640, max_length=32))
    batches = Curriculum(Shards(config.folders, "train"), config, False)
    for fitting in (0, 40):
        assert "smaller --model.size" in batches.smaller(0, fitting)
    assert "--batch.tokens 288 --batch.accumulation 3" in batches.smaller(0, 320)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_the_hosts_memory_running_out_is_told_apart(tmp_path: Path) -> None:
    code = """
import resource, torch
from biomlm.training.out_of_memory import is_out_of_memory
torch.ones(10)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), -1))
try:
    torch.ones(1 << 30)
except (RuntimeError, MemoryError) as error:
    print(is_out_of_memory(error), is_out_of_memory(RuntimeError("shapes differ")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["True", "False"]
