"""The house's rules (docs/design.md), read from the folders and the syntax trees: rooms, folders, imports, and a few habits."""

import ast
import importlib.util
import re
import subprocess
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import get_args, get_type_hints

import jedi
import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "biomlm"

MAY_IMPORT = {
    "core": set(),
    "inputs": {"core"},
    "corpus": {"core", "inputs"},
    "tokenizer": {"core", "inputs", "corpus"},
    "model": {"core"},
    "convert": {"core", "inputs", "tokenizer", "model"},
    "training": {"core", "model", "convert"},
    "pretrain": {"core", "tokenizer", "model", "convert", "training"},
    "distill": {"core", "tokenizer", "model", "convert", "training", "pretrain"},
    "finetune": {"core", "inputs", "tokenizer", "model", "convert", "training"},
    "launch": {"core"},
}
MODULES_A_FOLDER = 15
FILES = [path for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py"))]
MODULES = {".".join(("biomlm", *path.relative_to(ROOT).with_suffix("").parts)): path for path in FILES}
FOLDERS = sorted({path.parent for path in FILES})
UNPICKLERS = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNPICKLE = "convert/safe_load/unpickle.py"
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def test_every_room_is_there_and_linked_and_nothing_else_is_packaged() -> None:
    assert {path.parent.name for path in ROOT.glob("*/py.typed")} == set(MAY_IMPORT)
    links = {path.name: path for path in PACKAGE.iterdir() if path.is_symlink()}
    assert set(links) == set(MAY_IMPORT)
    assert all(link.resolve() == ROOT / room for room, link in links.items())
    assert all((folder / "__init__.py").is_file() for folder in FOLDERS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "biomlm" and name != "biomlm.__version__":
            assert parts[1] in MAY_IMPORT[room] | {room}, f"{path} imports {name}"


def test_no_circle_of_modules_is_imported() -> None:
    graph = {
        module: {known for name in imports(path) for known in (name, name.rpartition(".")[0]) if known in MODULES}
        for module, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(f"a circle: {' → '.join(circle.args[1])}")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_folder_is_found_through_by_looking(folder: Path) -> None:
    modules = [path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "__main__")]
    assert len(modules) <= MODULES_A_FOLDER, f"{folder} holds {len(modules)} modules"
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder


def test_every_verb_has_a_file_of_its_name() -> None:
    from biomlm.core.verbs import VERBS

    for verb, place in VERBS.items():
        room, _, rest = place.module.removeprefix("biomlm.").partition(".")
        assert rest == f"commands.{verb.rpartition(' ')[2]}", verb
        assert room == verb.split()[0] or verb in ("report", "doctor", "adapt"), verb


def test_engines_that_start_processes_are_values_of_their_verbs_option() -> None:
    from biomlm.core.verbs import VERBS

    own = {verb: row for verb, row in VERBS.items() if row.own_processes}
    assert own
    for verb, row in own.items():
        assert set(row.own_processes) <= set(get_args(get_type_hints(row.config)["engine"])), verb


@pytest.mark.parametrize("path", TESTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_tests_lie_as_the_rooms_do(path: Path) -> None:
    folder = path.parent.relative_to(ROOT / "tests")
    if folder.parts and folder.parts[0] in MAY_IMPORT:
        assert (ROOT / folder).is_dir(), f"{path} lies in a folder that {folder.parts[0]}/ does not have"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_pickle_is_executed(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    used = {name.split(".")[0] for name in imports(path)}
    if path.relative_to(ROOT).as_posix() != UNPICKLE:
        assert not used & UNPICKLERS, f"{path} imports {used & UNPICKLERS}"
        assert "torch.load" not in text, f"{path}: only {UNPICKLE} reads foreign checkpoints"
    assert "weights_only=False" not in text
    assert "allow_pickle=True" not in text


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


COMPUTES = {"model", "training", "pretrain", "distill", "finetune"}
MAKERS = {
    "zeros",
    "empty",
    "full",
    "ones",
    "tensor",
    "arange",
    "eye",
    "linspace",
    "randperm",
    "rand",
    "randn",
    "randint",
}
# What is made on the host on purpose, and why.
ON_THE_HOST = {
    "model/device.py": 1,  # a copy in the host's memory
    "model/encoder.py": 1,  # a parameter, which stands where its module is made
    "model/packed.py": 1,  # a batch, before it is moved
    "model/vocabulary_transfer.py": 1,  # before training
    "model/kernels/attention_cpu.py": 6,  # the processor's kernel
    "model/kernels/dropout.py": 2,  # the processor's kernel
    "training/saver.py": 1,  # what a checkpoint is copied into
    "training/distributed/deepspeed.py": 1,  # a count of steps
    "training/distributed/process_group.py": 1,  # numbers that ranks exchange
    "distill/student.py": 2,  # before training
    "distill/teachers/cross_vocabulary.py": 1,  # a batch, before it is moved
    "finetune/tasks/crf.py": 1,  # a parameter, which stands where its module is made
    "finetune/tasks/examples.py": 3,  # a batch, before it is moved
    "finetune/training/inference.py": 2,  # outputs that have been fetched
}


def made_without_a_device(tree: ast.AST) -> list[int]:
    """The lines of calls that make a tensor on the default device, which is the processor."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and (node.func.value.id, node.func.attr) in {("torch", maker) for maker in MAKERS}
        and "device" not in {keyword.arg for keyword in node.keywords}
    ]


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.relative_to(ROOT).parts[0] in COMPUTES], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_a_tensor_is_made_where_it_is_needed(path: Path) -> None:
    """On a machine without a GPU nothing else notices."""
    lines = made_without_a_device(ast.parse(path.read_text(encoding="utf-8")))
    allowed = ON_THE_HOST.get(path.relative_to(ROOT).as_posix(), 0)
    assert len(lines) == allowed, f"{path}: tensors without a device in lines {lines}"


def test_a_tensor_without_a_device_is_seen() -> None:
    code = "torch.zeros(3)\ntorch.zeros(3, device=d)\nx.new_zeros(3)\ntorch.tensor([1], dtype=t)\ntorch.zeros_like(x)"
    assert made_without_a_device(ast.parse(code)) == [1, 4]


SAYS_NOTHING = {"found", "said", "made", "here", "theirs"}


def names_assigned(tree: ast.AST) -> set[str]:
    """Every variable that is assigned in a function or module: fields of a class, which are read with its name before them, are not."""
    fields = {
        id(part.target)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.AnnAssign)
    }
    stored = [
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in fields
    ]
    caught = [node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name]
    return {*stored, *caught, *(node.arg for node in ast.walk(tree) if isinstance(node, ast.arg))}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_variable_is_named_after_what_it_holds(path: Path) -> None:
    assert not names_assigned(ast.parse(path.read_text(encoding="utf-8"))) & SAYS_NOTHING


def test_every_way_to_assign_a_name_is_seen() -> None:
    code = "def f(here, *, theirs):\n for said in (found := 1,):\n  pass\n made: int = 2\nclass C:\n found: int\n"
    assert names_assigned(ast.parse(code)) == {"here", "theirs", "said", "found", "made"}
    assert names_assigned(ast.parse("class C:\n found: int")) == set()


POSITIONAL = 4
BY_NAME = ("training", "pretrain", "distill", "finetune")


def positional(function: ast.FunctionDef) -> int:
    """The parameters of a function that a caller may give without their names, without `self`."""
    names = [parameter.arg for parameter in (*function.args.posonlyargs, *function.args.args)]
    return len([name for name in names if name not in ("self", "cls")])


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.relative_to(ROOT).parts[0] in BY_NAME], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_more_than_four_values_are_given_by_name(path: Path) -> None:
    """Constructors and public functions; torch calls an autograd function's `forward(ctx, …)` by position."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and (node.name == "__init__" or not node.name.startswith("_")):
            by_torch = bool(node.args.args) and node.args.args[0].arg == "ctx"
            assert by_torch or positional(node) <= POSITIONAL, f"{path}:{node.lineno}: {node.name}"


def large_dataclasses(tree: ast.Module) -> set[str]:
    """The dataclasses of a module that have more than four fields."""
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any("dataclass" in ast.unparse(each) for each in node.decorator_list)
        and len([part for part in node.body if isinstance(part, ast.AnnAssign)]) > POSITIONAL
    }


def large_dataclasses_in_sight(path: Path) -> set[str]:
    """Those that a module defines or imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = large_dataclasses(tree)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (origin := MODULES.get(str(node.module))):
            known = large_dataclasses(ast.parse(origin.read_text(encoding="utf-8")))
            names |= {each.asname or each.name for each in node.names if each.name in known}
    return names


def by_place(call: ast.Call) -> int:
    """The values that a call gives without their names; a row of them counts as too many."""
    return POSITIONAL + 1 if any(isinstance(value, ast.Starred) for value in call.args) else len(call.args)


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.relative_to(ROOT).parts[0] in BY_NAME], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_a_dataclass_is_given_more_than_four_values_by_name(path: Path) -> None:
    """Where it is made: four of a configuration's ten are often enough."""
    classes = large_dataclasses_in_sight(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in classes:
            assert by_place(node) <= POSITIONAL, f"{path}:{node.lineno}: {node.func.id}"


def test_values_without_their_names_are_counted() -> None:
    calls = ["C(1, 2, 3, 4)", "C(1, 2, 3, 4, 5)", "C(*row)", "C(**named)", "C(1, a=2, b=3, c=4, d=5)"]
    assert [by_place(call) for code in calls if isinstance(call := ast.parse(code, mode="eval").body, ast.Call)] == [
        4,
        5,
        5,
        0,
        1,
    ]


EVERY = 17  # one module in so many is asked for all its imports of ours


def test_an_editor_follows_every_import_of_ours() -> None:
    """Jedi, which stands behind many editors, finds the file of each, without an installed package."""
    project = jedi.Project(ROOT, added_sys_path=[str(ROOT / "src")], smart_sys_path=False)
    asked = 0
    for path in FILES[::EVERY]:
        script = jedi.Script(path=path, project=project)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("biomlm."):
                line, column = node.lineno, node.col_offset + len("from ") + len(str(node.module)) - 1
                places = [place.module_path for place in script.goto(line, column, follow_imports=True)]
                assert places, f"{path}:{line}: jedi finds no {node.module}"
                assert all(place and ROOT in place.resolve().parents for place in places), places
                asked += 1
    assert asked >= 20


WRITTEN = re.compile(
    r"\bfrom (biomlm(?:\.\w+)*) import (\w+(?: as \w+)?(?:, \w+(?: as \w+)?)*)|\bimport (biomlm(?:\.\w+)*)"
)
TEXTS = [
    *ROOT.glob("*.md"),
    *(p for d in ("docs", "tests", "benchmarks", "demo", "tools") for p in (ROOT / d).rglob("*")),
]


@pytest.mark.parametrize(
    "path",
    [p for p in TEXTS if p.suffix in (".py", ".md", ".sh") and p.name != "log.md"],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_every_import_that_is_written_anywhere_can_be_followed(path: Path) -> None:
    """In programs inside strings and in pages too, which no other tool reads."""
    for origin, names, whole in WRITTEN.findall(path.read_text(encoding="utf-8")):
        module = importlib.util.find_spec(origin or whole)
        assert module, f"{path}: there is no {origin or whole}"
        for name in (each.split(" as ")[0].strip() for each in names.split(",") if each):
            known = importlib.util.find_spec(f"{origin}.{name}") if module.submodule_search_locations else None
            text = Path(str(module.origin)).read_text(encoding="utf-8")
            assert known or re.search(rf"\b{name}\b", text), f"{path}: {origin} has no {name}"


PLACE = re.compile(r"`((?:\w[\w-]*/)+[\w.-]+\.(?:py|md|yaml|sh|svg|txt))`")
OURS = {*MAY_IMPORT, "src", "tests", "benchmarks", "demo", "docs", "tools"}


@pytest.mark.parametrize(
    "path", [*FILES, *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_every_file_that_is_named_is_there(path: Path) -> None:
    if path.name in ("log.md", "CHANGELOG.md"):
        pytest.skip("these tell what was")
    for place in PLACE.findall(path.read_text(encoding="utf-8")):
        assert place.split("/")[0] not in OURS or (ROOT / place).is_file(), f"{path} names {place}"


def test_what_decides_is_where_the_table_says() -> None:
    """The names behind the files of `docs/design.md`; the files are looked for above."""
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)` \(`(\w+)`\)", text)
    assert len(named) >= 7
    for path, name in named:
        assert re.search(rf"\bdef {name}\b", (ROOT / path).read_text(encoding="utf-8")), f"{path} has no {name}"


def test_no_room_is_importable_by_its_bare_name() -> None:
    """`core` or `tests` on the path would hide packages of others."""
    from sys import executable

    code = "import importlib.util as u; print([n for n in ('core', 'corpus', 'convert', 'tests', 'model') if u.find_spec(n)])"
    done = subprocess.run([executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
