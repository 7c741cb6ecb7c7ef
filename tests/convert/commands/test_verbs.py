"""`convert`, `convert check` and `convert fill` as the user calls them; and the folder as transformers' users load it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from biomlm.convert.load import load_model
from biomlm.core.cli import run as command
from biomlm.model.packed import pack

Convert = Callable[..., Path]


def test_check_tells_equal_from_different(golden: Path, convert: Convert, capsys: pytest.CaptureFixture[str]) -> None:
    folder = convert(golden, "hf")
    assert command(["convert", "check", str(golden), str(folder)]) == 0
    assert "logits" in capsys.readouterr().out
    tensors = load_file(folder / "model.safetensors")
    tensors["roberta.encoder.layer.1.output.dense.bias"][5] += 1e-2  # one component: layer-norm removes a shift of all
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert command(["convert", "check", str(golden), str(folder)]) == 2
    assert "first in layer 2" in capsys.readouterr().err


def test_fill_writes_the_likeliest_tokens(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = "The patient was <mask> to the <mask>."
    out = tmp_path / "fills.json"
    words = ["--sentences", sentence, "It is <mask>.", "--top_k", "3", "--out", str(out)]
    assert command(["convert", "fill", str(golden), *words]) == 0
    assert sentence[:20] in capsys.readouterr().out
    written = json.loads(out.read_text())
    assert [entry["text"] for entry in written["sentences"]] == [sentence, sentence, "It is <mask>."]
    for entry in written["sentences"]:
        probabilities = [fill["probability"] for fill in entry["fills"]]
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) < 1


@pytest.mark.parametrize("words", [["--sentences", "no mask"], ["--sentences", "<mask>", "--top_k", "0"]])
def test_fill_refuses_what_it_cannot_fill(golden: Path, words: list[str]) -> None:
    assert command(["convert", "fill", str(golden), *words]) == 2


def test_fill_needs_a_tokenizer(hf_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["convert", "fill", str(hf_folder), "--sentences", "a <mask>"]) == 2
    assert "no tokenizer" in capsys.readouterr().err


# What a user with nothing but torch and transformers does. `python -I` in an empty folder with an import hook that refuses biomlm;
# docs/convert.md tells how to run it in a virtual environment that really lacks biomlm.
ALONE = """
import sys, json
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "biomlm":
            raise ImportError("biomlm is not here")
sys.meta_path.insert(0, Block())
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline
folder, out = sys.argv[1:]
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
ids = tokenizer("The patient has<mask> and fever.", return_tensors="pt")["input_ids"]
with torch.inference_mode():
    torch.save({"ids": ids, "logits": model(ids).logits}, out)
fills = pipeline("fill-mask", model=folder)("The patient has<mask> and fever.")
print(json.dumps({"fills": [f["token_str"] for f in fills], "biomlm": "biomlm" in sys.modules}))
"""


@pytest.mark.slow
def test_the_folder_loads_where_biolm_is_not(one_golden: Path, convert: Convert, tmp_path: Path) -> None:
    folder = convert(one_golden, "hf")
    out = tmp_path / "alone.pt"
    call = [sys.executable, "-I", "-c", ALONE, str(folder), str(out)]
    done = subprocess.run(call, cwd=tmp_path, env={"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["biomlm"] is False
    assert len(said["fills"]) == 5
    theirs = torch.load(out, weights_only=True)
    loaded = load_model(one_golden)
    with torch.inference_mode():
        logits = loaded.model(pack(theirs["ids"].tolist()))
    torch.testing.assert_close(theirs["logits"][0, :, : logits.shape[1]], logits, atol=1e-5, rtol=0)
    fills = tmp_path / "fills.json"
    assert (
        command(
            [
                "convert",
                "fill",
                str(one_golden),
                "--sentences",
                "The patient has <mask> and fever.",
                "--out",
                str(fills),
            ]
        )
        == 0
    )
    ours = [fill["token"] for fill in json.loads(fills.read_text())["sentences"][0]["fills"]]
    assert ours == said["fills"]


def test_a_dry_run_says_what_it_would_write_and_writes_nothing(
    omegaconf_golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    argv = ["convert", str(omegaconf_golden), str(tmp_path / "out"), "--to", "hf", "--dtype", "float16", "--dry_run"]
    assert command(argv) == 0
    said = capsys.readouterr().out
    written = load_model(omegaconf_golden)
    numbers = sum(t.numel() for t in (*written.model.state_dict().values(), *written.extra_tensors.values()))
    assert f"{numbers:,} in float16" in said
    assert "masked LM, classification_heads." in said
    assert sorted(tmp_path.rglob("*")) == before
    assert command([*argv[:4], "fairseq", "--rows", "cut", "--dry_run"]) == 0


def test_several_sources_are_converted_by_one_command(
    hf_folder: Path, one_golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["convert", str(hf_folder), str(out), "--to", "native", "--more", str(one_golden)]
    assert command(argv) == 0
    for source, name in ((hf_folder, "hf"), (one_golden, "golden")):
        assert command(["convert", "check", str(source), str(out / name)]) == 0
    capsys.readouterr()
    assert command(argv) == 2, "they exist"
    assert command(["convert", str(hf_folder), str(out / "b"), "--to", "hf", "--more", f"{hf_folder}/"]) == 2
    assert "two sources are named hf" in capsys.readouterr().err
    assert not (out / "b").exists()
