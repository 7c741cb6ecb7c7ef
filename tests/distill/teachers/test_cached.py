"""The cache: what it holds is what the teacher says, cached and online training agree, and a cache of anything else is refused."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biomlm.core import cli
from biomlm.core.errors import DataError
from biomlm.core.files import read_json, sha256
from biomlm.core.metrics import read_metrics
from biomlm.distill.losses.targets import Sampled, Top, sample, top
from biomlm.distill.teachers import cache_blocks
from biomlm.distill.teachers.cached import CachedTeachers, EncodedOutputs, block_file, read_index, write_blocks

Without = Callable[[list[str], str], list[str]]

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run_words(distill_words: list[str]) -> list[str]:
    """What fixes the micro-batches, for `distill` and `distill cache` alike; fp32, so that nothing but the cache rounds."""
    return [*(word for word in distill_words), "--steps", "20", "--precision", "fp32"]


@pytest.fixture(scope="module")
def ask(run_words: list[str], teacher_run: Path) -> list[str]:
    words = ["distill", "cache", *run_words, "--teacher", str(teacher_run)]
    at = words.index("--optim.lr")
    return words[:at] + words[at + 2 :]


@pytest.fixture(scope="module")
def caches(ask: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three caches: everything, 64 samples, and hidden states."""
    folder = tmp_path_factory.mktemp("caches")
    assert cli.run([*ask, "--kind", "top", "--k", "300", "--hidden", "2", "--out", str(folder / "whole")]) == 0
    assert cli.run([*ask, "--k", "64", "--out", str(folder / "sample")]) == 0
    assert cli.run([*ask, "--k", "16", "--kind", "top", "--out", str(folder / "top")]) == 0
    return folder


def losses(run: Path, name: str) -> list[float]:
    return [r[name] for r in read_metrics(run) if r["split"] == "train"]


