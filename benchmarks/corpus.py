"""Readers and builds against pubmed_parser, readers against the floor: ratios of processor time, taken in one run on the same files.

    python benchmarks/corpus.py --pubmed FOLDER --pmc FOLDER [--peer PYTHON] [--large]

`--peer` is the interpreter of an environment with pubmed_parser in it (`python -m venv peer && peer/bin/pip install pubmed_parser`);
without it only the floor is compared. Processor time of one process on the same files, gunzip included on every side; rounds alternate,
and the best of each counts, so that a busy machine does all the same harm. Both sides give title, abstract with labels, journal, date,
languages, publication types, MeSH, ids and the PMIDs of references; pubmed_parser also gives authors and grants, which it cannot be told to
leave out, and the reader also gives other abstracts, related articles and cleaned text with the offsets of its sections. pubmed_parser
takes four calls for what the JATS reader gives at once: article, paragraphs, captions, references.
The build is `corpus build` with one worker, all of it: start, sentences, versions, documents in gzip; its other side is a script that
starts pubmed_parser and writes what it gives as a line of JSON in gzip each.
`--large` adds a file of 30,000 records, the size of the NLM's, a 1 GB file (peak memory) and files of 8 to 80 thousand records (linearity),
made of the real records in a temporary folder.
"""

import argparse
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROUNDS = 5
ARTICLES = 200  # JATS files compared
GIGABYTE = 1 << 30

PEER = """
import gzip, json, sys, time, warnings
warnings.simplefilter("ignore")
import pubmed_parser as pp
kind, out, *files = json.load(sys.stdin)
lines = gzip.open(out, "wt") if out else None
paragraphs = lambda file: pp.parse_pubmed_paragraph(file, all_paragraph=True)
failed = 0
started = time.process_time()
for file in files:
    if kind == "pubmed":
        for record in pp.parse_medline_xml(file, reference_list=True):
            if lines:
                lines.write(json.dumps(record) + "\\n")
    else:
        for parse in (pp.parse_pubmed_xml, paragraphs, pp.parse_pubmed_caption, pp.parse_pubmed_references):
            try:
                parsed = parse(file)
                if lines:
                    lines.write(json.dumps(parsed) + "\\n")
            except Exception:
                failed += 1
if lines:
    lines.close()
if failed:
    print(failed, "calls of pubmed_parser failed", file=sys.stderr)
print(time.process_time() - started)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pubmed", type=Path, required=True, help="folder with PubMed .xml.gz")
    parser.add_argument("--pmc", type=Path, required=True, help="folder with JATS files or a tar of them")
    parser.add_argument("--peer", help="a Python that has pubmed_parser")
    parser.add_argument("--large", action="store_true", help="also the 1 GB file and linearity")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pubmed = citations(arguments.pubmed, Path(scratch) / "pubmed")
        pmc = articles(arguments.pmc, Path(scratch) / "pmc")
        compare("pubmed", pubmed, arguments.peer, ROUNDS)
        compare("pmc", pmc, arguments.peer, ROUNDS)
        if arguments.peer:
            compare_builds("pubmed", pubmed, arguments.peer, Path(scratch))
            compare_builds("pmc", pmc, arguments.peer, Path(scratch))
        if arguments.large:
            large(pubmed, Path(scratch), arguments.peer)


def citations(folder: Path, into: Path) -> list[Path]:
    """Copies of the folder's `PubmedArticleSet` files, all gzipped: what pubmed_parser can read."""
    into.mkdir()
    found = []
    for path in sorted(folder.glob("*.xml*")):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if b"<PubmedArticleSet" in data:
            found.append(into / f"{path.name.removesuffix('.gz')}.gz")
            found[-1].write_bytes(gzip.compress(data))
    return found


def articles(folder: Path, into: Path) -> list[Path]:
    """The first `ARTICLES` JATS files of a folder or of the tar file in it, uncompressed."""
    into.mkdir()
    packages = sorted(folder.glob("*.tar*"))
    if not packages:
        return sorted(p for p in folder.rglob("*") if p.suffix in (".xml", ".nxml"))[:ARTICLES]
    with tarfile.open(packages[0]) as package:
        members = sorted((m for m in package if m.isfile()), key=lambda m: m.name)[:ARTICLES]
        for member in members:
            content = package.extractfile(member)
            assert content is not None
            (into / Path(member.name).name).write_bytes(content.read())
    return sorted(into.iterdir())


def size(paths: Iterable[Path]) -> float:
    """Megabytes of XML."""
    return sum(len(gzip.decompress(p.read_bytes())) if p.suffix == ".gz" else p.stat().st_size for p in paths) / 1e6


def compare(kind: str, paths: list[Path], peer: str | None, rounds: int) -> None:
    """Print rates and ratios for one kind of file."""
    megabytes = size(paths)
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, run in runners(kind, paths, peer).items():
            seconds.setdefault(name, []).append(run())
    best = {name: megabytes / min(values) for name, values in seconds.items()}
    print(f"{kind}: {len(paths)} files, {megabytes:.1f} MB of XML, best of {rounds}")
    for name, rate in best.items():
        print(f"  {name:28} {rate:7.1f} MB/s   biomlm is {best['biomlm'] / rate:5.2f} ×")


