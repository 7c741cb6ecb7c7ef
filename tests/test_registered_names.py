"""No module compares the name of a thing that a registry lists, or keeps a table by such names: what depends on it stands in its row."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from biomlm.convert.formats.registry import FORMATS, WRITTEN, find
from biomlm.convert.names.hf_architectures import BY_SHAPE, BY_TYPE
from biomlm.core.verbs import load
from biomlm.model.optim.registry import OPTIMISERS
from biomlm.model.shapes import SHAPES

ROOT = Path(__file__).parent.parent
ROOMS = sorted(path.parent for path in ROOT.glob("*/py.typed"))
FILES = [path for room in ROOMS for path in sorted(room.rglob("*.py"))]
# Where a kind's names may stand as keys: its registry, and for shapes the tables of the formats that have classes for them.
REGISTRIES = {
    "shape": (SHAPES.keys() | BY_TYPE.keys(), {"model/shapes.py", "convert/names/fairseq.py"}),
    "format": (FORMATS.keys(), {"convert/formats/registry.py"}),
    "optimiser": (OPTIMISERS.keys(), {"model/optim/registry.py"}),
}
# The engine `fairseq` is another thing of the same name, and so are the packages that `doctor` looks for.
OTHER = ("engine", "optional", "package")


def names_in(node: ast.AST) -> set[str]:
    """The strings that a constant, or a tuple, list or set of some, holds."""
    parts = node.elts if isinstance(node, (ast.Tuple, ast.List, ast.Set)) else [node]
    return {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def special_cases(tree: ast.AST, names: set[str]) -> Iterator[tuple[int, str]]:
    """Comparisons with such a name, patterns of one, and tables of several."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(names_in(side) & names for side in sides) and not any(
                ast.unparse(side).endswith(OTHER) for side in sides
            ):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.MatchValue) and names_in(node.value) & names:
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Dict):
            keys = set().union(*(names_in(key) for key in node.keys if key is not None))
            if len(keys & names) > 1:
                yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize("kind", list(REGISTRIES))
def test_nothing_compares_a_registered_name(kind: str) -> None:
    names, registries = REGISTRIES[kind]
    found = [
        f"{place}:{line}: {text}"
        for path in FILES
        if (place := path.relative_to(ROOT).as_posix()) not in registries
        for line, text in special_cases(ast.parse(path.read_text(encoding="utf-8")), set(names))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        'x = 4 if encoder.shape == "modernbert" else 2',
        'if config.shape in ("bert", "megatron-bert"): pass',
        'if config.shape not in TABLES or "roberta" != config.shape: pass',
        'y = {"roberta": 0.1, "modernbert": 0.0}[shape]',
        'match shape:\n    case "bert": pass',
    ],
)
def test_a_special_case_is_seen(text: str) -> None:
    assert list(special_cases(ast.parse(text), set(SHAPES)))


def test_every_shape_has_a_class_of_hugging_faces() -> None:
    assert BY_SHAPE.keys() == SHAPES.keys()


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_format_can_be_written_as_its_row_says(name: str) -> None:
    assert (find(name).target is not None) == (name in WRITTEN)


@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_an_optimiser_is_where_its_row_says(name: str) -> None:
    assert callable(load(OPTIMISERS[name].build_at))
