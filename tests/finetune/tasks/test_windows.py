"""No label is lost at a window's end: windows own each piece once, and the task owns each word once."""

from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from biomlm.finetune.data.records import Tagged
from biomlm.finetune.tasks.token_classification import Ner, labels_of
from biomlm.finetune.tasks.windows import windows
from biomlm.tokenizer.formats import folder as tokenizer_folder


@given(st.integers(0, 400), st.integers(1, 50), st.data())
def test_windows_own_every_piece_once(pieces: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    found = windows(pieces, size, overlap)
    assert [i for w in found for i in range(w.own_start, w.own_stop)] == list(range(pieces))
    for w in found:
        assert w.start <= w.own_start <= w.own_stop <= w.stop
        assert w.stop - w.start <= size
    for left, right in pairwise(found):
        assert left.stop - right.start >= overlap
        margin = overlap // 2
        assert left.stop - left.own_stop >= margin
        assert right.own_start - right.start >= margin


def test_a_short_text_is_one_window() -> None:
    assert windows(5, 10, 3) == [(0, 5, 0, 5)]


@given(
    st.lists(st.sampled_from(["a", "aspirin", "acetylsalicylic" * 4, "β-blocker", "\u200b"]), min_size=1, max_size=60)
)
def test_every_word_is_labelled_once_and_in_order(tiny_tokenizer: Path, words: list[str]) -> None:
    task = Ner(tokenizer_folder.load(tiny_tokenizer), ("O", "B", "I"), max_length=24, overlap=8)
    places, at = [], 0
    for word in words:
        places.append((at, at + len(word)))
        at += len(word) + 1
    tags = tuple("BIO"[i % 3] for i in range(len(words)))
    record = Tagged("x", " ".join(words), tuple(places), tags, line=1)
    (examples,) = task.examples([record])
    assert [task.labels[t] for example in examples for t in example.targets] == list(tags)
    firsts = [tokenizer_first(task, " " + word) for word in words]
    assert [example.sequences[0][place] for example in examples for place in example.positions] == firsts
    for example in examples:
        (ids,) = example.sequences
        assert len(ids) <= 24
        assert (ids[0], ids[-1]) == (task.tokenizer.ids.bos, task.tokenizer.ids.eos)


def tokenizer_first(task: Ner, word: str) -> int:
    return task.tokenizer.encode(word)[0]


def test_a_word_glued_to_the_one_before_has_no_blank_in_front(tiny_tokenizer: Path) -> None:
    tokenizer = tokenizer_folder.load(tiny_tokenizer)
    record = Tagged("x", "aspirin, heparin", ((0, 7), (7, 8), (9, 16)), ("O", "O", "O"), line=1)
    (example,) = Ner(tokenizer, ("O",), 64, 8).examples([record])[0]
    assert tokenizer.decode(example.sequences[0][1:-1]) == " aspirin, heparin"


def test_labels_come_in_pairs() -> None:
    record = Tagged("x", "a b", ((0, 1), (2, 3)), ("B-Y", "B-X"), line=1)
    assert labels_of([record]) == ("O", "B-X", "I-X", "B-Y", "I-Y")
