"""No option is taken without effect: each one of every verb changes what comes out, changes only how it is made, or is refused."""

import contextlib
import math
import typing
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from biomlm.core import cli, config
from biomlm.core import fields as option_fields
from biomlm.core.errors import ConfigError
from biomlm.core.manifest import config_hash
from biomlm.pretrain.data.config import StageConfig

ROOT = Path(__file__).parents[2]
# What each verb cannot do without; every other option has its default.
BASE = {
    "corpus build": "--out O --text T",
    "corpus stats": "--docs D",
    "corpus show": "--docs D --ids I",
    "tokenizer train": "--docs D --out O",
    "tokenizer encode": "--docs D --tokenizer T --out O",
    "tokenizer compare": "--tokenizers T --docs D",
    "pretrain": "--shards S --out O",
    "pretrain average": "--run R --out O",
    "pretrain evaluate": "--model M --shards S --out O",
    "pretrain inspect": "--run R",
    "pretrain trial": "--init M --shards S --out O",
    "distill": "--shards S --teacher T --out O",
    "distill cache": "--shards S --teacher T --out O",
    "distill plan": "--shards S --teacher T",
    "distill report": "--run R --out O",
    "convert": "--src A --dst B --to hf",
    "convert check": "--a A --b B",
    "convert fill": "--model M --sentences <mask>",
    "finetune": "--model M --task ner --data D --out O",
    "finetune predict": "--model M --file F.txt",
    "finetune compare": "--runs A B",
    "finetune blurb": "--runs GAD=A",
    "launch": "--recipe demo --out O",
    "launch plan": "--recipe demo",
    "adapt": "--model M --text T --out O",
    "launch show": "--recipe demo",
    "report": "--runs A",
    "doctor": "",
}
# Other bases, in which other options have an effect.
VARIANTS = {
    "corpus build": [
        "--out O --pmc P",
        "--out O --pubmed P",
        "--out O --notes N",
        "--out O --text T --where.executor slurm",
    ],
    "corpus show": ["--docs D --sample 3"],
    "tokenizer train": ["--docs D --out O --sample 0.5", "--docs D --out O --kind wordpiece"],
    "tokenizer compare": ["--tokenizers T --docs D --terms F"],
    "pretrain": [
        "--shards S --out O --batch.form pairs --objective.sop 1",
        "--shards S --out O --batch.form pairs --objective.drp 1",
        "--shards S --out O --batch.form pairs --objective.sso 1",
        "--shards S --out O --mlm.final_mask_rate 0.1",
        "--shards S --out O --batch.form pairs --objective.nsp 1",
        "--shards S --out O --mlm.mask_schedule step --mlm.final_mask_rate 0.1",
        "--shards S --out O --optim.schedule wsd",
        "--shards S --out O --optim.schedule polynomial",
        "--shards S --out O --engine deepspeed",
        "--shards S --out O --examples.count 3",
        "--shards S --out O --mix.temperature 2",
        "--shards S --out O --init M",
        "--shards S --out O --needs_init X --init M",
    ],
    "distill": [
        "--shards S --teacher T --out O --loss.kl 0",
        "--shards S --teacher T --out O --mlm.final_mask_rate 0.1",
        "--shards S --teacher T --out O --start teacher",
        "--shards S --teacher T --out O --loss.relations 1",
        "--shards S --teacher T --out O --mlm.mask_schedule step --mlm.final_mask_rate 0.1",
        "--shards S --teacher T --out O --optim.schedule wsd",
        "--shards S --teacher T --out O --optim.schedule polynomial",
        "--shards S --teacher T --out O --engine deepspeed",
        "--shards S --teacher T --out O --examples.count 3",
        "--shards S --teacher T --out O --mix.temperature 2",
        "--shards S --teacher T --out O --init M",
    ],
    "distill plan": [
        "--shards S --teacher T --mlm.final_mask_rate 0.1",
        "--shards S --teacher T --mlm.mask_schedule step --mlm.final_mask_rate 0.1",
        "--shards S --teacher T --mix.temperature 2",
    ],
    "distill cache": [
        "--shards S --teacher T --out O --mlm.final_mask_rate 0.1",
        "--shards S --teacher T --out O --mlm.mask_schedule step --mlm.final_mask_rate 0.1",
        "--shards S --teacher T --out O --mix.temperature 2",
    ],
    "finetune": [
        "--model M --task multilabel --data D --out O",
        "--model M --task choice --data D --out O --columns.choices a b",
        "--model M --task relation --negative none --data D --out O",
        "--model M --task ner --data D --out O --optim.schedule wsd",
        "--model M --task ner --data D --out O --optim.schedule polynomial",
    ],
    "finetune predict": ["--model M --file F.jsonl", "--model M --file F.txt --out O"],
    "launch": [
        "--recipe demo --out O --on slurm --slurm.gpus 0",
        "--recipe demo --out O --record corpus",
        "--recipe demo --out O --on hosts --hostfile H",
    ],
    "launch plan": ["--recipe demo --fleet v100-32gb"],
    "adapt": ["--model M --notes N --out O --data D --task relation"],
}
# Another value than the default, where the type alone does not give one that is allowed.
VALUES: dict[str, Any] = {
    "mlm.pos": ["NOUN"],
    "mlm.mask_share": 0.7,
    "mlm.final_mask_rate": 0.3,
    "curriculum": [StageConfig(steps=5, max_length=64)],
    "optim.betas": (0.8, 0.9),
    "columns.choices": ("a", "c"),
    "weights": {"notes": 2.0},
    "mix.weights": {"notes": 2.0},
    "note_columns": {"id": "x"},
    "select.languages": ["en"],
    "select.date_from": "2011",
    "select.date_to": "2012",
    "loss.layers": "uniform",
    "start_layers": "uniform",
    "grid.lr": (1e-5,),
    "grid.size": (8,),
    "sentences": ["a <mask>"],
    "sources": ["notes"],
    "runs": ["A", "C"],
    "hidden": [2],
    "budget": "8h",
}
OVERRIDING = {("finetune blurb", "runs"): ["GAD=B"], ("finetune", "guard.spike"): 20.0}
REFUSED = {  # by the configuration itself, whatever else is given
    *(("distill", f"objective.{name}") for name in ("mlm", "nsp", "sop", "drp", "sso")),
    *(
        (verb, "batch.short_seq_prob") for verb in ("distill", "distill cache", "distill plan")
    ),  # of pairs, which they have not
    ("finetune", "optim.ema"),
}


