"""Distillation: the losses equal their formulas, the teacher is left alone, and a student learns from it."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from biolm.core import checkpoint, cli
from biolm.core.errors import ConfigError
from biolm.core.files import read_json
from biolm.core.metrics import read_metrics
from biolm.distill.config import LossConfig
from biolm.distill.losses import cosine_distance, soft_cross_entropy
from biolm.distill.objective import DistillObjective, Teacher
from biolm.model.config import EncoderConfig
from biolm.model.encoder import MaskedLM
from biolm.model.packed import pack
from biolm.pretrain.batches import Batch
from biolm.pretrain.objective import Totals

TEACHER = ["--model.num_hidden_layers", "2", "--model.hidden_size", "48", "--model.num_attention_heads", "2"]
STUDENT = ["--model.num_hidden_layers", "1", "--model.hidden_size", "32", "--model.num_attention_heads", "2"]
SMALL = ["--batch.tokens", "256", "--batch.max_length", "32", "--optim.lr", "3e-3", "--seed", "1"]


def model(width: int) -> MaskedLM:
    torch.manual_seed(width)
    shape = EncoderConfig(
        vocab_size=50, hidden_size=width, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    return MaskedLM(shape)


def batch() -> Batch:
    return Batch(pack([[0, 5, 6, 7, 2], [0, 8, 9, 2]]), torch.tensor([1, 3, 6]), torch.tensor([4, 9, 30]))


def test_soft_cross_entropy_is_kl_times_t_squared() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 50)
    p, q = F.softmax(teacher / 2, -1), F.softmax(student / 2, -1)
    expected = 4 * (p * (p / q).log()).sum()
    torch.testing.assert_close(soft_cross_entropy(student, teacher, 2.0), expected)
    assert soft_cross_entropy(teacher, teacher, 2.0).abs() < 1e-5


def test_cosine_distance_counts_from_0_to_2_a_token() -> None:
    x = torch.randn(5, 8)
    assert cosine_distance(x, 3 * x).abs() < 1e-5
    torch.testing.assert_close(cosine_distance(x, -x), torch.tensor(10.0))


def test_the_objective_is_the_weighted_sum_of_its_parts_and_trains_its_projection() -> None:
    student, teacher = model(16), Teacher(model(24), torch.device("cpu"))
    weights = LossConfig(kl=3, temperature=2, mlm=0.5, hidden=7)
    objective = DistillObjective(teacher, 16, weights)
    terms = objective(student, batch(), Totals(masked=3, tokens=9))
    expected = 3 * terms["kl"] + 0.5 * terms["mlm"] + 7 * terms["hidden"]
    torch.testing.assert_close(terms["loss"], expected)
    terms["loss"].backward()
    assert objective.projection is not None
    assert objective.projection.weight.grad is not None
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.model.parameters())
    assert [name for name, _ in objective.named_parameters()] == ["projection.weight"]


def test_equal_widths_need_no_projection_and_the_same_model_has_nothing_to_learn() -> None:
    student = model(24).eval()
    objective = DistillObjective(Teacher(model(24), torch.device("cpu")), 24, LossConfig())
    assert objective.projection is None
    terms = objective(student, batch(), Totals(masked=3, tokens=9))
    assert terms["kl"].abs() < 1e-5
    assert terms["hidden"].abs() < 1e-5


def test_shares_of_micro_batches_add_up_to_the_whole() -> None:
    student = model(16).eval()
    objective = DistillObjective(Teacher(model(24), torch.device("cpu")), 16, LossConfig())
    first = Batch(pack([[0, 5, 6, 7, 2]]), torch.tensor([1, 3]), torch.tensor([4, 9]))
    second = Batch(pack([[0, 8, 9, 2]]), torch.tensor([1]), torch.tensor([30]))
    totals = Totals.of([first, second])
    parts = [objective(student, b, totals) for b in (first, second)]
    whole = objective(student, batch(), totals)
    for name, value in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], value)


def test_weights_without_a_teacher_are_refused() -> None:
    with pytest.raises(ConfigError, match="involves the teacher"):
        LossConfig(kl=0, hidden=0)
    with pytest.raises(ConfigError, match="temperature"):
        LossConfig(temperature=0)


@pytest.fixture(scope="module")
def runs(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, a student of it, and the same student alone."""
    folder = tmp_path_factory.mktemp("runs")
    common = ["--shards", str(tiny_shards), *SMALL]
    assert cli.run(["pretrain", *common, *TEACHER, "--steps", "150", "--out", str(folder / "teacher")]) == 0
    learn = ["distill", *common, *STUDENT, "--steps", "60", "--teacher", str(folder / "teacher")]
    assert cli.run([*learn, "--out", str(folder / "student"), "--save_every", "20"]) == 0
    assert cli.run(["pretrain", *common, *STUDENT, "--steps", "60", "--out", str(folder / "alone")]) == 0
    return folder


