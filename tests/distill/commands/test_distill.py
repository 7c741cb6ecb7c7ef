"""Distillation: the objective is its parts' sum, the teacher is left alone, and a student learns from it."""

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from biomlm.core import checkpoint, cli
from biomlm.core.errors import ConfigError, MismatchError
from biomlm.core.files import read_json, write_json
from biomlm.core.metrics import read_metrics
from biomlm.distill.config import DistillConfig
from biomlm.distill.losses.captured import captured
from biomlm.distill.losses.config import LossConfig, weight_at
from biomlm.distill.losses.relations import relation_distance
from biomlm.distill.losses.targets import Whole
from biomlm.distill.objective import DistillObjective
from biomlm.distill.teachers.teacher import TeacherRequest, Teachers
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.model.packed import pack
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.objectives.config import ObjectiveConfig
from biomlm.training.objective import LossDenominators

Without = Callable[[list[str], str], list[str]]

CPU = Device(torch.device("cpu"), "fp32")
TOTALS = LossDenominators(masked=3, tokens=9)


def objective_of(config: LossConfig, student: MaskedLM, *teachers: MaskedLM) -> DistillObjective:
    torch.manual_seed(0)
    answerer = Teachers(teachers, CPU, 50, config.temperature)
    return DistillObjective(
        answerer, student.config, config, vocab_size=50, steps=5, sources=["teacher"] * len(teachers)
    )


def test_the_objective_is_the_weighted_sum_of_its_parts_and_trains_its_projection(make_model, batch) -> None:  # type: ignore[no-untyped-def]
    student, teacher = make_model(16), make_model(24)
    objective = objective_of(LossConfig(kl=3, temperature=2, mlm=0.5, hidden=7), student, teacher)
    terms = objective(student, batch, TOTALS)
    expected = 3 * terms["kl"] + 0.5 * terms["mlm"] + 7 * terms["hidden"]
    torch.testing.assert_close(terms["loss"], expected)
    terms["loss"].backward()
    assert all(p.grad is not None for p in [*student.parameters(), *objective.parameters()])
    assert all(p.grad is None for p in teacher.parameters())
    assert [name for name, _ in objective.named_parameters()] == ["alignments.0.projections.2_2.weight"]


def test_every_part_by_hand(make_model, batch) -> None:  # type: ignore[no-untyped-def]
    """All parts at once against plain torch on both models' states."""
    student, teacher = make_model(16).eval(), make_model(24).eval()
    config = LossConfig(kl=1, mlm=1, hidden=1, layers="1:2,2:1", distance="mse", pooled=1, embeddings=1, relations=1)
    objective = objective_of(config, student, teacher)
    terms = objective(student, batch, TOTALS)
    with torch.no_grad(), captured(student.encoder, 2) as ours, captured(teacher.encoder, 2) as theirs:
        s, t = student.encoder(batch.packed), teacher.encoder(batch.packed)
    project = dict(objective.alignments[0].projections.items())  # type: ignore[operator, union-attr]
    hidden = [F.mse_loss(project[f"{a}_{b}"](s[a]), t[b]) for a, b in ((1, 2), (2, 1))]
    torch.testing.assert_close(terms["hidden"], sum(hidden) / 2)
    means = [(project["2_2"](s[2][i:j]).mean(0), t[2][i:j].mean(0)) for i, j in ((0, 5), (5, 9))]
    pooled = [F.mse_loss(ours, theirs) for ours, theirs in means]
    torch.testing.assert_close(terms["pooled"], (5 * pooled[0] + 4 * pooled[1]) / 9)
    torch.testing.assert_close(terms["embeddings"], F.mse_loss(project["0_0"](s[0]), t[0]))
    relations = relation_distance(ours[0], theirs[0], (5, 4), 2, kind="minilmv2") / 9
    torch.testing.assert_close(terms["relations"], relations)
    parts = ("kl", "mlm", "hidden", "pooled", "embeddings", "relations")
    torch.testing.assert_close(terms["loss"], sum(terms[name] for name in parts))


def test_two_teachers_of_different_widths(make_model, batch) -> None:  # type: ignore[no-untyped-def]
    """Predictions are averaged, states aligned with each through a projection of its own."""
    student = make_model(16).eval()
    config = LossConfig(kl=0, mlm=0, hidden=1)
    both = objective_of(config, student, make_model(24), make_model(32))
    assert [name for name, _ in both.named_parameters()] == [f"alignments.{i}.projections.2_2.weight" for i in range(2)]
    value = both(student, batch, TOTALS)["hidden"]
    parts = []
    for i, width in enumerate((24, 32)):
        alone = objective_of(config, student, make_model(width))
        alone.alignments[0].load_state_dict(both.alignments[i].state_dict())
        parts.append(alone(student, batch, TOTALS)["hidden"])
    torch.testing.assert_close(value, sum(parts) / 2)