@pytest.fixture(scope="module")
def online(
    run_words: list[str], student_words: list[str], teacher_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run = tmp_path_factory.mktemp("online") / "run"
    words = ["distill", *run_words, *student_words, "--log_every", "1", "--teacher", str(teacher_run)]
    assert cli.run([*words, "--out", str(run)]) == 0
    return run


@pytest.fixture
def cached(run_words: list[str], student_words: list[str]) -> list[str]:
    return ["distill", *run_words, *student_words, "--log_every", "1"]


def test_everything_cached_trains_as_online_within_rounding(
    caches: Path, online: Path, cached: list[str], tmp_path: Path
) -> None:
    """All probabilities and the hidden states in 16 bits, without a teacher present: every loss of 20 steps agrees to 0.1%."""
    assert cli.run([*cached, "--cache", str(caches / "whole"), "--out", str(tmp_path / "run")]) == 0
    for name in ("kl", "hidden", "mlm", "loss"):
        np.testing.assert_allclose(losses(tmp_path / "run", name), losses(online, name), rtol=1e-3)


def test_sampled_training_stays_within_its_sampling_error(
    caches: Path, online: Path, cached: list[str], teacher_run: Path, tmp_path: Path
) -> None:
    """KL of 64 draws a position: the error of a step's mean over m positions is at most 4 × sd / √m of the draws' own spread."""
    words = [*cached, "--cache", str(caches / "sample"), "--loss.hidden", "0", "--teacher", str(teacher_run)]
    assert cli.run([*words, "--out", str(tmp_path / "run")]) == 0
    exact_run = [*cached, "--loss.hidden", "0", "--teacher", str(teacher_run), "--out", str(tmp_path / "exact")]
    assert cli.run(exact_run) == 0
    exact, drawn = np.array(losses(tmp_path / "exact", "kl")), np.array(losses(tmp_path / "run", "kl"))
    # A draw's cross-entropy has a spread of about 2 nats here; of 64 draws at 38 positions, × T², the mean's is 4 × 2 / √(64 × 38).
    error = 4 * 2 / np.sqrt(64 * 38)
    assert np.abs(drawn - exact).max() < 4 * error
    assert abs((drawn - exact).mean()) < 4 * error / np.sqrt(len(exact))
    np.testing.assert_allclose(losses(tmp_path / "run", "mlm"), losses(tmp_path / "exact", "mlm"), rtol=0.02)


def test_several_processes_write_the_same_bytes(caches: Path, ask: list[str], tmp_path: Path) -> None:
    words = [*ask, "--kind", "top", "--k", "16", "--workers", "2", "--out", str(tmp_path / "cache")]
    assert cli.run(words) == 0
    for number in range(2):
        assert sha256(block_file(tmp_path / "cache", number)) == sha256(block_file(caches / "top", number))


def test_another_question_asked_in_the_same_folder_keeps_no_earlier_answer(ask: list[str], tmp_path: Path) -> None:
    """--override with another temperature: the bytes are those of a new cache."""
    short = [*ask[: ask.index("--steps")], "--steps", "3", *ask[ask.index("--steps") + 2 :]]
    for folder, temperature in (("same", "1.0"), ("same", "3.0"), ("new", "3.0")):
        words = [*short, "--temperature", temperature, "--override", "--out", str(tmp_path / folder)]
        assert cli.run(words) == 0
    assert sha256(block_file(tmp_path / "same", 0)) == sha256(block_file(tmp_path / "new", 0))


def test_a_killed_writer_goes_on(
    caches: Path, ask: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9 once the first file stands; the same command ends with the same manifest."""
    out = tmp_path / "cache"
    words = [*ask, "--kind", "top", "--k", "16", "--out", str(out)]
    code = f"from biomlm.core.cli import main; main({words!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    for _ in range(600):
        if block_file(out, 0).exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert block_file(out, 0).exists()
    written = block_file(out, 0).stat().st_mtime_ns
    block_file(out, 1).unlink(missing_ok=True)
    manifest = out / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"done"', '"running"'))
    capsys.readouterr()
    assert cli.run(words) == 0
    assert block_file(out, 0).stat().st_mtime_ns == written
    ours, theirs = read_json(manifest), read_json(caches / "top" / "manifest.json")
    assert (ours["outputs"], ours["counts"], ours["status"]) == (theirs["outputs"], theirs["counts"], "done")
    assert "bytes a token" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "2"], "the cache was made with seed 1, this run has 2"),
        (["--mlm.mask_rate", "0.3"], "the cache was made with mlm.mask_rate 0.15, this run has 0.3"),
        (["--batch.tokens", "512"], "the cache was made with batch.tokens 256, this run has 512"),
        (["--loss.temperature", "1"], "the cache was made with temperature 2.0, this run has 1.0"),
        (["--steps", "21"], "the cache holds 20 steps, this run has 21"),
        (
            ["--loss.hidden", "1"],
            "the loss asks for hidden states of layer 2 of teacher 1, the cache keeps predictions",
        ),
        (["--loss.layers", "1:3"], "the student has 1 layers and the teacher 2"),
    ],
)
def test_a_cache_of_another_run_is_refused(
    words: list[str], said: str, caches: Path, cached: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = (
        [] if any(word.startswith(("--loss.hidden", "--loss.layers")) for word in words) else ["--loss.hidden", "0"]
    )
    assert cli.run([*cached, "--cache", str(caches / "sample"), *hidden, *words, "--out", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_cache_of_another_teacher_is_refused(
    caches: Path, cached: list[str], online: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*cached, "--cache", str(caches / "sample"), "--loss.hidden", "0", "--teacher", str(online)]
    assert cli.run([*words, "--out", str(tmp_path / "run")]) == 2
    assert "the cache was made with teacher [" in capsys.readouterr().err


def test_damage_is_found_and_named(caches: Path, tmp_path: Path) -> None:
    whole = block_file(caches / "top", 0)
    data = whole.read_bytes()
    cut = tmp_path / "00000.bin"
    cut.write_bytes(data[:-5])
    with pytest.raises(DataError, match=f"has {len(data) - 5:,} bytes, its index says {len(data):,}"):
        read_index(cut)
    cut.write_bytes(data[:20])
    with pytest.raises(DataError, match="no index of answers"):
        read_index(cut)
    cut.write_bytes(b"")
    with pytest.raises(DataError, match="no index of answers"):
        read_index(cut)
    with pytest.raises(DataError, match="is missing"):
        read_index(tmp_path / "nowhere")
    with pytest.raises(DataError, match="a block of answers is damaged"):
        cache_blocks.decode(b"no block")
    with pytest.raises(DataError, match="an array of kind"):
        cache_blocks.decode(cache_blocks.encode({"objects": np.zeros(3, np.float64)}))


def test_a_truncated_cache_is_refused_before_the_run(
    ask: list[str], cached: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cache"
    assert cli.run([*ask, "--k", "4", "--out", str(out)]) == 0
    learn = [*cached, "--cache", str(out), "--loss.hidden", "0", "--out", str(tmp_path / "run")]
    data = block_file(out, 1).read_bytes()
    block_file(out, 1).write_bytes(data[:-1])
    capsys.readouterr()
    assert cli.run(learn) == 2
    assert f"has {len(data) - 1:,} bytes, its index says {len(data):,}" in capsys.readouterr().err
    block_file(out, 1).unlink()
    assert cli.run(learn) == 2
    assert "a file of the cache is missing" in capsys.readouterr().err
    facts = out / "cache.json"
    told = facts.read_text()
    facts.write_text(told.replace('"files": 2', '"files": 1'))
    assert cli.run(learn) == 2
    assert "it is not what `biomlm distill cache` wrote" in capsys.readouterr().err
    facts.write_text(told)
    block_file(out, 1).write_bytes(data[:-40] + bytes(40))
    assert cli.run(learn) == 2
    assert "its checksum differs" in capsys.readouterr().err
    manifest = out / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"done"', '"running"'))
    assert cli.run(learn) == 2
    assert "was interrupted here" in capsys.readouterr().err


def test_answers_never_meet_another_micro_batch(caches: Path, batch) -> None:  # type: ignore[no-untyped-def]
    teachers = CachedTeachers(caches / "top")
    with pytest.raises(ValueError, match="were given for other tokens or masks"):
        teachers(batch, [])


def test_planned_and_written_sizes_agree(caches: Path, ask: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.run(["distill", "plan", *ask[2:], "--k", "64"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("bytes a token"))
    counts = read_json(caches / "sample" / "manifest.json")["counts"]
    assert float(line.split()[-1]) == pytest.approx(counts["bytes"] / counts["tokens"], rel=0.1)  # type: ignore[index]


def test_a_layer_that_the_teacher_lacks_cannot_be_cached(
    ask: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], without: Without
) -> None:
    assert cli.run([*ask, "--hidden", "3", "--out", str(tmp_path / "cache")]) == 2
    assert "layer 3 are asked for, and the teacher has 2 layers" in capsys.readouterr().err
    assert cli.run([*ask, "--k", "0", "--out", str(tmp_path / "cache")]) == 2
    assert "there is nothing to keep" in capsys.readouterr().err
    assert cli.run([*without(ask, "--teacher"), "--teacher", "", "--out", str(tmp_path / "cache")]) == 2
    assert "there is no teacher" in capsys.readouterr().err


@settings(max_examples=25, deadline=None)
@given(m=st.integers(0, 5), k=st.integers(1, 40), seed=st.integers(0, 99), vocab=st.sampled_from([40, 70_000]))
def test_predictions_survive_the_way_to_bytes_and_back(m: int, k: int, seed: int, vocab: int) -> None:
    random = torch.Generator().manual_seed(seed)
    log_p = (3 * torch.randn(m, vocab, generator=random)).log_softmax(1)
    kept = top(log_p, k)
    again = cache_blocks.decode_targets(
        cache_blocks.decode(cache_blocks.encode(cache_blocks.encode_targets(kept, vocab))), vocab, CPU
    )
    assert isinstance(again, Top)
    assert torch.equal(again.ids_mk, kept.ids_mk)
    torch.testing.assert_close(again.log_p_mk, kept.log_p_mk, rtol=1e-3, atol=5e-3)
    torch.testing.assert_close(again.log_p_mk.exp().sum(1) + again.log_rest_m.exp(), torch.ones(m))
    drawn = sample(log_p, k, torch.rand(m, k, dtype=torch.float64, generator=random))
    back = cache_blocks.decode_targets(
        cache_blocks.decode(cache_blocks.encode(cache_blocks.encode_targets(drawn, vocab))), vocab, CPU
    )
    assert isinstance(back, Sampled)
    dense = [torch.zeros(m, vocab).scatter_add_(1, t.ids_mk, t.shares_mk) for t in (drawn, back)]
    torch.testing.assert_close(dense[1], dense[0])


def test_a_file_is_an_index_and_its_blocks(tmp_path: Path) -> None:
    file = tmp_path / "00000.bin"
    write_blocks(file, [EncodedOutputs((0, 3), 10, 2, b"abc"), EncodedOutputs((1, 0), 12, 1, b"defgh")])
    index = read_index(file)
    assert [(place, b.length, b.tokens, b.masked) for place, b in index.items()] == [
        ((0, 3), 3, 10, 2),
        ((1, 0), 5, 12, 1),
    ]
    data = file.read_bytes()
    assert [data[b.offset : b.offset + b.length] for b in index.values()] == [b"abc", b"defgh"]
