"""What kind of mistakes a run makes, from its predictions; and which ones most runs make.

Entities are sorted as MUC-5 sorted them (Chinchor and Sundheim 1993): right; of another type; with other borders; missed; and
predicted where there is none. Counts and offsets need no text; `context` shows some, for those who ask.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from biomlm.finetune.data.iob_tags import Span
from biomlm.finetune.data.records import Labelled, Tagged

KINDS = ("right", "other type", "other borders", "missed", "spurious")
AROUND = 60  # characters of context on each side
LONGEST = 300  # characters of a text that is shown whole

Line = Mapping[str, Any]  # of predictions.jsonl


@dataclass(frozen=True)
class Mistake:
    """Something that runs get wrong.

    Args:
        record: Number of the test record.
        span: The entity, in characters; None where the whole record has a label.
        gold: What is right; empty where an entity was seen that is none.
        share: Of all runs and seeds, how many get it wrong.
        predicted: What they say instead, most frequent first.
    """

    record: int
    span: tuple[int, int] | None
    gold: str
    share: float
    _: KW_ONLY
    predicted: tuple[str, ...]


def spans(entities: Iterable[Mapping[str, Any]]) -> list[Span]:
    """Return the entities of a line of predictions."""
    return [Span(entity["start"], entity["stop"], entity["type"]) for entity in entities]


def by_type(runs: Sequence[Sequence[Line]]) -> dict[str, dict[str, float]]:
    """Count by type and kind of mistake, as a mean over seeds; spurious entities count by the predicted type.

    Args:
        runs: The lines of each seed's predictions.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for lines in runs:
        for line in lines:
            gold, predicted = spans(line["gold"]["entities"]), spans(line["entities"])
            for span in gold:
                counts[span.type][_kind(span, predicted)] += 1
            for span in predicted:
                if not any(_overlap(span, other) for other in gold):
                    counts[span.type]["spurious"] += 1
    return {name: {kind: counts[name][kind] / len(runs) for kind in KINDS} for name in sorted(counts)}


def confusions(runs: Sequence[Sequence[Line]]) -> dict[str, dict[str, float]]:
    """Count by gold label and predicted label, as a mean over seeds."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for lines in runs:
        for line in lines:
            counts[_label(line["gold"])][_label(line)] += 1
    return {gold: {predicted: n / len(runs) for predicted, n in counts[gold].most_common()} for gold in sorted(counts)}


@dataclass(frozen=True)
class ErrorAnalysis:
    """How the mistakes of a task are sorted.

    Args:
        counts: The lines of each seed's predictions → type or label → kind of mistake → how many, as a mean over seeds.
        mistakes: Number of a test record and its line of every run and seed → what they get wrong.
    """

    counts: Callable[[Sequence[Sequence[Line]]], dict[str, dict[str, float]]]
    mistakes: Callable[[int, Sequence[Line]], list[Mistake]]


def hardest(analysis: ErrorAnalysis, runs: Sequence[Sequence[Line]], most: int) -> list[Mistake]:
    """Find the mistakes that the largest share of runs and seeds makes, in the order of the test fold where it is the same.

    Args:
        analysis: The task's.
        runs: The lines of each seed of each run.
        most: How many.
    """
    mistakes: list[Mistake] = []
    for record, lines in enumerate(zip(*runs, strict=True)):
        mistakes += analysis.mistakes(record, lines)
    return sorted(mistakes, key=lambda mistake: -mistake.share)[:most]


def _entities(record: int, lines: Sequence[Line]) -> list[Mistake]:
    gold = spans(lines[0]["gold"]["entities"])
    predicted = [spans(line["entities"]) for line in lines]
    mistakes = []
    for span in gold:
        wrong = [row for row in predicted if span not in row]
        instead = Counter(_seen(span, row) for row in wrong)
        if wrong:
            mistakes.append(_mistake(record, span[:2], span.type, len(wrong) / len(lines), instead))
    spurious = Counter(s for row in predicted for s in row if not any(_overlap(s, other) for other in gold))
    mistakes += [_mistake(record, s[:2], "", n / len(lines), Counter({s.type: n})) for s, n in spurious.items()]
    return mistakes


def _labels(record: int, lines: Sequence[Line]) -> list[Mistake]:
    gold = _label(lines[0]["gold"])
    wrong = Counter(_label(line) for line in lines if _label(line) != gold)
    return [_mistake(record, None, gold, wrong.total() / len(lines), wrong)] if wrong else []


def _mistake(record: int, span: Any, gold: str, share: float, answers: Counter[str]) -> Mistake:
    return Mistake(record, span, gold, share, predicted=tuple(name for name, _ in answers.most_common(3)))


def context(record: Tagged | Labelled, mistake: Mistake) -> tuple[str, str, str]:
    """Return the words before, of and after a mistake; of a labelled text its beginning."""
    if mistake.span is None:
        text = " ".join(record.text.split())
        return "", text[:LONGEST] + ("…" if len(text) > LONGEST else ""), ""
    start, stop = mistake.span
    before, after = record.text[max(start - AROUND, 0) : start], record.text[stop : stop + AROUND]
    return (
        f"{'…' * (start > AROUND)}{before}",
        record.text[start:stop],
        f"{after}{'…' * (stop + AROUND < len(record.text))}",
    )


ENTITIES = ErrorAnalysis(by_type, _entities)
LABELS = ErrorAnalysis(confusions, _labels)


def _label(answer: Mapping[str, Any]) -> str:
    return ", ".join(answer["labels"]) if "labels" in answer else str(answer["label"])


def _kind(span: Span, predicted: Sequence[Span]) -> str:
    if span in predicted:
        return "right"
    if any(other[:2] == span[:2] for other in predicted):
        return "other type"
    return "other borders" if any(_overlap(span, other) for other in predicted) else "missed"


def _seen(span: Span, predicted: Sequence[Span]) -> str:
    """Describe what was predicted where an entity should be."""
    kind = _kind(span, predicted)
    return kind if kind == "missed" else next(other.type for other in predicted if _overlap(span, other)) + f" ({kind})"


def _overlap(one: Span, two: Span) -> bool:
    return one.start < two.stop and two.start < one.stop