def test_the_last_states_and_their_means_share_a_projection(make_model, batch) -> None:  # type: ignore[no-untyped-def]
    objective = objective_of(LossConfig(kl=0, mlm=0, hidden=1, pooled=1), make_model(16), make_model(24))
    assert [name for name, _ in objective.named_parameters()] == ["alignments.0.projections.2_2.weight"]
    alone = objective_of(LossConfig(kl=0, mlm=0, hidden=0, pooled=1), make_model(16), make_model(24))
    terms = alone(make_model(16), batch, TOTALS)
    assert set(terms) == {"loss", "pooled"}
    terms["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in alone.parameters())


def test_equal_widths_need_no_projection_and_the_same_model_has_nothing_to_learn(make_model, batch) -> None:  # type: ignore[no-untyped-def]
    student = make_model(24).eval()
    objective = objective_of(LossConfig(pooled=1, embeddings=1, relations=1), student, make_model(24))
    assert not list(objective.parameters())
    terms = objective(student, batch, TOTALS)
    for name in ("kl", "hidden", "pooled", "embeddings", "relations"):
        assert terms[name].abs() < 1e-5


def test_shares_of_micro_batches_add_up_to_the_whole(make_model, batch) -> None:  # type: ignore[no-untyped-def]
    student = make_model(16).eval()
    objective = objective_of(LossConfig(pooled=1, embeddings=1, relations=1), student, make_model(24))
    first = Batch(pack([[0, 5, 6, 7, 2]]), torch.tensor([1, 3]), torch.tensor([4, 9]))
    second = Batch(pack([[0, 8, 9, 2]]), torch.tensor([1]), torch.tensor([30]))
    totals = LossDenominators.of([first, second])
    parts = [objective(student, b, totals) for b in (first, second)]
    whole = objective(student, batch, totals)
    for name, value in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], value)


def test_every_parameter_has_a_gradient_whatever_is_learnt(make_model, batch) -> None:  # type: ignore[no-untyped-def]
    """A loss on the first layer alone leaves zeros for the rest: engines and checkpoints count on every parameter."""
    student = make_model(16)
    objective = objective_of(LossConfig(kl=0, mlm=0, hidden=1, layers="1:2"), student, make_model(24))
    terms = objective(student, batch, TOTALS)
    assert set(terms) == {"loss", "hidden"}
    terms["loss"].backward()
    assert all(p.grad is not None for p in [*student.parameters(), *objective.parameters()])
    assert student.encoder.layers[1].mlp.up.weight.grad.abs().max() == 0
    assert student.encoder.layers[0].mlp.up.weight.grad.abs().max() > 0


def test_weights_change_linearly_over_the_run(make_model, batch) -> None:  # type: ignore[no-untyped-def]
    assert [weight_at("5..1", share) for share in (0, 0.5, 1)] == [5, 3, 1]
    assert weight_at(2.0, 0.7) == 2
    student, teacher = make_model(16).eval(), make_model(24)
    config = LossConfig(kl="4..0", mlm="0..2", hidden=0)
    for step, share in ((0, 0.0), (1, 0.25), (4, 1.0)):
        terms = objective_of(config, student, teacher)(student, replace(batch, step=step), TOTALS)
        torch.testing.assert_close(terms["loss"], 4 * (1 - share) * terms["kl"] + 2 * share * terms["mlm"])


def test_a_layer_map_that_names_a_missing_layer_is_refused(make_model) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(
        MismatchError, match="layer 2 with the teacher's layer 9, but the student has 2 layers and the teacher 2"
    ):
        objective_of(LossConfig(layers="2:9"), make_model(16), make_model(24))
    with pytest.raises(ConfigError, match="is no layer map"):
        LossConfig(layers="2-9")
    with pytest.raises(MismatchError, match="the student has 2 layers, this teacher only 1"):
        objective_of(LossConfig(), make_model(16), make_model(24, layers=1))
    with pytest.raises(ConfigError, match="relation_layer is 3, and the teacher has 2"):
        objective_of(LossConfig(relations=1, relation_layer=3), make_model(16), make_model(24))
    with pytest.raises(ConfigError, match="5 relation heads do not divide the student's width 16 and the teacher's 24"):
        objective_of(LossConfig(relations=1, relation_heads=5), make_model(16), make_model(24))


@pytest.mark.filterwarnings("ignore")  # torch.compile walks through all that is imported, deprecated functions too
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler")
def test_a_compiled_teacher_says_the_same(make_model, batch) -> None:  # type: ignore[no-untyped-def]
    wanted = [TeacherRequest(True, (0, 1))]
    plain, fused = (Teachers([make_model(16, layers=1)], CPU, 50, compiled=on)(batch, wanted) for on in (False, True))
    assert isinstance(plain.targets, Whole)
    assert isinstance(fused.targets, Whole)
    torch.testing.assert_close(fused.targets.logits[0], plain.targets.logits[0])
    torch.testing.assert_close(fused.states[0].hidden, plain.states[0].hidden)


