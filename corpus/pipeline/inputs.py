"""What the user names on the command line → the list of input files, and their division into tasks.

A task is the unit of work, of resuming and of numbering, and depends on the files alone: never on the number of workers.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from biomlm.core.errors import DataError
from biomlm.corpus.sources import BY_NAME
from biomlm.inputs.slices import Slice, slices
from biomlm.inputs.streams import bare_name

TASK_BYTES = 8 << 20  # small files are read together until they have this many bytes


@dataclass(frozen=True)
class Input:
    """One file to read.

    Args:
        source: The name of the source whose reader reads it.
        path: Where it is.
        size: Bytes as stored.
        label: Its name, with as many of its folders as tell it from the source's other files.
        part: What is read of it, if not all.
    """

    source: str
    path: str
    size: int
    label: str
    part: Slice | None = None


def suffixes(source: str) -> tuple[str, ...]:
    """Return the suffixes of files that the source's reader reads, compression aside, where the file itself is named."""
    return BY_NAME[source].suffixes + BY_NAME[source].named


def suits(source: str, path: Path, named: bool) -> bool:
    """Return whether a file's suffix, compression aside, is one that the source's reader reads."""
    return bare_name(path.name).endswith(suffixes(source) if named else BY_NAME[source].suffixes)


def find(source: str, names: Iterable[str]) -> list[Input]:
    """List the files behind names of files, folders and glob patterns, each once, in the order of their names.

    PubMed's update files supersede earlier ones; the NLM numbers them so that the order of names is the order of time.

    Raises:
        DataError: A name matches nothing, or names a file that the reader cannot read; a link in a folder leads nowhere.
    """
    paths: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        matches = [path] if path.exists() else list(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        files: list[Path] = []
        for match in matches:
            if match.is_dir():
                within = [p for p in match.rglob("*") if suits(source, p, named=False)]
                for broken in (p for p in within if p.is_symlink() and not p.exists()):
                    raise DataError(
                        "this is a link to a file that is not there",
                        file=broken,
                        remedy="Fetch the file, or remove the link.",
                    )
                files += filter(Path.is_file, within)
            elif suits(source, match, named=True):
                files.append(match)
        if not files:
            what = "nothing by that name" if not matches else f"no file that --{source} reads"
            kinds = ", ".join(suffixes(source))
            raise DataError(
                f"there is {what}",
                file=name,
                remedy=f"Give {kinds} files (.gz and .xz too), folders or globs to --{source}.",
            )
        paths |= dict.fromkeys(files)
    ordered = sorted(paths, key=lambda p: (p.name, str(p)))
    labels = _labels(ordered)
    return [Input(source, str(p), p.stat().st_size, labels[p]) for p in ordered]


def _labels(paths: list[Path]) -> dict[Path, str]:
    """Label every path by its last parts, as few as no other path has."""
    labels: dict[Path, str] = {}
    for length in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        ends = {path: "/".join(path.parts[-length:]) for path in paths if path not in labels}
        times = Counter(ends.values())
        labels |= {path: end for path, end in ends.items() if times[end] == 1 or length >= len(path.parts)}
    return labels


def tasks(inputs: Iterable[Input]) -> list[list[Input]]:
    """Divide inputs into tasks: neighbours of one source together until `TASK_BYTES` are reached; big tables by their slices."""
    groups: list[list[Input]] = []
    size = 0
    for item in (part for whole in inputs for part in _parts(whole)):
        if not groups or groups[-1][0].source != item.source or item.part or size + item.size > TASK_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(item)
        size += item.size
    return groups


def _parts(item: Input) -> list[Input]:
    """Return the slices of a big table, or the input itself."""
    if item.size <= TASK_BYTES or not bare_name(item.path).endswith(BY_NAME[item.source].sliced):
        return [item]
    parts = slices(Path(item.path))
    return [replace(item, part=part, size=item.size // len(parts)) for part in parts] or [item]
