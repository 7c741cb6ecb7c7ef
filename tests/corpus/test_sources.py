"""The list of sources is the one place that names them, and what it says of them is what the command takes."""

import ast
from pathlib import Path

import pytest
from datatrove.pipeline.readers.base import BaseDiskReader

from biomlm.core import cli
from biomlm.core.config import keys
from biomlm.core.errors import ConfigError
from biomlm.corpus.config import BuildConfig
from biomlm.corpus.sources import BY_NAME, SOURCES

ROOT = Path(__file__).parents[2]
ROOMS = sorted(path.name for path in (ROOT / "src/biomlm").iterdir() if path.is_symlink())
NAMING = (
    "corpus/sources.py",  # the list
    "corpus/readers/",  # each source's own reader
    "core/verbs.py",  # commands as users type them
    "launch/",  # starts the others by such commands, with options by name
)


def test_no_other_file_names_a_source() -> None:
    """Neither to compare with nor to look up. `text` is the key of a document's text, too: what is compared with a source counts."""
    for path in (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))):
        if path.relative_to(ROOT).as_posix().startswith(NAMING):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path}:{getattr(node, 'lineno', 0)} names a source"
            if isinstance(node, ast.Constant):
                assert node.value not in BY_NAME.keys() - {"text"}, where
            if isinstance(node, (ast.Compare, ast.Subscript)) and "source" in ast.unparse(node).lower():
                assert not any(isinstance(n, ast.Constant) and n.value == "text" for n in ast.iter_child_nodes(node)), (
                    where
                )


def test_every_source_and_option_is_an_option_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["corpus", "build", "--help"]) == 0
    shown = "".join(capsys.readouterr().out.split())  # lines break anywhere
    for source in SOURCES:
        assert {source.name, *source.options} <= keys(BuildConfig).keys()
        for help in (source.help, *(option.help for option in source.options.values())):
            assert "".join(help.split()) in shown


def test_readers_are_readers_and_ranks_are_told_apart() -> None:
    assert all(issubclass(source.reader, BaseDiskReader) for source in SOURCES)
    assert len({source.rank for source in SOURCES}) == len({source.name for source in SOURCES}) == len(SOURCES)
    assert [source.name for source in SOURCES[:4]] == ["pubmed", "pmc", "notes", "text"], "builds that were interrupted"


def test_options_of_a_source_are_checked() -> None:
    with pytest.raises(ConfigError, match="template_patients"):
        BuildConfig(out="o", template_patients=1)
    with pytest.raises(ConfigError, match="which is no field of a note"):
        BuildConfig(out="o", note_columns={"mrn": "patient"})