def test_the_student_learns_what_the_teacher_says(runs: Path) -> None:
    train = [r for r in read_metrics(runs / "student") if r["split"] == "train"]
    for name in ("kl", "hidden", "mlm", "loss"):
        assert train[-1][name] < train[0][name]
    result = read_json(runs / "student" / "result.json")
    teacher = read_json(runs / "teacher" / "result.json")
    assert result["teacher"] == pytest.approx(teacher["valid"], rel=1e-3)
    assert result["tokens"] == read_json(runs / "alone" / "result.json")["tokens"]


def test_an_interrupted_distillation_ends_with_the_same_bits(runs: Path, tiny_shards: Path, tmp_path: Path) -> None:
    """Take the finished run back to its first kept checkpoint, as a killed process would leave it."""
    run = tmp_path / "student"
    shutil.copytree(runs / "student", run)
    expected = checkpoint.load_latest(run)
    shutil.rmtree(checkpoint.path_of(run, 60))
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"done"', '"running"'))
    learn = [
        "distill",
        "--shards",
        str(tiny_shards),
        *SMALL,
        *STUDENT,
        "--steps",
        "60",
        "--teacher",
        str(runs / "teacher"),
    ]
    assert cli.run([*learn, "--out", str(run), "--save_every", "20"]) == 0
    again = checkpoint.load_latest(run)
    assert again is not None
    assert expected is not None
    assert again.step == expected.step == 60
    for group in ("model", "objective", "optimizer"):
        for name, tensor in expected.tensors[group].items():
            assert torch.equal(again.tensors[group][name], tensor), f"{group} {name}"


def test_a_teacher_with_another_vocabulary_is_refused(
    runs: Path, tiny_docs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer, shards = tmp_path / "tokenizer", tmp_path / "shards"
    docs = ["--docs", str(tiny_docs)]
    assert cli.run(["tokenizer", "train", *docs, "--vocab_size", "290", "--out", str(tokenizer)]) == 0
    assert cli.run(["tokenizer", "encode", *docs, "--tokenizer", str(tokenizer), "--out", str(shards)]) == 0
    learn = ["distill", "--shards", str(shards), *SMALL, *STUDENT, "--steps", "5", "--teacher", str(runs / "teacher")]
    assert cli.run([*learn, "--out", str(tmp_path / "run")]) == 2
    assert "the model's tokenizer is not that of" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_silent_rows_of_either_side_do_not_matter(runs: Path, tiny_shards: Path, tmp_path: Path) -> None:
    """Rows padded to a round number differ between teacher and student; the vocabulary is the same."""
    learn = [
        "distill",
        "--shards",
        str(tiny_shards),
        *SMALL,
        *STUDENT,
        "--steps",
        "5",
        "--teacher",
        str(runs / "teacher"),
    ]
    assert cli.run([*learn, "--out", str(tmp_path / "plain")]) == 0
    assert cli.run([*learn, "--out", str(tmp_path / "padded"), "--model.pad_vocab_to", "64"]) == 0
    assert read_json(tmp_path / "padded" / "result.json")["step"] == 5


def test_a_teacher_too_short_for_the_sequences_is_refused(
    runs: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = [
        "distill",
        "--shards",
        str(tiny_shards),
        *STUDENT,
        "--teacher",
        str(runs / "teacher"),
        "--out",
        str(tmp_path / "run"),
    ]
    capsys.readouterr()
    assert cli.run([*learn, "--batch.max_length", "64"]) == 2
    assert "the model has 32 positions, sequences up to 64 tokens" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