def options(verb: str) -> dict[str, Any]:
    """Every option that is no group of others, and its type."""
    return {key: kind for key, kind in config.keys(class_of(verb)).items() if not is_dataclass(kind)}


def class_of(verb: str) -> type:
    return cli.VERBS[verb].config


def parse(verb: str, words: str) -> Any:
    return config.parse(class_of(verb), words.split(), prog=f"biomlm {verb}")


def value_at(settings: Any, key: str) -> Any:
    for name in key.split("."):
        settings = getattr(settings, name)
    return settings


def with_value(settings: Any, key: str, value: Any) -> Any:
    first, _, rest = key.partition(".")
    return replace(settings, **{first: with_value(getattr(settings, first), rest, value) if rest else value})


def is_runtime(cls: type, key: str) -> bool:
    first, _, rest = key.partition(".")
    found = next(f for f in fields(cls) if f.name == first)
    return bool(found.metadata.get("runtime")) or (bool(rest) and is_runtime(typing.get_type_hints(cls)[first], rest))


def another(verb: str, key: str, kind: Any, now: Any) -> Any:
    """A value other than the present one."""
    if (given := OVERRIDING.get((verb, key), VALUES.get(key))) is not None:
        return given
    if typing.get_origin(kind) is Literal:
        return next(choice for choice in typing.get_args(kind) if choice != now)
    if isinstance(now, bool):
        return not now
    if isinstance(now, int) or (now is None and int in typing.get_args(kind)):
        return (now or 0) + 1
    if isinstance(now, float):
        return now / 2 or 0.5
    return ["other"] if isinstance(now, list) else "other"


def outcomes(verb: str) -> dict[str, set[str]]:
    """What becomes of another value of every option, over the verb's bases: an effect, runtime, refused, or no effect."""
    found: dict[str, set[str]] = {}
    for base in (BASE[verb], *VARIANTS.get(verb, [])):
        plain = parse(verb, base)
        assert not list(option_fields.without_effect(plain)), base
        for key, kind in options(verb).items():
            value, seen = another(verb, key, kind, value_at(plain, key)), found.setdefault(key, set())
            try:
                made = with_value(plain, key, value)
            except ConfigError:
                seen.add("refused")
                continue
            assert value_at(made, key) != value_at(plain, key), f"{key} of {verb} keeps {value}"
            if key in dict(option_fields.without_effect(made)):
                seen.add("no effect")
            elif config_hash(made) != config_hash(plain):
                seen.add("effect")
            else:
                seen.add("runtime" if is_runtime(type(made), key) else "nothing")
    return found


@pytest.mark.parametrize("verb", BASE)
def test_every_option_has_an_effect_somewhere_and_is_never_taken_for_nothing(verb: str) -> None:
    for key, found in outcomes(verb).items():
        assert "nothing" not in found, f"{key} is taken, and changes nothing"
        if (verb, key) in REFUSED:
            assert not found & {"effect", "runtime"}, key
        else:
            assert found & {"effect", "runtime"}, f"{key}: {found}"


