"""A batch depends on configuration, shards, seed and step alone, holds every token once an epoch, and masks at the stated rates."""

import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

from biomlm.core.errors import ConfigError, DataError
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.batches import Batch, Batches
from biomlm.pretrain.data.config import BatchConfig, MixConfig
from biomlm.pretrain.data.curriculum import Curriculum
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.objectives.config import MlmConfig, ObjectiveConfig


def batches(
    shards: Path, *, tokens: int = 256, accumulation: int = 1, seed: int = 5, mlm: MlmConfig | None = None
) -> Batches:
    sizes = BatchConfig(tokens=tokens, accumulation=accumulation, max_length=32)
    return Batches(Shards([shards], "train"), mlm or MlmConfig(), sizes, seed)


def original(batch: Batch) -> list[int]:
    ids = batch.packed.input_ids_t.clone()
    ids[batch.positions_m] = batch.labels_m
    return ids.tolist()


def epoch(made: Batches, number: int) -> list[Batch]:
    return [b for step in range(made.steps_per_epoch) for b in made.step(number * made.steps_per_epoch + step)]


def test_an_epoch_holds_every_token_once(tiny_shards: Path) -> None:
    made = batches(tiny_shards)
    ids = made.reader.tokenizer.ids
    seen: Counter[int] = Counter()
    for batch in epoch(made, 1):
        seen.update(original(batch))
        starts = batch.packed.cu_seqlens[:-1].long()
        assert (batch.packed.input_ids_t[starts] == ids.bos).all()
        assert max(batch.packed.lengths) <= 32
    stored = Counter(made.reader.tokens[:].tolist())
    for special in (ids.bos, ids.eos):
        seen.pop(special)
        stored.pop(special, None)
    assert seen == stored


def test_a_step_is_a_pure_function(tiny_shards: Path) -> None:
    first, second = batches(tiny_shards), batches(tiny_shards)
    list(map(second.step, range(4)))
    for step in (7, 0, first.steps_per_epoch + 3):
        for a, b in zip(first.step(step), second.step(step), strict=True):
            assert torch.equal(a.packed.input_ids_t, b.packed.input_ids_t)
            assert torch.equal(a.positions_m, b.positions_m)
            assert torch.equal(a.labels_m, b.labels_m)


def test_a_batch_knows_its_name_and_where_its_labels_stand(tiny_shards: Path) -> None:
    made = batches(tiny_shards, accumulation=2)
    step = made.steps_per_epoch + 1
    for i, batch in enumerate(made.step(step)):
        assert (batch.epoch, batch.index, batch.step) == (1, 2 + i, step)
        assert batch.places_m is not None
        assert batch.labels_m.tolist() == made.reader.tokens[batch.places_m].tolist()


def test_accumulation_regroups_the_same_micro_batches(tiny_shards: Path) -> None:
    pairs = (
        (batches(tiny_shards, tokens=n), batches(tiny_shards, tokens=n, accumulation=4)) for n in range(256, 1024, 8)
    )
    one, four = next((a, b) for a, b in pairs if a.per_epoch == b.per_epoch)
    for step in range(3):
        single = [original(b) for i in range(4) for b in one.step(4 * step + i)]
        assert single == [original(b) for b in four.step(step)]


def test_masks_change_from_epoch_to_epoch_but_not_with_the_packing(tiny_shards: Path) -> None:
    def masked(made: Batches, number: int) -> set[tuple[int, ...]]:
        """Sequences as the model sees them."""
        return {
            tuple(part.tolist())
            for b in epoch(made, number)
            for part in torch.split(b.packed.input_ids_t, list(b.packed.lengths))
        }

    assert masked(batches(tiny_shards), 0) == masked(batches(tiny_shards, tokens=512), 0)
    assert masked(batches(tiny_shards), 0) != masked(batches(tiny_shards), 1)


def test_masks_have_the_stated_rates_and_never_hit_specials(tiny_shards: Path) -> None:
    made = batches(tiny_shards, mlm=MlmConfig(mask_rate=0.3))
    special = made.reader.tokenizer.ids
    tokens = chosen = mask = same = 0
    for batch in [*epoch(made, 0), *epoch(made, 1), *epoch(made, 2)]:
        shown = batch.packed.input_ids_t[batch.positions_m]
        tokens += len(batch.packed.input_ids_t) - 2 * len(batch.packed.lengths)
        chosen += len(shown)
        mask += int((shown == special.mask).sum())
        same += int((shown == batch.labels_m).sum())
        assert (batch.labels_m > 3).all()
        assert (shown > 3).all()
        assert (batch.positions_m.diff() > 0).all()
    sigma = np.sqrt(0.3 * 0.7 / tokens)
    assert abs(chosen / tokens - 0.3) < 4 * sigma
    assert abs(mask / chosen - 0.8) < 4 * np.sqrt(0.16 / chosen)
    assert abs(same / chosen - 0.1) < 0.01 + 4 * np.sqrt(0.09 / chosen)


def test_an_id_beyond_the_vocabulary_is_named(tiny_shards: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(tiny_shards, shards)
    tokens = np.memmap(shards / "train.bin", dtype=np.uint16, mode="r+")
    place = int(np.flatnonzero(tokens > 3)[100])
    tokens[place] = 300
    tokens.flush()
    made = batches(shards)
    with pytest.raises(DataError, match=rf"train\.bin \(token {place}\): id 300 is beyond the vocabulary of 300"):
        epoch(made, 0)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="less than one sequence"):
        BatchConfig(tokens=100, max_length=512)
    with pytest.raises(ConfigError, match="mask_rate"):
        MlmConfig(mask_rate=0)
    with pytest.raises(ConfigError, match="add up"):
        MlmConfig(mask_share=0.9, random_share=0.2)


def walk(action: Callable[[], object]) -> list[str]:
    """The files of ours that are stepped into from another one of ours, in order."""
    files: list[str] = []

    def own(frame: FrameType | None) -> str | None:
        """The file of ours that a frame runs, or the nearest one that called it."""
        while frame and "/biomlm/" not in frame.f_code.co_filename:
            frame = frame.f_back
        return frame and frame.f_code.co_filename.rpartition("/biomlm/")[2]

    def trace(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and "/biomlm/" in frame.f_code.co_filename and (file := own(frame)) != own(frame.f_back):
            files.append(str(file))

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return files


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mlm": MlmConfig(unit="ngram", max_predictions=20)},
        {"mlm": MlmConfig(pos=["SMALL"])},
        {"objective": ObjectiveConfig(drp=1.0), "batch": BatchConfig(1024, 1, 64, form="pairs")},
        {"mix": MixConfig(temperature=2.0)},
    ],
    ids=["tokens", "ngrams", "parts of speech", "pairs", "mixed"],
)
def test_a_batch_goes_through_each_file_once(bundled: dict[str, Path], options: dict[str, Any]) -> None:
    """What a reader opens for one batch of an epoch that is planned: no file twice. Below it stand the hashes and what a model takes."""
    sizes = {"batch": BatchConfig(1024, 1, 64)}
    config = PretrainConfig(shards=str(bundled["bpe"]), out="", steps=10, **{**sizes, **options})
    made = Curriculum(Shards([bundled["bpe"]], "train"), config, segments=False)
    made.step(0)
    files = walk(lambda: made.step(1))
    parts = ["curriculum", "batches", "order", "dataset", "collate", "masking"]
    assert [file for file in files if file not in ("core/rng.py", "model/packed.py")] == [
        f"pretrain/data/{part}.py" for part in parts
    ]