def test_options_that_contradict_each_other_are_refused() -> None:
    where = {"shards": "shards", "out": "out"}
    with pytest.raises(ConfigError, match="there is no teacher"):
        DistillConfig(**where)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="there is no teacher"):
        DistillConfig(**where, teacher=["a", ""])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not by --objective"):
        DistillConfig(**where, teacher="a", objective=ObjectiveConfig(mlm=2))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="start: teacher takes the weights"):
        DistillConfig(**where, teacher="a", init="b", start="teacher")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="by its hidden states only"):
        DistillConfig(**where, teacher="a", vocabulary="words")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a cache holds predictions"):
        DistillConfig(**where, cache="c", loss=LossConfig(relations=1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="fairseq cannot distil"):
        DistillConfig(**where, teacher="a", engine="fairseq")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="looks into a layer"):
        DistillConfig(**where, teacher="a", loss=LossConfig(relations=1), teacher_compile=True)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="which parts of its teacher a student takes, and it takes none"):
        DistillConfig(**where, teacher="a", start_layers="uniform")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs no compiled teacher"):
        DistillConfig(**where, cache="c", teacher_compile=True)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is no weight"):
        LossConfig(kl="much")
    with pytest.raises(ConfigError, match=r"loss\.mlm is -1"):
        LossConfig(mlm=-1)
    with pytest.raises(ConfigError, match=r"loss\.kl is inf"):
        LossConfig(kl=math.inf)
    with pytest.raises(ConfigError, match=r"loss\.layers says how loss\.hidden is learnt, which is left out"):
        LossConfig(hidden=0, layers="uniform")
    with pytest.raises(ConfigError, match=r"loss\.distance says how loss\.hidden or pooled or embeddings"):
        LossConfig(hidden=0, distance="mse")
    with pytest.raises(ConfigError, match="are counts"):
        LossConfig(relations=1, relation_heads=-1)


def test_weights_without_a_teacher_are_refused() -> None:
    with pytest.raises(ConfigError, match="involves the teacher"):
        LossConfig(kl=0, hidden=0)
    with pytest.raises(ConfigError, match="temperature"):
        LossConfig(temperature=0)