def test_every_verb_is_in_the_table() -> None:
    assert BASE.keys() == cli.VERBS.keys()


@pytest.mark.parametrize(
    ("verb", "base", "idle"),
    [
        ("corpus build", "--out O --text T", "select.article_types select.journals select.licenses select.categories select.retracted "
         "tables xpath translations placeholders repeats templates template_patients note_columns where.partition where.time where.memory"),
        ("corpus build", "--out O --notes N", "text_unit select.article_types select.journals select.licenses select.retracted tables "
         "xpath translations where.partition where.time where.memory"),
        ("tokenizer train", "--docs D --out O", "seed"),
        ("tokenizer compare", "--tokenizers T --docs D", "examples"),
        ("pretrain", "--shards S --out O", "mlm.step_at batch.short_seq_prob mix.by optim.decay optim.power deepspeed.stage "
         "deepspeed.offload deepspeed.config examples.sources"),
        ("pretrain", "--shards S --out O --engine fairseq", "mlm.step_at batch.short_seq_prob mix.by optim.decay optim.power "
         "compute.attention compute.compile compute.recompute compute.deterministic guard.spike guard.patience guard.rewinds "
         "guard.on_divergence deepspeed.stage deepspeed.offload deepspeed.config half_gradients timeout examples.count "
         "examples.sources keep_every"),
        ("pretrain", "--shards S --out O --engine deepspeed --optim.schedule constant", "mlm.step_at batch.short_seq_prob mix.by "
         "optim.final optim.decay optim.power guard.spike half_gradients examples.sources"),
        ("pretrain average", "--run R --out O --ema", "last"),
        ("distill cache", "--shards S --teacher T --out O --k 0 --hidden 1", "mlm.step_at batch.short_seq_prob mix.by kind temperature"),
        ("finetune", "--model M --task classification --data D --out O --grid.lr 1e-5 --grid.size 8", "batch.size optim.lr optim.decay "
         "optim.power optim.ema columns.choices columns.document columns.separator crf groups negative one_type repair_tags st21pv"),
        ("finetune predict", "--model M --file F.txt.gz", "text id"),
        ("launch", "--recipe demo --out O", "code seconds hostfile slurm.partition slurm.cpu_partition "
         "slurm.prefix slurm.account slurm.time slurm.nodes slurm.gpus slurm.tasks slurm.cpus "
         "slurm.memory slurm.grace slurm.arrays slurm.setup slurm.extra"),
        ("launch", "--recipe demo --out O --on slurm", "code seconds hostfile override processes slurm.tasks stop_timeout"),
        ("launch plan", "--recipe demo", "vocab_size measured"),
    ],
    ids=lambda value: value[:30],
)  # fmt: skip
def test_what_has_no_effect_is_named(verb: str, base: str, idle: str) -> None:
    plain, found = parse(verb, base), set()
    for key, kind in options(verb).items():
        with contextlib.suppress(ConfigError):
            made = with_value(plain, key, another(verb, key, kind, value_at(plain, key)))
            found |= {key} & dict(option_fields.without_effect(made)).keys()
    assert found == set(idle.split())


def test_the_command_line_refuses_it_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    build = ["corpus", "build", "--notes", "N", "--select.article_types", "review", "--out", "O"]
    assert cli.run(build) == 2
    said = capsys.readouterr().err
    assert "--select.article_types has no effect here: it needs --pubmed or --pmc" in said
    assert "Leave out select.article_types." in said


@pytest.mark.parametrize(
    "verb", ["corpus build", "pretrain", "distill", "finetune", "convert check", "tokenizer train"]
)
@pytest.mark.parametrize("number", [-1, math.nan, math.inf])
def test_no_number_is_negative_or_none(verb: str, number: float) -> None:
    plain = parse(verb, BASE[verb])
    for key in options(verb):
        now = value_at(plain, key)
        if isinstance(now, bool) or not isinstance(now, (int, float)):
            continue
        with pytest.raises(ConfigError):
            option_fields.require_numbers(
                with_value(plain, key, type(now)(number) if math.isfinite(number) else number), ""
            )


