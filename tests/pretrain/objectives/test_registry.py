"""Objectives and distillation's parts are known by their registries: no other module compares or lists their names."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from biomlm.core.fields import decisive
from biomlm.distill.losses.config import PARTS, LossConfig
from biomlm.distill.losses.predictions import PredictionPart
from biomlm.distill.losses.states import StatePart
from biomlm.pretrain.objectives.config import OBJECTIVES, PAIRINGS, ObjectiveConfig, objective
from biomlm.pretrain.objectives.term import Term

ROOT = Path(__file__).parents[3]
NAMES = {*OBJECTIVES, *PARTS}
OWN = {entry.place.rpartition(".")[0] for entry in (*OBJECTIVES.values(), *PARTS.values())}
OWN |= {ObjectiveConfig.__module__, LossConfig.__module__}
ROOMS = ("training", "pretrain", "distill", "convert", "launch")
FILES = [
    path
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
    if ".".join(("biomlm", *path.relative_to(ROOT).with_suffix("").parts)) not in OWN
]


def texts(*nodes: ast.expr) -> set[str]:
    """The texts that stand in expressions, in tuples, lists, sets and keys too."""
    return {
        n.value for node in nodes for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    }


def mentions(tree: ast.AST) -> Iterator[tuple[int, set[str]]]:
    """Where a text is compared with something or asked for as an attribute, and where two names or more are listed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield node.lineno, texts(node.left, *node.comparators) & NAMES
        elif isinstance(node, ast.match_case):
            values = [n.value for n in ast.walk(node.pattern) if isinstance(n, ast.MatchValue)]
            yield node.pattern.lineno, texts(*values) & NAMES
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            yield node.lineno, texts(*node.args) & NAMES
        elif isinstance(node, ast.Attribute) and node.attr in PAIRINGS:
            yield node.lineno, {node.attr}
        elif isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            listed = texts(*node.elts) & NAMES
            yield node.lineno, listed if len(listed) > 1 else set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_other_module_compares_a_name(path: Path) -> None:
    found = [(line, names) for line, names in mentions(ast.parse(path.read_text(encoding="utf-8"))) if names]
    assert not found, f"{path} names what its registry should say"


@pytest.mark.parametrize(
    "text",
    [
        'x.pair in ("nsp", "drp")',
        'kind == "sop"',
        '"hidden" != part',
        'getattr(config, "kl")',
        'PARTS = ("kl", "mlm")',
        "config.objective.nsp",
        'match kind:\n    case "drp":\n        pass',
    ],
)
def test_the_search_finds_what_it_is_for(text: str) -> None:
    assert any(names for _, names in mentions(ast.parse(text)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_computed_by_a_term(name: str) -> None:
    assert issubclass(OBJECTIVES[name].load(), Term)


@pytest.mark.parametrize("name", PARTS)
def test_every_part_is_computed_by_what_its_mean_is_over(name: str) -> None:
    assert issubclass(PARTS[name].load(), PredictionPart if PARTS[name].over == "masked" else StatePart)


@pytest.mark.parametrize("config", [ObjectiveConfig, LossConfig])
def test_every_term_is_described(config: type) -> None:
    doc = str(config.__doc__)
    assert doc.count("Args:") == 1
    for name, entry in (OBJECTIVES if config is ObjectiveConfig else PARTS).items():
        assert f"    {name}: {entry.help}" in doc


def test_a_later_objective_leaves_former_hashes_as_they_are() -> None:
    @dataclass(frozen=True)
    class Later(ObjectiveConfig):
        ahead: float = objective("pairs.PairTerm", "Something new.", ahead="next", behind="before")

    former = {"mlm": 1.0, "nsp": 0.0, "sop": 0.0, "drp": 0.0}
    assert decisive(ObjectiveConfig()) == decisive(Later()) == former
    assert decisive(Later(ahead=0.5)) == {**former, "ahead": 0.5}
