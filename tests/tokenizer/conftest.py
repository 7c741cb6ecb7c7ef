"""A folder of 120 documents, a vocabulary learnt from it, and its shards; each made once a session, never written to."""

from pathlib import Path

import pytest

from biomlm.core import cli
from biomlm.corpus.documents import document_files
from biomlm.tokenizer import documents

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "tests" / "data" / "tokenizer" / "docs"
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def docs() -> Path:
    return DOCS


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared data set is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def tok(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tok") / "tok"
    argv = ["tokenizer", "train", "--docs", str(DOCS), "--vocab_size", "2000", "--out", str(out), "--workers", "1"]
    assert cli.run(argv) == 0
    return out


@pytest.fixture(scope="session")
def shards(tok: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "shards"
    argv = ["tokenizer", "encode", "--docs", str(DOCS), "--tokenizer", str(tok), "--out", str(out), "--workers", "1"]
    assert cli.run(argv) == 0
    return out


@pytest.fixture(scope="session")
def abstracts(docs: Path) -> list[str]:
    """The train documents as `tokenizer train` reads them: white-space runs as single blanks."""
    return [" ".join(d.text.split()) for file in document_files(docs, "train") for d in documents.read(file)]
