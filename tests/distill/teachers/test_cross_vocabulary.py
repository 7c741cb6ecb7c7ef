"""Teachers with another vocabulary: words meet their counterparts, and states are averaged over each word."""

from pathlib import Path

import pytest
import torch

from biomlm.core import cli
from biomlm.core.errors import ConfigError
from biomlm.core.metrics import read_metrics
from biomlm.distill.config import DistillConfig
from biomlm.distill.losses.config import LossConfig
from biomlm.distill.teachers.cross_vocabulary import WordAligner, word_means
from biomlm.model.packed import pack
from biomlm.pretrain.data.batches import Batch, Batches
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.objectives.config import MlmConfig
from biomlm.tokenizer.formats import folder


@pytest.fixture(scope="module")
def other_tokenizer(tiny_docs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("other") / "tokenizer"
    assert cli.run(["tokenizer", "train", "--docs", str(tiny_docs), "--vocab_size", "270", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def other_shards(tiny_docs: Path, other_tokenizer: Path) -> Path:
    out = other_tokenizer.parent / "shards"
    words = ["--docs", str(tiny_docs), "--tokenizer", str(other_tokenizer), "--out", str(out)]
    assert cli.run(["tokenizer", "encode", *words]) == 0
    return out


def test_word_means_by_hand() -> None:
    states = torch.arange(10.0).view(5, 2)
    means = word_means(states, torch.tensor([-1, 0, 0, 1, -1]), 2)
    assert means.tolist() == [[3.0, 4.0], [6.0, 7.0]]


def test_every_word_is_spelt_in_the_teachers_pieces(tiny_shards: Path, other_tokenizer: Path) -> None:
    """Whatever the masks show, both sides' pieces of each word decode to the same text."""
    shards, theirs = Shards([tiny_shards], "train"), folder.load(other_tokenizer)
    batch = Batches(shards, MlmConfig(mask_rate=0.4), BatchConfig(tokens=256, max_length=32), 1).step(0)[0]
    reading = WordAligner(shards.tokenizer, theirs, 512)(batch)
    ids_t = batch.packed.input_ids_t.clone()
    ids_t[batch.positions_m] = batch.labels_m
    assert reading.words > 50
    for word in range(reading.words):
        ours = shards.tokenizer.decode(ids_t[reading.word_of_t == word].tolist())
        assert theirs.decode(reading.packed.input_ids_t[reading.teacher_word_of_t == word].tolist()) == ours
    special = torch.isin(ids_t, torch.tensor([shards.ids.bos, shards.ids.eos]))
    assert torch.equal(reading.word_of_t < 0, special)
    assert len(reading.packed.lengths) == len(batch.packed.lengths)


def test_words_beyond_the_teachers_positions_are_left_out(tiny_shards: Path, other_tokenizer: Path) -> None:
    shards, theirs = Shards([tiny_shards], "train"), folder.load(other_tokenizer)
    ids = shards.tokenizer.encode("Treatment with aspirin often protects the heart of the patient.")
    packed = pack([[shards.ids.bos, *ids, shards.ids.eos]])
    nothing = torch.zeros(0, dtype=torch.int64)
    reading = WordAligner(shards.tokenizer, theirs, 12)(Batch(packed, nothing, nothing))
    assert max(reading.packed.lengths) <= 12
    assert 0 < reading.words < 10
    assert (reading.word_of_t >= 0).any()


def test_a_student_learns_from_a_teacher_with_another_vocabulary(
    other_shards: Path, teacher_run: Path, student_words: list[str], tmp_path: Path
) -> None:
    words = [
        "distill",
        "--shards",
        str(other_shards),
        "--batch.tokens",
        "256",
        "--batch.max_length",
        "32",
        *student_words,
    ]
    words += ["--optim.lr", "3e-3", "--teacher", str(teacher_run), "--vocabulary", "words", "--loss.kl", "0"]
    assert cli.run([*words, "--steps", "30", "--log_every", "5", "--out", str(tmp_path / "run")]) == 0
    train = [r for r in read_metrics(tmp_path / "run") if r["split"] == "train"]
    assert train[-1]["hidden"] < 0.8 * train[0]["hidden"]
    assert all(0.5 < r["aligned"] < 1 for r in train)


def test_what_words_cannot_carry_is_refused() -> None:
    hidden = LossConfig(kl=0)
    where = {"shards": "shards", "out": "out", "teacher": "t", "vocabulary": "words"}
    with pytest.raises(ConfigError, match="has no embeddings for the student to start from"):
        DistillConfig(**where, loss=hidden, start="teacher")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="by its hidden states only"):
        DistillConfig(**where, loss=LossConfig(kl=0, relations=1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"Give --loss\.pooled 0\."):
        DistillConfig(**where, loss=LossConfig(kl=0, pooled=1))  # type: ignore[arg-type]


KINDS = {"bpe": "300", "wordpiece": "80", "sentencepiece-bpe": "80", "sentencepiece-unigram": "51"}


@pytest.fixture(scope="module")
def kinds(tiny_docs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, folder.Tokenizer]:
    base = tmp_path_factory.mktemp("kinds")
    for kind, size in KINDS.items():
        words = ["tokenizer", "train", "--docs", str(tiny_docs), "--kind", kind, "--out", str(base / kind)]
        assert cli.run([*words, "--vocab_size", size]) == 0
    return {kind: folder.load(base / kind) for kind in KINDS}


@pytest.mark.parametrize("ours", KINDS)
@pytest.mark.parametrize("theirs", KINDS)
def test_a_teacher_reads_what_it_would_read_in_the_text(
    ours: str, theirs: str, kinds: dict[str, folder.Tokenizer]
) -> None:
    """The pieces of all words are those of the sentence as the shards have it: with a blank in front."""
    text = " heparin often relaxes the patient of marinated liver in the east"
    student, teacher = kinds[ours], kinds[theirs]
    ids = [student.ids.bos, *student.encode(text), student.ids.eos]
    nothing = torch.zeros(0, dtype=torch.int64)
    reading = WordAligner(student, teacher, 512)(Batch(pack([ids]), nothing, nothing))
    read = reading.packed.input_ids_t.tolist()
    assert read == [teacher.ids.bos, *teacher.encode(text), teacher.ids.eos]
    assert reading.words == len(text.split())
    assert (reading.word_of_t[1:-1] >= 0).all()


@pytest.mark.parametrize("theirs", KINDS)
def test_a_word_that_opens_its_document_has_no_blank(theirs: str, kinds: dict[str, folder.Tokenizer]) -> None:
    """Byte-level pieces tell it."""
    student, teacher = kinds["bpe"], kinds[theirs]
    nothing = torch.zeros(0, dtype=torch.int64)
    ids = [student.ids.bos, *student.encode("heparin often relaxes"), student.ids.eos]
    reading = WordAligner(student, teacher, 512)(Batch(pack([ids]), nothing, nothing))
    assert reading.packed.input_ids_t.tolist()[1:-1] == teacher.encode("heparin often relaxes")


@pytest.mark.parametrize("ours", KINDS)
def test_what_has_no_text_is_not_spelt(ours: str, kinds: dict[str, folder.Tokenizer]) -> None:
    """Neither an unknown piece's name nor half a character comes before the teacher, nor the mark of a continuation."""
    student, teacher = kinds[ours], kinds["bpe"]
    _, *rest = student.encode(" marinated") if ours != "bpe" else student.encode("é heparin")
    assert rest, "the word has several pieces"
    unknown = [student.ids.unk, *student.encode(" often")]
    nothing = torch.zeros(0, dtype=torch.int64)
    packed = pack(
        [[student.ids.bos, *rest, *unknown, student.ids.eos]]
    )  # a sequence that opens in the middle of a word
    reading = WordAligner(student, teacher, 512)(Batch(packed, nothing, nothing))
    read = teacher.decode(reading.packed.input_ids_t.tolist())
    assert not any(odd in read.removeprefix("<s>").removesuffix("</s>") for odd in ("<", "[", "#", "\ufffd"))
    assert " often" in read
    assert reading.word_of_t[1 + len(rest)] == -1
