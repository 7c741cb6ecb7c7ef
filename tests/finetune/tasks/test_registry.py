"""The registry is the one place that names tasks, and its classes have all that the rooms ask of a task."""

import ast
import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from biomlm.core.config import keys
from biomlm.core.fields import listed
from biomlm.finetune.config import FinetuneConfig
from biomlm.finetune.tasks.base import Task
from biomlm.finetune.tasks.registry import TASKS, reading

ROOT = Path(__file__).parents[3]
REGISTRY = ROOT / "finetune/tasks/registry.py"
OTHERS = {  # tables in which such a word is no task of today
    "convert/names/heads.py": "EARLIER",  # what folders of before say by a task's name alone
    "finetune/commands/blurb.py": "TYPES",  # BLURB's own names of its kinds of data sets
}


def test_no_other_file_names_a_task() -> None:
    """Not to compare with, not to look up: a name would be a special case, or a place to edit for every new task."""
    for room in ("finetune", "convert"):
        for path in sorted((ROOT / room).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            named = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value in TASKS]
            if table := OTHERS.get(path.relative_to(ROOT).as_posix()):
                (lines,) = (
                    range(n.lineno, int(n.end_lineno or 0) + 1)
                    for n in tree.body
                    if isinstance(n, (ast.Assign, ast.AnnAssign))
                    and ast.unparse(n).startswith((f"{table} ", f"{table}:"))
                )
                named = [n for n in named if n.lineno not in lines]
            assert path == REGISTRY or not named, f"{path}:{named[0].lineno} names a task"


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_all_that_is_asked_of_one(name: str) -> None:
    cls = TASKS[name].task
    wanted = {member for member in (*vars(Task), *Task.__annotations__) if not member.startswith("_")}
    instance = {f.name for f in fields(cls)}
    assert not {member for member in wanted if not hasattr(cls, member)} - instance
    assert not inspect.isabstract(cls)
    assert {"tokenizer", "labels", "max_length", "overlap", "unseen"} <= instance


def test_options_of_tasks_are_options() -> None:
    named = {option for entry in TASKS.values() for option in (*entry.options, *entry.needs)}
    assert named <= keys(FinetuneConfig).keys()
    assert all(set(entry.needs) <= set(entry.options) for entry in TASKS.values())


def test_what_depends_on_the_task_is_what_some_task_names() -> None:
    """An option of `FinetuneConfig` that only some tasks read is refused for the others."""
    ruled = {f.name for f in fields(FinetuneConfig) if "--task" in getattr(f.metadata.get("applies"), "needs", "")}
    assert ruled == {option for entry in TASKS.values() for option in entry.options if "." not in option}


def test_names_are_listed_as_a_sentence_does() -> None:
    assert listed(["a"]) == "a"
    assert listed(reading("crf")) == "ner or pico"
    assert listed("abc") == "a, b or c"


def test_a_configuration_imports_no_torch() -> None:
    code = "import sys, biomlm.finetune.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
