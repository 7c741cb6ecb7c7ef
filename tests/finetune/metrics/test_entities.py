"""Entity F1 equals seqeval's and conlleval's; intervals behave."""

import json
import random
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomlm.finetune.data.iob_tags import Span, breaks_iob2, entities, iob2
from biomlm.finetune.metrics.bootstrap import interval, mean_interval, resampled
from biomlm.finetune.metrics.entities import EntityScorer

GOLDEN = json.loads((Path(__file__).parents[2] / "data/finetune/entities_golden.json").read_text())
TAGS = ["O", "O", "O", "B-Drug", "I-Drug", "B-Dis-ease", "I-Dis-ease", "B-Gene", "I-Gene"]
TYPES = ("Dis-ease", "Drug", "Gene")


def draw(count: int, seed: int) -> list[list[str]]:
    """Random rows of tags, as they were given to seqeval and conlleval."""
    r = random.Random(seed)
    return [[TAGS[int(r.random() * len(TAGS))] for _ in range(1 + int(r.random() * 30))] for _ in range(count)]


def noisy(rows: list[list[str]], seed: int) -> list[list[str]]:
    r = random.Random(seed)
    return [[TAGS[int(r.random() * len(TAGS))] if r.random() < 0.15 else tag for tag in row] for row in rows]


def test_entities_and_scores_equal_seqeval_and_conlleval_on_10000_random_rows() -> None:
    gold = draw(GOLDEN["sequences"], 1)
    spans = [entities(row) for row in gold + noisy(gold, 2)]
    digest = sha256(json.dumps(spans, separators=(",", ":")).encode()).hexdigest()
    assert [list(span) for span in entities(GOLDEN["first"]["tags"])] == GOLDEN["first"]["entities"]
    assert digest == GOLDEN["digest of seqeval's entities"]
    scorer = EntityScorer(TYPES)
    report = scorer.report(scorer.sums(spans[: len(gold)], spans[len(gold) :]).sum(0))
    for name, theirs in GOLDEN["seqeval"].items():
        ours = report if name == "micro avg" else report["types"][name]
        assert ours["precision"] == pytest.approx(theirs["precision"], abs=1e-15)
        assert ours["recall"] == pytest.approx(theirs["recall"], abs=1e-15)
        assert ours["f1"] == pytest.approx(theirs["f1-score"], abs=1e-15)
        assert ours["gold"] == theirs["support"]
    for name, value in GOLDEN["conlleval"].items():
        assert report[name] == pytest.approx(value, abs=1e-15)


def test_bare_tags_are_read_as_seqeval_reads_them() -> None:
    assert [list(span) for span in entities(GOLDEN["bare"]["tags"])] == GOLDEN["bare"]["entities"]


@given(st.lists(st.sampled_from(TAGS)))
def test_iob2_keeps_the_entities_and_breaks_no_rule(tags: list[str]) -> None:
    written = iob2(tags)
    assert entities(written) == entities(tags)
    assert not any(breaks_iob2(a, b) for a, b in zip(["O", *written], written, strict=False))


def test_precision_and_recall_are_not_swapped() -> None:
    scorer = EntityScorer(("Drug",))
    gold, predicted = [[Span(0, 1, "Drug"), Span(2, 3, "Drug")]], [[Span(0, 1, "Drug")]]
    report = scorer.report(scorer.sums(gold, predicted).sum(0))
    assert (report["precision"], report["recall"]) == (1.0, 0.5)


def test_nothing_predicted_scores_0_without_a_warning() -> None:
    scorer = EntityScorer(("Drug",))
    report = scorer.report(scorer.sums([[Span(0, 1, "Drug")]], [[]]).sum(0))
    assert report["precision"] == report["recall"] == report["f1"] == 0


def test_a_wrong_border_or_type_is_wrong() -> None:
    scorer = EntityScorer(("Drug", "Gene"))
    sums = scorer.sums([[Span(0, 2, "Drug")]] * 2, [[Span(0, 1, "Drug")], [Span(0, 2, "Gene")]])
    assert scorer.report(sums.sum(0))["correct"] == 0


def test_interval_covers_the_score_and_narrows_with_more_records() -> None:
    scorer = EntityScorer(("Drug",))
    span = [Span(0, 1, "Drug")]
    few = scorer.sums([span] * 40, [span, []] * 20)
    many = scorer.sums([span] * 4000, [span, []] * 2000)
    widths = []
    for sums in (few, many):
        low, high = interval(scorer.value(resampled(sums)))
        assert low < scorer.value(sums.sum(0)) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 5  # in theory a tenth
    assert mean_interval(scorer, [few, few]) == interval(scorer.value(resampled(few)))


def test_bootstrap_of_a_mean_has_the_standard_error_of_theory() -> None:
    values = np.linspace(0, 1, 400)
    samples = resampled(values, samples=4000) / len(values)
    assert samples.mean() == pytest.approx(values.mean(), abs=2e-3)
    assert samples.std() == pytest.approx(values.std() / 20, rel=0.05)
