"""The shipped recipes are read by the command's own parser, and say what they say they are."""

from pathlib import Path

import pytest

from biomlm.core.config import parse
from biomlm.distill.config import DistillConfig

FOLDER = Path(__file__).parents[2] / "distill" / "configs"


def read(name: str) -> DistillConfig:
    words = ["--config", str(FOLDER / name), "--shards", "SHARDS", "--teacher", "LARGE", "--out", "RUN"]
    return parse(DistillConfig, words, prog="biomlm distill")


def test_bio_lms_two_models_differ_in_the_alignment_alone() -> None:
    plain, aligned = read("distill.yaml"), read("distill-align.yaml")
    assert (plain.loss.hidden, aligned.loss.hidden) == (0, 1)
    for name in ("model", "optim", "batch", "steps"):
        assert getattr(plain, name) == getattr(aligned, name)
    assert (aligned.loss.kl, aligned.loss.mlm, aligned.loss.temperature) == (5, 2, 2)
    assert plain.batch.tokens * plain.batch.accumulation == 192 * 512
    assert plain.optim.warmup * plain.steps == 5000


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_every_recipe_says_what_is_not_published(name: str) -> None:
    assert read(name).model.size == "base"
    text = (FOLDER / name).read_text(encoding="utf-8")
    for word in ("NOT published", "DistilBioBERT", "Ours:"):
        assert word in text