@pytest.mark.parametrize(
    "words",
    [
        "pretrain --shards S --out O --seed",
        "pretrain --shards S --out O --batch.tokens",
        "finetune --model M --task ner --data D --out O --grid.size",
    ],
)
@pytest.mark.parametrize("number", [2**64, 10**20])
def test_a_number_beyond_64_bits_is_refused(words: str, number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*words.split(), str(number)]) == 2
    name = words.rsplit("--", maxsplit=1)[-1]
    assert f"{name} is {number}, and must be less than 2 to the power of 64" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "pretrain --shards S --out O --mlm.max_predictions -1",
        "pretrain --shards S --out O --mlm.static_masks -5",
        "pretrain --shards S --out O --eval_tokens -5",
        "pretrain --shards S --out O --timeout 0",
        "pretrain --shards S --out O --model.hidden_size 0",
        "pretrain --shards S --out O --optim.schedule wsd --optim.warmup 0.2 --optim.decay 1.0",
        "pretrain --shards S --out O --mix.weights.notes nan",
        'pretrain --shards S --out O --curriculum [{"steps":5,"tokens":0}]',
        "convert check A B --tolerance nan",
        "distill report RUN --out O --mask_rate 0",
        "finetune --model M --task ner --data D --out O --batch.max_length 0",
        "tokenizer train --docs D --out O --vocab_size 0",
        "launch demo --out O --on slurm --slurm.nodes 0",
        "launch demo --out O --stop_timeout -1",
    ],
)
def test_numbers_that_mean_nothing_are_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(words.split()) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_map_can_be_given_key_by_key() -> None:
    made = parse("pretrain", "--shards S --out O --mix.weights.pubmed 1 --steps 5 --mix.weights.notes=2.5")
    assert (made.mix.weights, made.steps) == ({"pubmed": 1.0, "notes": 2.5}, 5)
    assert parse("corpus build", "--out O --notes N --note_columns.id ROW").note_columns == {"id": "ROW"}


@pytest.mark.parametrize("file", sorted(ROOT.glob("*/configs/*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_configuration_has_no_idle_option(file: Path) -> None:
    verb = file.parts[-3]
    goes_on = verb == "pretrain" and "needs_init" in (yaml.safe_load(file.read_text()) or {})
    words = BASE[verb] + (" --init M" if goes_on else "") + f" --config {file}"
    assert parse(verb, words.replace("--task ner ", "")) is not None
    if goes_on:
        with pytest.raises(ConfigError, match="random weights"):
            parse(verb, f"{BASE[verb]} --config {file}")


def test_settings_of_a_folder_that_was_made_are_read_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("optim: {power: 3}")
    words = [*BASE["finetune"].split(), "--config", str(file)]
    with pytest.raises(ConfigError, match="power has no effect"):
        config.parse(class_of("finetune"), words, prog="biomlm finetune")
    assert config.parse(class_of("finetune"), words, prog="biomlm finetune", as_it_was=True).optim.power == 3


@pytest.mark.parametrize("words", ["--notes a.csv --notes b.csv --out O", "--notes=a.csv --out O --notes b.csv c.csv"])
def test_a_list_given_twice_does_not_lose_the_first(words: str) -> None:
    with pytest.raises(ConfigError, match=r"--notes is given twice(.|\n)*one --notes"):
        parse("corpus build", words)
    assert parse("corpus build", "--notes a.csv --notes+ b.csv --out O").notes == ["a.csv", "b.csv"]


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("out: O\nnotes: [a]\nnotes: [b]\n", 3, "notes"),
        ("out: O\nselect:\n  max_words: 3\n  max_words: 4\n", 4, "select.max_words"),
        ("out: O\nnotes: [a]\nnote_columns:\n  id: x\n  id: y\n", 5, "note_columns.id"),
    ],
)
def test_a_key_that_stands_twice_in_a_configuration_is_refused(text: str, line: int, key: str, tmp_path: Path) -> None:
    (file := tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"line {line}.*`{key}` stands twice"):
        parse("corpus build", f"--config {file}")


def test_an_empty_configuration_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (file := tmp_path / "c.yaml").write_text("# nothing yet\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: (.|\n)*--print_config"):
        parse("corpus build", f"--config {file}")


def test_a_column_map_names_known_fields_only() -> None:
    with pytest.raises(ConfigError, match=r"note_columns(.|\n)*id, patient, text"):
        parse("corpus build", "--notes N --out O --note_columns.pat mrn")


@pytest.mark.parametrize("words", ["--select.languages english", "--select.languages en xx"])
def test_a_language_that_is_never_found_is_refused(words: str) -> None:
    with pytest.raises(ConfigError, match=r"select\.languages(.|\n)*en, de"):
        parse("corpus build", f"--text T --out O {words}")


def test_a_span_of_dates_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"select\.date_to"):
        parse("corpus build", "--text T --out O --select.date_from 2015 --select.date_to 2011")
    parse("corpus build", "--text T --out O --select.date_from 2015-03 --select.date_to 2015")
