"""Files from strangers and damaged files: named, refused, nothing run, nothing written."""

import argparse
import io
import json
import os
import pickle
import resource
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from biomlm.convert.checks.numerical import Differences
from biomlm.convert.load import load_model
from biomlm.convert.safe_load import torch_file
from biomlm.convert.safe_load.unpickle import entries
from biomlm.core.cli import run as command
from biomlm.core.errors import CheckpointError, ConversionError, DataError, MismatchError, UnsafeFileError

GOLDEN = "checkpoint_best.pt"


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, function: Callable[..., Any], *args: object):
        self.reduced = (function, args)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


@pytest.fixture(params=["system", "eval", "open", "getattr"])
def evil(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Evil, Path]:
    mark = tmp_path / "executed"
    return {
        "system": ("system", Evil(os.system, f"touch {mark}"), mark),
        "eval": ("builtins.eval", Evil(eval, f"open({str(mark)!r}, 'w')"), mark),
        "open": ("open", Evil(open, str(mark), "w"), mark),
        "getattr": ("builtins.getattr", Evil(getattr, Evil(__import__, "os"), "system"), mark),
    }[request.param]


@pytest.mark.parametrize("protocol", range(6))
def test_a_raw_pickle_that_would_run_code_is_refused_by_name(
    evil: tuple[str, Evil, Path], protocol: int, tmp_path: Path
) -> None:
    name, payload, mark = evil
    file = tmp_path / "model.pt"
    file.write_bytes(pickle.dumps({"model": {"a": [payload]}}, protocol=protocol).replace(b"__builtin__", b"builtins"))
    with pytest.raises(UnsafeFileError, match=name):
        load_model(file)
    assert not mark.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_would_run_code_is_refused_by_name(
    evil: tuple[str, Evil, Path], zipped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, payload, mark = evil
    file = tmp_path / "model.pt"
    state = {"model": {"w": torch.ones(3)}, "args": argparse.Namespace(arch=payload), "extra": torch.zeros(2)}
    torch.save(state, file, pickle_protocol=2, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeFileError, match=r"builtin|posix|nt\.|io\."):
        torch_file.load(file)
    assert command(["convert", str(file), str(tmp_path / "out"), "--to", "hf"]) == 2
    assert name.rpartition(".")[2] in capsys.readouterr().err or name == "builtins.getattr"
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("inside", [b"}", b"\x8f"])
def test_a_key_nested_300_000_deep_does_not_end_the_process(tmp_path: Path, inside: bytes) -> None:
    deep = b"\x80\x04" + inside + b"(" + b")" + b"\x85" * 300_000 + (b"Nu." if inside == b"}" else b"\x90.")
    (tmp_path / "model.pt").write_bytes(deep)
    with pytest.raises(CheckpointError):
        torch_file.load(tmp_path / "model.pt")


def test_an_allowed_class_is_inert(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    torch.save({"args": argparse.Namespace(arch="roberta_base", lr=[0.1]), "sizes": torch.Size([2])}, file)
    loaded = torch_file.load(file)
    assert entries(loaded["args"]) == {"arch": "roberta_base", "lr": [0.1]}
    assert loaded["sizes"] == (2,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_equal_torchs_own_reading(tmp_path: Path, dtype: torch.dtype, zipped: bool) -> None:
    """Views, strides, shared storages, scalars and empty tensors, against torch's reader."""
    torch.manual_seed(0)
    base = (torch.rand(7, 5) * 9).to(dtype)
    state = {"base": base, "transposed": base.T, "view": base[2:4, 1:], "scalar": base[0, 0], "empty": base[:0]}
    file = tmp_path / "a.pt"
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    ours, theirs = torch_file.load(file), torch.load(file, weights_only=True)
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype
        assert torch.equal(ours[name], value)


def test_an_archive_that_climbs_links_or_bombs_is_refused(one_golden: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    link = tarfile.TarInfo("model/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    sparse = tarfile.TarInfo("model.pt")
    sparse.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "1"}
    cases = {
        "a sparse file": sparse,
        "a" * 80: tarfile.TarInfo("a" * 300),
        f"../{outside.name}": tarfile.TarInfo(f"../{outside.name}"),
        str(tmp_path): tarfile.TarInfo(str(outside)),  # a long name may be shown in part
        "is a link": link,
    }
    for said, member in cases.items():
        file = tmp_path / "a.tar.gz"
        with tarfile.open(file, "w:gz") as archive:
            archive.addfile(member, io.BytesIO(b""))
        with pytest.raises(UnsafeFileError, match=said):
            load_model(file)
        assert not outside.exists()
    with tarfile.open(file, "w:gz") as archive:
        bomb = tarfile.TarInfo("model.pt")
        bomb.size = 100 << 20
        archive.addfile(bomb, io.BufferedReader(_Zeros()))
    with pytest.raises(UnsafeFileError, match="20 times"):
        load_model(file)


class _Zeros(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        buffer[:] = bytes(len(buffer))
        return len(buffer)


@pytest.mark.parametrize("inner", ["", "RoBERTa-base-PM-M3/RoBERTa-base-PM-M3-fairseq/"])
@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_a_published_tarball_is_read_as_it_is(one_golden: Path, tmp_path: Path, inner: str, mode: str) -> None:
    file = tmp_path / "model.tar.gz"
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for path in one_golden.iterdir():
            archive.add(path, f"{inner}{path.name}")
    loaded = load_model(file)
    assert loaded.tokenizer_dir is not None
    assert loaded.source == file
    expected = load_model(one_golden).model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.model.state_dict().items())


def test_truncated_files_are_refused(one_golden: Path, hf_folder: Path, tmp_path: Path) -> None:
    legacy = tmp_path / "legacy.pt"
    torch.save(torch.load(one_golden / GOLDEN, weights_only=False), legacy, _use_new_zipfile_serialization=False)
    tarball = tmp_path / "model.tar.gz"
    with tarfile.open(tarball, "w:gz") as archive:
        archive.add(one_golden, "model")
    for file in (one_golden / GOLDEN, legacy, tarball, hf_folder / "model.safetensors"):
        whole = file.read_bytes()
        for share in (0.0, 0.01, 0.5, 0.999):
            file.write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises((CheckpointError, DataError)):
                load_model(file if file.suffix != ".safetensors" else hf_folder)


def test_a_web_page_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_text("\n<!DOCTYPE html><html>404</html>")
    with pytest.raises(CheckpointError, match="web page"):
        load_model(tmp_path / "model.pt")


@pytest.fixture
def edit(one_golden: Path) -> Callable[[Callable[[dict[str, Any]], Any]], Path]:
    """Change the golden checkpoint; its folder."""

    def change(action: Callable[[dict[str, Any]], Any]) -> Path:
        state = torch.load(one_golden / GOLDEN, weights_only=False)
        action(state)
        torch.save(state, one_golden / GOLDEN)
        return one_golden

    return change


E_ = "encoder.sentence_encoder"
BROKEN: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "missing": ("fc1.bias is missing", lambda s: s["model"].pop(f"{E_}.layers.1.fc1.bias")),
    "missing layer norm": ("layernorm_embedding", lambda s: s["model"].pop(f"{E_}.layernorm_embedding.weight")),
    "unexpected": ("adapter.weight is unexpected", lambda s: s["model"].update({"adapter.weight": torch.ones(1)})),
    "wrong shape": (r"shape \(47,\)", lambda s: s["model"].update({f"{E_}.layers.0.fc2.bias": torch.ones(47)})),
    "quantised": (
        "torch.int8",
        lambda s: s["model"].update({f"{E_}.layers.0.fc2.bias": torch.ones(48, dtype=torch.int8)}),
    ),
    "untied": ("not tied", lambda s: s["model"].update({"encoder.lm_head.weight": torch.ones(505, 48)})),
    "unused but filled": ("has values", lambda s: s["model"].update({f"{E_}.layers.0.fc1_bias": torch.ones(96)})),
    "half a final norm": (
        r"layer_norm\.bias is missing",
        lambda s: s["model"].update({f"{E_}.layer_norm.weight": torch.ones(48), f"{E_}.version": torch.ones(1) * 3}),
    ),
    "no final norm": (
        "before version 2",
        lambda s: s["model"].update(
            {
                f"{E_}.layer_norm.weight": s["model"].pop(f"{E_}.layernorm_embedding.weight"),
                f"{E_}.version": torch.ones(1),
            }
        ),
    ),
    "activation": ("activation_fn is 'relu'", lambda s: setattr(s["cfg"]["model"], "activation_fn", "relu")),
    "heads": ("how many attention heads", lambda s: delattr(s["cfg"]["model"], "encoder_attention_heads")),
    "no head": ("no masked-LM head", lambda s: s["model"].pop("encoder.lm_head.dense.weight")),
    "bart": ("not fairseq's RoBERTa", lambda s: s.update(model={"decoder.layers.0.fc1.weight": torch.ones(2, 2)})),
    "no model": ("holds no fairseq model, but args, cfg, criterion, …", lambda s: s.pop("model")),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_checkpoint_that_does_not_fit_is_refused(case: str, edit: Callable[..., Path], tmp_path: Path) -> None:
    said, action = BROKEN[case]
    folder = edit(action)
    with pytest.raises(CheckpointError, match=said):
        load_model(folder)
    assert command(["convert", str(folder), str(tmp_path / "out"), "--to", "native"]) == 2
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_transformers_cannot_read_ends_with_two(
    one_golden: Path, convert: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = convert(one_golden, "hf")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**config, "model_max_length": "long", "added_tokens_decoder": 3})
    )
    assert command(["convert", str(folder), str(tmp_path / "out"), "--to", "hf"]) == 2
    assert not (tmp_path / "out").exists()


def test_a_dictionary_of_another_size_is_refused(one_golden: Path) -> None:
    with (one_golden / "dict.txt").open("a") as file:
        file.write("madeupword0004 0\n")
    with pytest.raises(MismatchError, match="506 ids and the checkpoint has 505"):
        load_model(one_golden)


@pytest.mark.parametrize(
    "words", [["nowhere", "out", "--to", "hf"], [".", "out", "--to", "hf"], [".", "out", "--to", "onnx"]]
)
def test_wrong_paths_and_formats_end_with_two(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(["convert", *words]) == 2
    assert not list(tmp_path.iterdir())


def test_the_first_layer_that_differs_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="layer 2"):
        Differences([1e-7, 9e-6, 2e-5, 1.0], 3.0).demand(1e-5, tmp_path)
    with pytest.raises(ConversionError, match="the embeddings"):
        Differences([float("nan"), 0.0], 0.0).demand(1e-5, tmp_path)
    with pytest.raises(ConversionError, match="the head"):
        Differences([0.0, 0.0], 2e-5).demand(1e-5, tmp_path)


def test_a_source_that_computes_no_numbers_is_named_as_such(
    edit: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = edit(lambda s: s["model"][f"{E_}.layers.1.fc1.weight"].fill_(float("nan")))
    assert command(["convert", str(broken), str(tmp_path / "out"), "--to", "hf"]) == 2
    assert "NaN or infinite from layer 2 on.\nIts weights are damaged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConversionError, match="largest of all: nan"):
        Differences([float("nan"), 0.5], 0.0).demand(1e-5, tmp_path)


def test_what_is_no_source_and_no_target_is_said(
    one_golden: Path, hf_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(source: Path, target: Path) -> str:
        assert command(["convert", str(source), str(target), "--to", "hf"]) == 2
        return capsys.readouterr().err

    (tmp_path / "file").write_text("no folder")
    assert f"{tmp_path / 'file'} is a file" in said(one_golden, tmp_path / "file" / "below" / "out")
    assert f"Give the folder: {hf_folder}" in said(hf_folder / "model.safetensors", tmp_path / "out")
    shutil.copy(one_golden / GOLDEN, one_golden / "a.pt")
    (one_golden / GOLDEN).rename(one_golden / "b.pt")
    assert "2 checkpoints: a.pt, b.pt.\nGive the path" in said(one_golden, tmp_path / "out")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "no fairseq model, but a list" in said(tmp_path / "list.pt", tmp_path / "out")
    (tmp_path / "answer.pt").write_text('{"error": "not found"}')
    assert "this file is text" in said(tmp_path / "answer.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_when_the_check_fails(
    hf_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A writer with a bug (two matrices swapped in layer 1) must be caught by the check."""
    from biomlm.convert.formats import hf
    from biomlm.convert.names import hf_architectures

    names = dict(hf_architectures.ROBERTA.table.modules)
    query, key, _ = names["encoder.layers.*.attention.qkv"]
    before = hf.from_native

    def swapped(table: Any, *args: Any, **options: Any) -> Any:
        found = before(table, *args, **options)
        a, b = (name.replace("*", "1") + ".weight" for name in (query, key))
        found[a], found[b] = found[b].clone(), found[a].clone() * 2
        return found

    monkeypatch.setattr(hf, "from_native", swapped)
    assert command(["convert", str(hf_folder), str(tmp_path / "out"), "--to", "hf"]) == 2
    assert "layer 2" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("to", ["hf", "fairseq", "native"])
def test_a_write_that_fails_leaves_nothing_behind(one_golden: Path, to: str, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk."""
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    target = tmp_path / "out"
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        code = command(["convert", str(one_golden), str(target), "--to", to])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert code != 0
    assert not list(tmp_path.glob("*out*"))


def test_a_folder_without_weights_says_so(hf_folder: Path) -> None:
    (hf_folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="neither"):
        load_model(hf_folder)
    shutil.rmtree(hf_folder)
