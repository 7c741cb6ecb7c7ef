"""No verb writes over, around or into what it reads, nor over what it did not write: every byte that stood there stands there after."""

from dataclasses import fields
from pathlib import Path

import pytest

from biomlm.core import cli
from biomlm.core.verbs import VERBS

# verb → its words with IN for what it reads and OUT for what it writes; IN is a folder unless IN.jsonl stands there
COMMANDS = {
    ("corpus build", "out"): "--text IN --out OUT",
    ("tokenizer train", "out"): "--docs IN --out OUT",
    ("tokenizer encode", "out"): "--docs IN --tokenizer ELSE --out OUT",
    ("tokenizer encode", "out", "tokenizer"): "--docs ELSE --tokenizer IN --out OUT",
    ("tokenizer compare", "page"): "IN ELSE --docs ELSE --page OUT",
    ("tokenizer compare", "page", "docs"): "ELSE --docs IN --page OUT",
    ("tokenizer compare", "page", "terms"): "ELSE --docs ELSE --terms IN --page OUT",
    ("pretrain", "out"): "--shards IN --steps 1 --out OUT",
    ("pretrain", "out", "init"): "--shards ELSE --init IN --steps 1 --out OUT",
    ("pretrain", "out", "longer"): "--shards ELSE --longer IN --steps 1 --out OUT",
    ("pretrain average", "out"): "IN --out OUT",
    ("pretrain evaluate", "out"): "IN --shards ELSE --out OUT",
    ("pretrain evaluate", "out", "shards"): "ELSE --shards IN --out OUT",
    ("pretrain inspect", "out"): "IN --out OUT",
    ("pretrain trial", "out"): "IN --shards ELSE --out OUT",
    ("pretrain trial", "out", "shards"): "ELSE --shards IN --out OUT",
    ("distill", "out"): "--shards IN --teacher ELSE --steps 1 --out OUT",
    ("distill", "out", "teacher"): "--shards ELSE --teacher IN --steps 1 --out OUT",
    ("distill", "out", "cache"): "--shards ELSE --cache IN --steps 1 --loss.hidden 0 --out OUT",
    ("distill cache", "out"): "--shards IN --teacher ELSE --steps 1 --out OUT",
    ("distill cache", "out", "teacher"): "--shards ELSE --teacher IN --steps 1 --out OUT",
    ("distill report", "out"): "IN --out OUT",
    ("distill report", "out", "alone"): "ELSE --alone IN --out OUT",
    ("convert", "dst"): "IN OUT --to hf --override",
    ("convert", "dst", "tokenizer"): "ELSE OUT --to hf --tokenizer IN --override",
    ("convert fill", "out"): "IN --sentences <mask> --out OUT",
    ("finetune", "out"): "--model ELSE --task ner --data IN --out OUT",
    ("finetune", "out", "model"): "--model IN --task ner --data ELSE --out OUT",
    ("finetune", "out", "override"): "--model IN --task ner --data ELSE --out OUT --override",
    ("finetune predict", "out"): "ELSE IN.jsonl --out OUT",
    ("finetune predict", "out", "model"): "IN ELSE.jsonl --out OUT",
    ("finetune predict", "out", "brat"): "ELSE IN.jsonl --to brat --out OUT",
    ("finetune predict", "out", "brat, model"): "IN ELSE.jsonl --to brat --out OUT",
    ("finetune predict", "out", "pubtator"): "ELSE IN.jsonl --to pubtator --out OUT",
    ("finetune compare", "out"): "IN ELSE --out OUT",
    ("finetune compare", "page"): "IN ELSE --page OUT",
    ("finetune blurb", "out"): "NCBI-disease=IN --out OUT",
    ("launch", "out"): "IN.yaml --out OUT",
    ("adapt", "out"): "--model IN --text IN --out OUT",
    ("report", "out"): "IN --out OUT",
}
RECIPE = "stages:\n  - {name: docs, verb: corpus build, args: {text: [nowhere], out: '${out}/docs'}}\n"
WRITES_NOTHING = {("launch plan", "out")}  # a name for the commands that it prints
PLACES = ("foreign file", "foreign folder", "the input", "its parent", "a link to it", "a link to a file", "in a file")
BESIDE = {
    "pretrain inspect",
    "report",
    "finetune compare",
    "finetune blurb",
    "launch",
}  # whose page may stand in the folder of a run


def test_every_output_option_is_in_the_table() -> None:
    found = set()
    for verb, place in VERBS.items():
        config = place.config
        found |= {(verb, f.name) for f in fields(config) if f.name in ("out", "dst", "page")}
    assert found == {key[:2] for key in COMMANDS} | WRITES_NOTHING


def stands(folder: Path) -> dict[str, object]:
    """Everything below a folder: where links point to, and the bytes of files."""
    return {
        path.relative_to(folder).as_posix(): (
            path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        )
        for path in sorted(folder.rglob("*"))
    }


def arrange(folder: Path, suffix: str, place: str) -> Path:
    """Put the input at `folder/data/IN…` and something else at the target; the target."""
    read = folder / "data" / f"IN{suffix}"
    read.parent.mkdir()
    if suffix:
        read.write_text(RECIPE if suffix == ".yaml" else "canary of the input\n")
    else:
        (read / "deeper").mkdir(parents=True)
        (read / "deeper" / "notes.txt").write_text("canary of the input\n")
    target = folder / "target"
    if place == "foreign file":
        target.write_text("canary of another\n")
    elif place == "foreign folder":
        (target / "deeper").mkdir(parents=True)
        (target / "deeper" / "thesis.txt").write_text("canary of another\n")
    elif place == "a link to it":
        target.symlink_to(read)
    elif place == "a link to a file":
        (folder / "thesis.txt").write_text("canary of another\n")
        target.symlink_to(folder / "thesis.txt")
    elif place == "in a file":
        (folder / "thesis.txt").write_text("canary of another\n")
        return folder / "thesis.txt" / "target"
    else:
        return {"the input": read, "its parent": read.parent, "in the input": read / "target"}[place]
    return target


@pytest.mark.parametrize("place", [*PLACES, "in the input"])
@pytest.mark.parametrize("key", COMMANDS, ids=" ".join)
def test_what_stands_there_stands_there_after(
    key: tuple[str, ...], place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if place == "in the input" and key[0] in BESIDE:
        return
    words = COMMANDS[key].split()
    suffix = next(Path(word).suffix for word in words if word.rpartition("=")[2].startswith("IN"))
    target = arrange(tmp_path, suffix, place)
    before = stands(tmp_path)
    read = str(tmp_path / "data" / f"IN{suffix}")
    names = {f"IN{suffix}": read, f"NCBI-disease=IN{suffix}": f"NCBI-disease={read}", "OUT": str(target)}
    assert cli.run([*key[0].split(), *(names.get(word, word) for word in words)]) == 2
    error = capsys.readouterr().err
    assert stands(tmp_path) == before
    option = "DST" if key[1] == "dst" else f"--{key[1]}"
    assert f"{target}" in error
    assert error.endswith(f"\nGive another {option}.\n") or key[0] == "launch", error
    assert error.count("\n") == 2
    assert "canary" not in error
