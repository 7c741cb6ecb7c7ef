"""Configurations have the hashes that they had, so that old run folders, caches and launches are not refused."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from biomlm.core import cli, config, manifest
from biomlm.core.errors import ConfigError
from biomlm.corpus.commands.build import StoredConfig
from biomlm.corpus.config import BuildConfig

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "tests" / "data" / "goldens"
LINES: dict[str, str] = json.loads((GOLDENS / "configurations.json").read_text())
# The default title of a page, which no manifest holds, has the package's name in it.
SAID = {"report RUN": ["--title", "biolm report"]}
RUNS = sorted(path.parent.relative_to(GOLDENS).as_posix() for path in (GOLDENS / "world").glob("*/*/config.yaml"))


FORMER_SALT = "biolm"  # of builds without `--salt`, as the demo's public file still has it
NEVER_FOUND = "--select.languages eng"  # the code is `en`: every document was dropped as of another language
START = ("bio-clinicalbert.yaml", "embo-mlm.yaml", "embo-small.yaml")  # they trained from random weights, unsaid


def parse(words: list[str]) -> Any:
    """The configuration that a command line stands for."""
    if words[:2] == ["corpus", "build"]:  # the salt was an option; it stands in the manifest's configuration alone now
        salt = words.pop(words.index("--salt") + 1) if "--salt" in words else FORMER_SALT
        build = config.parse(BuildConfig, [word for word in words[2:] if word != "--salt"], prog="corpus build")
        return StoredConfig(**{f.name: getattr(build, f.name) for f in fields(build)}, salt=salt)
    name = next(" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in cli.VERBS)
    verb = cli.VERBS[name]
    return config.parse(verb.config, words[len(name.split()) :], prog=name, positionals=verb.positionals)


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_has_the_hash_it_had(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if line.endswith(START):
        with pytest.raises(ConfigError, match="Name that model with --init"):
            parse(line.split())
        return
    if NEVER_FOUND in line:
        with pytest.raises(ConfigError, match="which is never found"):
            parse(line.split())
        return
    assert manifest.config_hash(parse([*line.split(), *SAID.get(line, [])])) == LINES[line]


@pytest.mark.parametrize("run", RUNS)
def test_an_old_runs_config_yaml_reads_back_to_its_manifests_hash(run: str) -> None:
    folder = GOLDENS / run
    before = json.loads((folder / "manifest.json").read_text())
    assert (
        manifest.config_hash(parse([*before["stage"].split(), "--config", str(folder / "config.yaml")]))
        == before["config_hash"]
    )


def test_the_default_salt_is_the_one_that_old_splits_and_patients_were_hashed_with() -> None:
    assert (ROOT / "demo" / "data" / "salt").read_text().strip() == FORMER_SALT
