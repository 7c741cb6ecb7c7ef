"""`biomlm adapt`: what it refuses, what it writes down, and (slowly) notes and abstracts to a checked model and its page."""

from pathlib import Path

import pytest
import yaml

from biomlm.core import cli
from biomlm.core.files import read_json
from biomlm.launch.adaptation.phases import Trial, phases
from biomlm.launch.adaptation.recipe_file import Request, first_stages, later_stages, text
from biomlm.launch.commands import plan
from biomlm.launch.recipe import read

DEMO = Path(__file__).parents[3] / "demo" / "data"
TRIAL = Trial(22_000_000, False, True, 512, 1, 4096, 2000.0, "cpu")


def request(**more: object) -> Request:
    given = {"notes": ["notes.csv"], "pubmed": ["a b.xml", "c.xml"]}
    settings = {"model": "M", "start": "M", "salt_file": "salt", "valid_fraction": 0.05, "max_length": None}
    return Request(**{**settings, "text": given, "training": {}, "fleet": "", **more})  # type: ignore[arg-type]


def written(asked: Request, tmp_path: Path, trial: Trial = TRIAL) -> Path:
    tokens = {"notes": 1e6, "pubmed": 3e6}
    planned = phases(trial, tokens, most_passes=2, seconds=None)
    stages = [*first_stages(asked), *later_stages(asked, trial, planned, list(tokens))]
    file = tmp_path / "recipe.yaml"
    file.write_text(text(stages, recipe="R", out="O", summary="M: adapted.", inputs=["M", "notes.csv"]))
    return file


def test_what_is_written_is_a_recipe_whose_options_all_verbs_take(tmp_path: Path) -> None:
    file = written(request(data="D", task="relation", negative="none"), tmp_path)
    recipe = read(str(file), str(tmp_path / "out"))
    plan.check(recipe)
    stages = {stage.name: stage for stage in recipe.stages}
    assert list(stages) == [
        *("corpus", "shards", "trial", "before", "task-before", "general", "adapted", "model", "task-after", "tasks"),
        "report",
    ]
    assert stages["corpus"].args["pubmed"] == ["a b.xml", "c.xml"]
    assert stages["general"].args["init"] == "M"
    assert stages["adapted"].args["init"] == str(tmp_path / "out" / "general")
    assert stages["adapted"].args["mix"] == {"weights": {"notes": 1, "pubmed": 0}}
    evaluated = {name: stages["before"].args[name] for name in ("max_length", "eval_tokens")}
    assert evaluated["eval_tokens"] == stages["adapted"].args["eval_tokens"], "before and after on the same tokens"
    assert evaluated["max_length"] == stages["adapted"].args["batch"]["max_length"]
    assert "# 2 passes over 4,000,000 tokens" in file.read_text()


def test_a_model_that_is_no_hugging_face_folder_is_converted_first(tmp_path: Path) -> None:
    stages = [s.name for s in read(str(written(request(start="${out}/start"), tmp_path)), "o").stages]
    assert stages[0] == "start"


def test_a_model_without_a_head_has_no_figures_before(tmp_path: Path) -> None:
    trial = Trial(22_000_000, False, False, 512, 1, 4096, 2000.0, "cpu")
    assert "before" not in [s.name for s in read(str(written(request(), tmp_path, trial)), "o").stages]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model FacebookAI/roberta-base --text t", "hf download FacebookAI/roberta-base --local-dir roberta-base"),
        ("--model m", "there is no text"),
        ("--model m --text t --budget 8", "`8` is no time.\nWrite 30m, 8h or 2d to --budget."),
        ("--model m --text t --data d", "--data needs its --task"),
        ("--model m --text t --task ner", "--task has no effect here: it needs --data"),
        ("--model m --text t --valid_fraction 0", "valid_fraction must lie between 0 and 1"),
        ("--model m --text t --fleet v100", "there is no fleet v100"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["adapt", *words.split(), "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 2
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model bare --notes here", "bare: this model has no tokenizer"),
        (
            "--model whole --notes gone.csv",
            "gone.csv: there is no such file or folder.\nGive what is there to --notes.",
        ),
        ("--model whole --notes here/*.gz", "here/*.gz: there is no such file or folder"),
        ("--model whole --notes here --salt_file gone", "gone: there is no such file or folder"),
        ("--model whole --notes here --data gone --task ner", "to --data."),
    ],
)
def test_what_later_stages_need_is_looked_for_first(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A corpus may take hours; a model whose tokenizer was left behind is known before."""
    monkeypatch.chdir(tmp_path)
    for folder in ("bare", "whole", "here"):
        (tmp_path / folder).mkdir()
    for file in ("bare/config.json", "whole/config.json", "whole/vocab.txt"):
        (tmp_path / file).write_text("{}")
    assert cli.run(["adapt", *words.split(), "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 2
    assert not Path("out").exists()


def test_adapt_is_no_stage_of_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text("stages: [{name: a, verb: adapt, args: {model: m, out: '${out}/a'}}]\n")
    assert cli.run(["launch", "plan", str(tmp_path / "r.yaml")]) == 2
    assert "there is no verb `adapt`" in capsys.readouterr().err


@pytest.fixture
def encoder(tmp_path: Path, tiny_tokenizer: Path) -> Path:
    """A RoBERTa of Hugging Face's with random weights, over the tiny vocabulary."""
    from transformers import AutoTokenizer, RobertaConfig, RobertaForMaskedLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    folder, tokenizer = tmp_path / "encoder", AutoTokenizer.from_pretrained(tiny_tokenizer)
    RobertaForMaskedLM(RobertaConfig(vocab_size=300, max_position_embeddings=66, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_notes_and_abstracts_to_a_model_and_what_it_was_worth(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForMaskedLM

    out = tmp_path / "out"
    words = ["adapt", "--model", str(encoder), "--notes", str(DEMO / "notes"), "--salt_file", str(DEMO / "salt")]
    words += ["--pubmed", str(DEMO / "pubmed" / "ccby_journals.xml.gz"), "--valid_fraction", "0.1", "--passes", "1"]
    words += ["--out", str(out)]
    assert cli.run([*words, "--budget", "0.01m"]) == 2
    assert "one pass over these" in capsys.readouterr().err
    assert not (out / "adapted").exists()
    assert cli.run([*words, "--budget", "1d"]) == 0
    assert AutoModelForMaskedLM.from_pretrained(out / "model").config.vocab_size == 300
    before, after = (read_json(out / name / "result.json")["valid"]["sources"] for name in ("before", "adapted"))  # type: ignore[index]
    assert after["notes"]["loss"] < before["notes"]["loss"] - 0.3
    assert "What the training was worth" in (out / "report.html").read_text()
    recipe = yaml.safe_load((out / "recipe.yaml").read_text())
    edited = next(stage for stage in recipe["stages"] if stage["name"] == "report")
    edited["args"]["title"] = "Edited"
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert cli.run(words) == 2
    assert "this folder was made with another budget" in capsys.readouterr().err
    assert cli.run([*words, "--budget", "1d"]) == 0, "the same command runs the recipe as it stands"
    assert "<title>Edited</title>" in (out / "report.html").read_text()
