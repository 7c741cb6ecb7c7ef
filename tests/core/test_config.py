"""The command line's promises: dotted flags, lists, bare booleans, YAML, and errors that name the nearest right key."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from biomlm.core import config
from biomlm.core import fields as option_fields
from biomlm.core.errors import ConfigError
from biomlm.core.manifest import config_hash


@dataclass(frozen=True)
class Optim:
    """Optimiser.

    Args:
        lr: Peak learning rate.
        betas: Moments.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    schedule: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ConfigError("optim.lr must be positive", remedy="Try 5e-4.")


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A verb.

    Args:
        src: Source.
        out: Output folder.
    """

    src: str
    out: str = field(metadata={"runtime": True})
    files: list[str] = field(default_factory=list)
    keep: bool = False
    limit: int | None = None
    optim: Optim = field(default_factory=Optim)


def parse(*argv: str, positionals: tuple[str, ...] = ()) -> Verb:
    return config.parse(Verb, argv, prog="biomlm verb", positionals=positionals, example="biomlm verb --src x")


def test_flags_lists_and_booleans() -> None:
    got = parse("--src", "s", "--files", "a b", "c", "1", "--keep", "--optim.lr", "1e-4", "--out=o")
    assert got == Verb(src="s", out="o", files=["a b", "c", "1"], keep=True, optim=Optim(lr=1e-4))
    assert parse("--src", "s", "--out", "o", "--optim.betas", "0.9", "0.999").optim.betas == (0.9, 0.999)
    assert parse("--src", "s", "--keep", "--out", "o", "--limit", "3").limit == 3


def test_positionals() -> None:
    got = parse("x", "a", "b", "--out", "o", positionals=("src", "files"))
    assert (got.src, got.files, got.out) == ("x", ["a", "b"], "o")


def test_yaml_reads_1e_4_as_a_number_and_flags_win(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("src: s\nout: o\noptim:\n  lr: 1e-4\n  schedule: cosine\n")
    got = parse("--config", str(path), "--optim.schedule", "linear")
    assert got.optim == Optim(lr=1e-4, schedule="linear")


def test_saved_configuration_reads_back(tmp_path: Path) -> None:
    first = parse("--src", "s", "--out", "o", "--files", "a", "b", "--limit", "7")
    config.save(first, tmp_path / "c.yaml")
    assert parse("--config", str(tmp_path / "c.yaml")) == first


def test_print_config_is_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--src", "s", "--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["optim"]["lr"] == 1e-3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--src", "s", "--out", "o", "--optim.lrr", "1"), "--optim.lr"),
        (("--src", "s", "--out", "o", "--lr", "1"), "--optim.lr"),
        (("--src", "s", "--out", "o", "--optim.lr", "fast"), "optim.lr"),
        (("--src", "s", "--out", "o", "--optim.schedule", "step"), "optim.schedule"),
        (("--src", "s", "--out", "o", "--limit", "few"), "limit"),
        (("--src", "s", "--out", "o", "--optim.lr=-1"), "positive"),
        (("--out", "o"), "src"),
        (("--src", "s", "--out", "o", "stray"), "stray"),
        (("--src", "s", "--out", "o", "--config", "/no/such.yaml"), "/no/such.yaml"),
        (("--src", "s", "--out"), "out"),
    ],
)
def test_mistakes_are_named(argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(*argv)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("src: s\noptim:\n  lrr: 1\n", r"line 3.*\n.*optim\.lr"),
        ("scr: s\n", r"line 1.*\n.*src"),
        ("- a\n", "key: value"),
        ("a: [1\n", "line"),
        ("a: b: c\n", "line 1"),
    ],
)
def test_yaml_mistakes_name_file_line_and_nearest_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        parse("--config", str(path), "--out", "o")
    assert str(path) in str(caught.value)


def test_hash_ignores_runtime_fields_only() -> None:
    base = Verb(src="s", out="o")
    assert config_hash(base) == config_hash(Verb(src="s", out="elsewhere"))
    assert config_hash(base) != config_hash(Verb(src="s", out="o", optim=Optim(lr=2e-3)))


@dataclass(frozen=True)
class FormerOptim:
    """Before: no `decay`, and `lr` was `rate`."""

    rate: float = 1e-3


@dataclass(frozen=True)
class Former:
    """Before: no `guard`."""

    optim: FormerOptim = field(default_factory=FormerOptim)
    stages: list[FormerOptim] = field(default_factory=list)


@dataclass(frozen=True)
class TodayOptim:
    """Optimiser.

    Args:
        lr: Peak learning rate.
        decay: Weight decay; it was 0 before there was a choice.
    """

    lr: float = option_fields.renamed(1e-3, was="rate")
    decay: float = option_fields.added(0.1, former=0.0)


@dataclass(frozen=True)
class Today:
    """Verb.

    Args:
        optim: Optimiser.
        stages: One after the other.
        guard: Look at losses.
    """

    optim: TodayOptim = field(default_factory=TodayOptim)
    stages: list[TodayOptim] = field(default_factory=list)
    guard: list[str] = option_fields.added(list)


@given(
    rate=st.floats(1e-6, 1), decay=st.floats(0, 1), stages=st.lists(st.floats(1e-6, 1), max_size=3), guard=st.booleans()
)
def test_a_hash_outlives_added_and_renamed_fields(rate: float, decay: float, stages: list[float], guard: bool) -> None:
    before = config_hash(Former(FormerOptim(rate), [FormerOptim(value) for value in stages]))
    today = Today(TodayOptim(rate, decay), [TodayOptim(value, 0.0) for value in stages], ["loss"] * guard)
    assert (config_hash(today) == before) == (decay == 0.0 and not guard)


def test_variables_are_read_under_both_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.variable("PLACE", "none") == "none"
    monkeypatch.setenv("BIOLM_PLACE", "before")
    assert config.variable("PLACE", "none") == "before"
    monkeypatch.setenv("BIOMLM_PLACE", "today")
    assert config.variable("PLACE", "none") == "today"


def test_a_renamed_key_is_read_under_both_names(tmp_path: Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text("# rate: kept\noptim:\n  decay: 0.2\n  rate: 0.5  # rate\nguard: [rate]\n")
    new.write_text(old.read_text().replace("  rate:", "  lr:"))
    words = [["--config", str(old)], [f"--config={old}"], ["--config", str(new)]]
    got = [config.parse(Today, each, prog="biomlm verb") for each in words]
    assert got == [Today(TodayOptim(0.5, 0.2), guard=["rate"])] * 3
    assert config.parse(Today, ["--optim.rate", "2"], prog="p").optim.lr == 2
    assert config.parse(Today, ["--optim.rate=2"], prog="p").optim.lr == 2
    old.write_text("optim:\n  rate: 0.5\n  ratee: 1\n")
    with pytest.raises(ConfigError, match=r"line 3(.|\n)*optim\."):
        config.parse(Today, ["--config", str(old)], prog="p")


def test_a_shipped_configuration_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from biomlm.pretrain.config import PretrainConfig

    base = ["--shards", "S", "--out", "O"]
    file = Path(config.__file__).parents[1] / "pretrain" / "configs" / "gatortron-345m.yaml"
    monkeypatch.chdir(tmp_path)
    expected = config.parse(PretrainConfig, [*base, "--config", str(file)], prog="biomlm pretrain")
    for words in (["--config", "gatortron-345m"], ["--config=gatortron-345m.yaml"]):
        assert config.parse(PretrainConfig, [*base, *words], prog="biomlm pretrain") == expected
    with pytest.raises(ConfigError, match=r"gatortron-345: there is no such file(.|\n)*Did you mean gatortron-345m\?"):
        config.parse(PretrainConfig, [*base, "--config", "gatortron-345"], prog="biomlm pretrain")
    with pytest.raises(ConfigError, match=r"pretrain ships bio-clinicalbert, bio-lm-base"):
        config.parse(PretrainConfig, [*base, "--config", "zzz.yaml"], prog="biomlm pretrain")
    (tmp_path / "gatortron-345m").write_text("steps: 3\n")  # a file that is there goes before a name
    assert config.parse(PretrainConfig, [*base, "--config", "gatortron-345m"], prog="biomlm pretrain").steps == 3


def test_yaml_that_would_fill_the_memory_or_the_stack_is_refused(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
    )
    for text, problem in ((bomb, "with its aliases written out"), ("src: " + "[" * 1500, "nested too deep")):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(ConfigError, match=problem):
            parse("--config", str(tmp_path / "a.yaml"))


def test_yaml_that_holds_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("src: s\noptim: &a\n  lr: *a\n")
    with pytest.raises(ConfigError, match=r"a.yaml \(line 2\): this holds itself"):
        parse("--config", str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(("typed", "value"), [("1e3", 1000), ("2.5E5", 250_000), ("1e+2", 100), ("12", 12)])
def test_whole_numbers_in_powers_of_ten(typed: str, value: int) -> None:
    assert parse("--src", "s", "--out", "o", "--limit", typed).limit == value
    assert parse("--src", "s", "--out", "o", f"--limit={typed}").limit == value


@pytest.mark.parametrize("typed", ["1.5", "15e-1", "1.55e1", "ten"])
def test_what_is_no_whole_number_is_refused(typed: str) -> None:
    with pytest.raises(ConfigError, match="whole number"):
        parse("--src", "s", "--out", "o", "--limit", typed)