def runners(kind: str, paths: list[Path], peer: str | None) -> dict[str, Callable[[], float]]:
    """Name → a function that reads all files once and gives the processor seconds it took."""
    found = {
        "biomlm": lambda: timed(lambda: ours(kind, paths)),
        "floor: gunzip + bare lxml": lambda: timed(lambda: floor(paths)),
    }
    if peer:
        question = json.dumps([kind, "", *map(str, paths)])
        found["pubmed_parser"] = lambda: float(
            subprocess.run([peer, "-c", PEER], input=question, text=True, stdout=subprocess.PIPE, check=True).stdout
        )
    return found


def compare_builds(kind: str, paths: list[Path], peer: str, scratch: Path, rounds: int = ROUNDS) -> None:
    """Print the ratio of the processor time of a build and of pubmed_parser's output written as JSON, each a process of its own."""
    folder = scratch / f"{kind}-again"
    folder.mkdir()
    for path in paths:
        (folder / path.name).symlink_to(path)
    biomlm = [sys.executable, "-m", "biomlm.core", "corpus", "build", f"--{kind}", str(folder), "--out"]
    question = json.dumps([kind, str(scratch / "peer.jsonl.gz"), *map(str, paths)])
    seconds: dict[str, list[float]] = {"biomlm": [], "pubmed_parser": []}
    for number in range(rounds):
        seconds["biomlm"].append(spent([*biomlm, str(scratch / f"{kind}-docs-{number}")]))
        seconds["pubmed_parser"].append(spent([peer, "-c", PEER], question))
    ratio = min(seconds["pubmed_parser"]) / min(seconds["biomlm"])
    print(
        f"{kind}: corpus build is {ratio:.2f} × pubmed_parser writing JSON.gz, {size(paths):.1f} MB of XML, best of {rounds}"
    )


def spent(command: list[str], text: str = "") -> float:
    """Return the processor seconds of a command."""
    before = os.times()
    subprocess.run(command, input=text, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def timed(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def ours(kind: str, paths: list[Path]) -> None:
    from biomlm.corpus.readers.jats import JatsReader
    from biomlm.corpus.readers.pubmed import PubMedReader

    reader = (PubMedReader if kind == "pubmed" else JatsReader)(str(paths[0].parent))
    for path in paths:
        for _ in reader.read_file(path.name):
            pass


def floor(paths: list[Path]) -> None:
    from lxml import etree

    for path in paths:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        etree.parse(io.BytesIO(data), etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True))


def large(paths: list[Path], scratch: Path, peer: str | None) -> None:
    """One file of the NLM's size; peak memory on a 1 GB file, and time for 8 to 80 thousand records, each in a process of its own."""
    records = []
    for path in paths:
        data = gzip.decompress(path.read_bytes())
        for part in data.split(b"<PubmedArticle>")[1:]:
            records.append(b"<PubmedArticle>" + part[: part.index(b"</PubmedArticle>")] + b"</PubmedArticle>\n")
    mean = sum(map(len, records)) / len(records)
    (scratch / "large").mkdir()
    path = scratch / "large" / "large.xml.gz"
    repeat(records, 30_000, path)
    compare("pubmed", [path], peer, 2)
    if peer:
        compare_builds("pubmed", [path], peer, scratch / "large", 2)
    print("records    MB of XML   seconds   MB/s   peak MB")
    for count in (8_000, 20_000, 40_000, 80_000, int(GIGABYTE / mean)):
        repeat(records, count, path)
        megabytes = count * mean / 1e6
        answer = subprocess.run(
            [sys.executable, __file__, "--alone", str(path)], text=True, capture_output=True, check=True
        )
        seconds, peak = map(float, answer.stdout.split())
        print(f"{count:7}    {megabytes:9.1f}   {seconds:7.2f}   {megabytes / seconds:4.0f}   {peak:7.0f}")


def repeat(records: list[bytes], count: int, path: Path) -> None:
    """A file of `count` records."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'<?xml version="1.0" encoding="utf-8"?>\n<PubmedArticleSet>\n')
        for i in range(count):
            file.write(records[i % len(records)])
        file.write(b"</PubmedArticleSet>\n")


def alone(path: Path) -> None:
    """Read one file with sentences, as `corpus build` does, and print processor seconds and the peak of memory in MB."""
    from biomlm.corpus.readers.pubmed import PubMedReader
    from biomlm.corpus.text.document import AddSentences

    started = time.process_time()
    for _ in AddSentences().run(PubMedReader(str(path.parent)).read_file(path.name)):
        pass
    seconds = time.process_time() - started
    # rusage would count what the parent had before `exec`
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(seconds, int(status.partition("VmHWM:")[2].split()[0]) / 1024)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        alone(Path(sys.argv[2]))
    else:
        main()