@pytest.fixture(scope="module")
def runs(
    teacher_run: Path, distill_words: list[str], student_words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A teacher, a student of it, and the same student alone."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "teacher").symlink_to(teacher_run)
    common = [*distill_words, *student_words, "--steps", "60"]
    learn = ["distill", *common, "--teacher", str(teacher_run)]
    assert cli.run([*learn, "--out", str(folder / "student"), "--save_every", "20"]) == 0
    assert cli.run(["pretrain", *common, "--out", str(folder / "alone")]) == 0
    return folder


@pytest.fixture
def learn(teacher_run: Path, distill_words: list[str], student_words: list[str]) -> list[str]:
    return ["distill", *distill_words, *student_words, "--teacher", str(teacher_run)]


def test_the_student_learns_what_the_teacher_says(runs: Path) -> None:
    train = [r for r in read_metrics(runs / "student") if r["split"] == "train"]
    for name in ("kl", "hidden", "mlm", "loss"):
        assert train[-1][name] < train[0][name]
    result = read_json(runs / "student" / "result.json")
    teacher = read_json(runs / "teacher" / "result.json")
    for name in ("loss", "accuracy"):
        assert result["teacher"][name] == pytest.approx(
            teacher["valid"][name], rel=5e-3
        )  # the teacher's weights are bf16 here
    assert result["tokens"] == read_json(runs / "alone" / "result.json")["tokens"]


def test_a_ramp_goes_by_the_runs_own_steps(
    learn: list[str], teacher_run: Path, distill_words: list[str], tmp_path: Path
) -> None:
    """In a run that trains another longer too: the weight is recounted from the recorded parts of the loss."""
    first, second = tmp_path / "first", tmp_path / "second"
    ramp = ["--loss.kl", "5..1", "--log_every", "1", "--precision", "fp32"]
    assert cli.run([*learn, *ramp, "--steps", "9", "--out", str(first)]) == 0
    longer = ["distill", *distill_words, "--teacher", str(teacher_run), "--longer", str(first)]
    assert cli.run([*longer, *ramp, "--steps", "5", "--out", str(second)]) == 0
    for run, steps in ((first, 9), (second, 5)):
        train = [record for record in read_metrics(run) if record["split"] == "train"]
        weights = [(r["loss"] - 2 * r["mlm"] - r["hidden"]) / r["kl"] for r in train]
        assert weights == pytest.approx([5 - 4 * step / (steps - 1) for step in range(steps)], rel=1e-3)


def test_an_interrupted_distillation_ends_with_the_same_bits(runs: Path, learn: list[str], tmp_path: Path) -> None:
    """Take the finished run back to its first kept checkpoint, as a killed process would leave it."""
    run = tmp_path / "student"
    shutil.copytree(runs / "student", run)
    expected = checkpoint.load_latest(run)
    shutil.rmtree(checkpoint.path_of(run, 60))
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"done"', '"running"'))
    assert cli.run([*learn, "--steps", "60", "--out", str(run), "--save_every", "20"]) == 0
    again = checkpoint.load_latest(run)
    assert again is not None
    assert expected is not None
    assert again.step == expected.step == 60
    for group in ("model", "objective", "optimizer"):
        for name, tensor in expected.tensors[group].items():
            assert torch.equal(again.tensors[group][name], tensor), f"{group} {name}"


def test_a_teacher_with_another_vocabulary_is_refused(
    tiny_docs: Path, learn: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], without: Without
) -> None:
    tokenizer, shards = tmp_path / "tokenizer", tmp_path / "shards"
    docs = ["--docs", str(tiny_docs)]
    assert cli.run(["tokenizer", "train", *docs, "--vocab_size", "290", "--out", str(tokenizer)]) == 0
    assert cli.run(["tokenizer", "encode", *docs, "--tokenizer", str(tokenizer), "--out", str(shards)]) == 0
    assert (
        cli.run([*without(learn, "--shards"), "--shards", str(shards), "--steps", "5", "--out", str(tmp_path / "run")])
        == 2
    )
    assert "the shards have 290 pieces, this teacher 300" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_of_the_same_size_in_another_order_is_refused(
    runs: Path, learn: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], without: Without
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(runs / "teacher", teacher)
    for file in (teacher / "tokenizer").iterdir():
        if file.name != "tokenizer.json":
            file.unlink()
    state = read_json(teacher / "tokenizer" / "tokenizer.json")
    vocab = state["model"]["vocab"]  # type: ignore[index, call-overload]
    by_id = {i: piece for piece, i in vocab.items()}
    vocab[by_id[10]], vocab[by_id[11]] = 11, 10
    write_json(teacher / "tokenizer" / "tokenizer.json", state)
    assert (
        cli.run(
            [*without(learn, "--teacher"), "--teacher", str(teacher), "--steps", "5", "--out", str(tmp_path / "run")]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert f"id 10 is {by_id[10]!r} in the shards and {by_id[11]!r} in this teacher" in said
    assert not (tmp_path / "run").exists()


def test_silent_rows_of_either_side_do_not_matter(learn: list[str], tmp_path: Path) -> None:
    """Rows padded to a round number differ between teacher and student; the vocabulary is the same."""
    for name, words in (("plain", []), ("padded", ["--model.pad_vocab_to", "64"])):
        assert cli.run([*learn, *words, "--steps", "5", "--log_every", "1", "--out", str(tmp_path / name)]) == 0
    metrics = [[r["kl"] for r in read_metrics(tmp_path / n) if r["split"] == "train"] for n in ("plain", "padded")]
    assert metrics[0][0] == pytest.approx(
        metrics[1][0], rel=0.05
    )  # other rows, other random weights: not the same numbers


def test_a_teacher_too_short_for_the_sequences_is_refused(
    learn: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*learn, "--batch.max_length", "64", "--out", str(tmp_path / "run")]) == 2
    assert "the model has 32 positions, sequences up to 64 tokens" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_deeper_student_is_refused(learn: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*learn, "--model.num_hidden_layers", "3", "--out", str(tmp_path / "run")]) == 2
    assert "the student has 3 layers, this teacher only 2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_two_teachers_all_parts_and_a_student_made_of_the_first(
    runs: Path, learn: list[str], tmp_path: Path, without: Without
) -> None:
    """The command takes several teachers, a schedule, every part, and starts from the teacher's own layers."""
    teachers = ["--teacher", str(runs / "teacher"), str(runs / "student")]
    parts = ["--loss.kl", "5..1", "--loss.embeddings", "0.5", "--loss.relations", "1", "--loss.relation", "minilm"]
    words = [*without(learn, "--teacher"), *teachers, *parts, "--start", "teacher", "--steps", "4", "--log_every", "1"]
    assert cli.run([*words, "--out", str(tmp_path / "run")]) == 0
    last = [r for r in read_metrics(tmp_path / "run") if r["split"] == "train"][-1]
    expected = 1 * last["kl"] + 2 * last["mlm"] + last["hidden"] + 0.5 * last["embeddings"] + last["relations"]
    assert last["loss"] == pytest.approx(expected, rel=1e-4)
