"""The documentation's commands: `docs/commands.md` runs as it stands and has every verb; all others must at least be understood."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from biomlm.core import cli, config
from biomlm.core.errors import UserError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)
INDENTED = re.compile(r"^    (biomlm .*)$", re.M)
TOUR = [line for block in FENCED.findall((ROOT / "docs/commands.md").read_text()) for line in block.splitlines()]


def verb_of(words: list[str]) -> str:
    return next(" ".join(words[1:n]) for n in (3, 2) if " ".join(words[1:n]) in cli.VERBS)


def commands(page: Path) -> Iterator[str]:
    """The commands of a page, lines that end in a backslash joined, comments and shell pieces around them cut away."""
    text = page.read_text(encoding="utf-8")
    for block in (*FENCED.findall(text), *INDENTED.findall(text)):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if line.startswith("biomlm ") and "…" not in line and not set("[{") & set(line.split("#")[0]):
                yield re.split(r"\s(?:#|\||>|&&)", line)[0]


def test_the_tour_has_every_verb() -> None:
    assert {verb_of(shlex.split(line)) for line in TOUR} == set(cli.VERBS)


def test_the_tour_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new user types it, in the root of a clone."""
    for name in ("demo", "docs", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    for line in TOUR:
        assert cli.run(shlex.split(line)[1:]) == 0, line
    assert (tmp_path / "runs/tour/student-hf/config.json").is_file()
    assert (tmp_path / "runs/tour/report.html").stat().st_size > 10_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_documentation_are_understood(page: Path) -> None:
    """Their options exist and take such values; files need not be there."""
    for line in commands(page):
        words = shlex.split(line)
        if set(words) & {"--help", "--version", "--print_config"} or len(words) == 1:
            continue
        name = verb_of(words)
        verb = cli.VERBS[name]
        try:
            config.parse(verb.config, words[1 + len(name.split()) :], prog=name, positionals=verb.positionals)
        except UserError as error:
            if not re.search("required|[Nn]o such file|cannot read", str(error)):
                pytest.fail(f"{page.name}: {line}\n{error}")
