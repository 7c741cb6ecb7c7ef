"""Stages of lengths and batches: which one a step is in follows from its number, and no epoch is in two of them."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from biomlm.core import checkpoint, cli
from biomlm.core.errors import ConfigError
from biomlm.core.files import read_json
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.config import BatchConfig, MixConfig, StageConfig
from biomlm.pretrain.data.curriculum import Curriculum, stages
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.data.sequence_builder import passes_to_join

LAST = BatchConfig(tokens=512, accumulation=1, max_length=64)


def config(shards: Path, *before: Mapping[str, Any], steps: int = 100, **more: Any) -> PretrainConfig:
    curriculum = [StageConfig(**stage) for stage in before]
    return PretrainConfig(shards=str(shards), out="", steps=steps, batch=LAST, curriculum=curriculum, **more)


SHORT_FIRST = ({"share": 0.6, "max_length": 16, "tokens": 128}, {"steps": 10, "max_length": 32, "accumulation": 2})


def test_stages_by_share_and_by_steps(tiny_shards: Path) -> None:
    found = stages(config(tiny_shards, *SHORT_FIRST))
    assert [(first, b.max_length, b.tokens, b.accumulation) for first, b in found] == [
        (0, 16, 128, 1),
        (60, 32, 512, 2),
        (70, 64, 512, 1),
    ]


def test_a_steps_batches_are_those_of_its_stage(tiny_shards: Path) -> None:
    made = Curriculum(Shards([tiny_shards], "train"), config(tiny_shards, *SHORT_FIRST), segments=False)
    seen: set[tuple[int, int]] = set()
    epochs: list[set[int]] = [set(), set(), set()]
    tokens = 0
    for step in range(100):
        assert made.work(step) == pytest.approx(tokens, rel=0.05, abs=64), "progress counts tokens, whatever the stage"
        batches = made.step(step)
        stage = 0 if step < 60 else 1 if step < 70 else 2
        limit = (16, 32, 64)[stage]
        assert max(max(b.packed.lengths) for b in batches) <= limit
        assert len(batches) == (1, 2, 1)[stage]
        assert sum(len(b.packed.input_ids_t) for b in batches) <= len(batches) * ((128, 512, 512)[stage] + limit)
        for batch in batches:
            assert batch.step == step
            again = made.micro_batch(batch.epoch, batch.index)
            assert again is not None
            assert torch.equal(again.packed.input_ids_t, batch.packed.input_ids_t)
            seen.add((batch.epoch, batch.index))
            tokens += len(batch.packed.input_ids_t)
            epochs[stage].add(batch.epoch)
    assert len(seen) == 110, "no micro-batch comes twice"
    assert epochs[0].isdisjoint(epochs[1] | epochs[2])
    assert epochs[1].isdisjoint(epochs[2])


def test_passes_over_sources_add_up_over_stages(tiny_shards: Path) -> None:
    folder = str(tiny_shards)
    mixed = config(tiny_shards, *SHORT_FIRST, mix=MixConfig(by="folder", weights={folder: 1.0}))
    made = Curriculum(Shards([tiny_shards], "train"), mixed, segments=False)
    tokens = 0
    for step in range(100):
        if step in (1, 37, 65, 99):
            assert made.passes(step)[folder] == pytest.approx(tokens / made.tokens_per_epoch, rel=0.15, abs=0.002)
        tokens += sum(len(b.packed.input_ids_t) for b in made.step(step))


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"share": 0.5, "max_length": 128}, "the last one only 64"),
        ({"steps": 100}, "take 100 steps of 100"),
        ({"share": 0.5, "max_length": 32, "tokens": 16}, "less than one sequence"),
    ],
)
def test_stages_that_cannot_be_are_refused(tiny_shards: Path, stage: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        stages(config(tiny_shards, stage))


def test_a_stage_has_a_share_or_steps() -> None:
    for given in ({}, {"share": 0.5, "steps": 5}, {"share": 1.0}, {"steps": 0}):
        with pytest.raises(ConfigError):
            StageConfig(**given)


def test_a_run_resumes_to_the_same_bits_in_any_stage(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mixed and staged, from a checkpoint within the first stage and from one at the border."""
    model = ["--model.size", "tiny", "--model.num_hidden_layers", "1", "--model.hidden_size", "32"]
    size = ["--model.num_attention_heads", "2", "--batch.tokens", "256", "--batch.max_length", "32", "--steps", "20"]
    plan = ["--curriculum", '[{"share": 0.5, "max_length": 16, "tokens": 64}, {"steps": 4, "accumulation": 2}]']
    mix = ["--mix.by", "folder", "--mix.weights", f'{{"{tiny_shards}": 1}}', "--save_every", "5", "--keep", "9"]
    argv = ["pretrain", "--shards", str(tiny_shards), *model, *size, *plan, *mix, "--log_every", "3"]
    assert cli.run([*argv, "--out", str(tmp_path / "whole")]) == 0
    shown = capsys.readouterr()
    assert "passes over" in shown.out
    assert read_json(tmp_path / "whole" / "result.json")["epochs_by_source"][str(tiny_shards)] > 0  # type: ignore[index, operator]
    for line in ("from step 1: sequences of up to 16 tokens", "from step 11", "from step 15: sequences of up to 32"):
        assert line in shown.err
    weights = (checkpoint.path_of(tmp_path / "whole", 20) / "model.safetensors").read_bytes()
    for kept in (5, 10, 15):
        for step in checkpoint.steps(tmp_path / "whole"):
            if step > kept:
                (checkpoint.path_of(tmp_path / "whole", step) / "state.json").unlink()
        manifest = tmp_path / "whole" / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"done"', '"running"'))
        assert cli.run([*argv, "--out", str(tmp_path / "whole")]) == 0
        assert (checkpoint.path_of(tmp_path / "whole", 20) / "model.safetensors").read_bytes() == weights


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.integers(1, 10**9), st.floats(1.0, 40.0))
def test_passes_are_joined_until_steps_are_nearly_as_large_as_asked(step: int, passes: float) -> None:
    tokens = max(step, int(step * passes))
    joined = passes_to_join(tokens, step)
    sizes = [n * tokens / -(-n * tokens // step) for n in range(1, joined + 1)]
    assert 0.95 * step <= sizes[-1] <= step
    assert all(size < 0.95 * step for size in sizes[:-1])
    assert joined <= 20


@pytest.mark.parametrize("share", [0.92, 0.7, 0.55, 0.35, 0.05])
def test_a_step_has_the_tokens_that_are_asked_for(tiny_shards: Path, share: float) -> None:
    """Steps of most of the shards too: every token is read as often as any other, with other masks in each pass."""
    whole = made_of(tiny_shards, 512, 1).tokens_per_epoch
    for accumulation in (1, 3):
        asked = int(share * whole / accumulation)
        made = made_of(tiny_shards, asked, accumulation)
        stage = made.stage(0)
        read, masked = Counter[int](), Counter[int]()
        for step in range(stage.steps_per_epoch):
            batches = made.step(step)
            size = sum(len(batch.packed.input_ids_t) for batch in batches)
            assert 0.93 < size / (asked * accumulation) < 1.02
            for batch in batches:
                assert batch.places_m is not None
                masked.update(batch.places_m.tolist())
        for numbers in (stage.order.plan(0).order,):
            sequences = stage.epochs(0).sequences
            read.update(zip(sequences.start[numbers, 0].tolist(), sequences.stop[numbers, 0].tolist(), strict=True))  # type: ignore[arg-type]
        assert set(read.values()) == {stage.epochs.joined}
        if stage.epochs.joined > 1:
            words = sum(masked.values()) / stage.epochs.joined / 0.15
            twice = sum(n * (n - 1) for n in masked.values()) / (
                stage.epochs.joined * (stage.epochs.joined - 1) * words
            )
            assert twice == pytest.approx(0.15**2, rel=0.35), "masks of two passes are independent"


def made_of(shards: Path, tokens: int, accumulation: int) -> Curriculum:
    sizes = BatchConfig(tokens=tokens, accumulation=accumulation, max_length=32)
    return Curriculum(Shards([shards], "train"), PretrainConfig(shards=str(shards), out="", batch=sizes), False)


def test_stages_that_join_passes_read_no_pass_of_another(tiny_shards: Path) -> None:
    run = PretrainConfig(
        shards=str(tiny_shards),
        out="",
        steps=12,
        batch=BatchConfig(tokens=1024, max_length=32),
        curriculum=[StageConfig(steps=3, tokens=24_000), StageConfig(steps=4, tokens=20_000)],
    )
    made = Curriculum(Shards([tiny_shards], "train"), run, False)
    assert made.stages[0].epochs.joined > 1
    passes = []
    for stage in (0, 3, 7):
        last = {0: 2, 3: 6, 7: 11}[stage]
        epochs = {name[0] for step in range(stage, last + 1) for name in made.names(step)}
        passes.append({int(n) for epoch in epochs for n in made.stage(stage).epochs(epoch).passes})
    assert passes[0].isdisjoint(passes[1] | passes[2])
    assert passes[1].isdisjoint(passes[2])


def test_a_step_larger_than_the_shards_is_said(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model.num_hidden_layers", "1", "--model.hidden_size", "16", "--model.num_attention_heads", "1"]
    size = ["--batch.tokens", "25000", "--batch.accumulation", "2", "--batch.max_length", "32", "--steps", "1"]
    assert cli.run(["pretrain", "--shards", str(tiny_shards), *model, *size, "--out", str(tmp_path / "run")]) == 0
    assert "(all that the shards hold, not 2 x 25k)" in capsys.readouterr().err
