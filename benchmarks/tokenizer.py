"""Learning and encoding against `tokenizers`, and encoding against fairseq's own Python pipeline: ratios taken in one run.

    python benchmarks/tokenizer.py --docs DOCS [--megabytes 500] [--vocab_size 50000] [--parts learn encode fairseq memory]

All figures of docs/tokenizer.md, in about ten minutes on two quiet cores:

    python benchmarks/tokenizer.py --docs DOCS --parts learn encode fairseq memory --fairseq PYTHON

DOCS is a folder of real documents (`biomlm corpus build --pubmed FILES --pmc FILES`). Where it is smaller than what is asked for, it is
repeated with word-level variation, so that the number of distinct words goes on growing as in real text, by Heaps' law: with the size
of the text to the power of 0.58, which was measured on the 57 MB of shared data in random order (0.56 to 0.60 for every doubling from
2.8 MB on). In every copy but the first, a document gets as many new words as the law asks for: words of its own with two neighbouring
letters swapped, wherever they stand in it (offsets of sentences stay right). The number of distinct words of every copy is printed.

Every measurement is a command of its own, from documents on disk to files on disk; peak memory is the largest sum over its processes of
their proportional set sizes, in which shared pages count once, and of their resident set sizes, in which they count for each. The two
sides read the same documents with the same reader. The part `fairseq` needs `--fairseq`, the interpreter of fairseq's environment
(`biomlm-fairseq-env`); the part `memory` learns from a fifth of the text, from all of it and from twice as much at one bound.
"""

import argparse
import gzip
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson

from biomlm.core.manifest import Manifest
from biomlm.corpus.documents import document_files
from biomlm.tokenizer.formats.bytelevel import WORD
from biomlm.tokenizer.shards import ShardReader

FILE_SIZE = 8_000_000  # bytes of text in a file of documents
HEAPS = 0.58  # exponent of the number of distinct words in the size of the text (see --help)
LETTERS = re.compile(r"[^\W\d_]+")
FAIRSEQ_MB = 5  # for the slow pipeline, MB of text

TEXTS = """
import sys
from biomlm.corpus.documents import document_files
from biomlm.tokenizer import documents
def texts():
    for file in document_files(sys.argv[1], "train"):
        for document in documents.read(file):
            yield document.joined()
"""

LEARN = (
    TEXTS
    + """
from tokenizers import ByteLevelBPETokenizer
tokenizer = ByteLevelBPETokenizer()
tokenizer.train_from_iterator(texts(), vocab_size=int(sys.argv[3]) - 5, min_frequency=2, show_progress=False)
tokenizer.save_model(sys.argv[2])
"""
)

ENCODE = """
import sys
import numpy as np
from itertools import islice
from biomlm.corpus.documents import document_files
from biomlm.tokenizer import documents
from biomlm.tokenizer.formats import folder
def sentences():
    for file in document_files(sys.argv[1], "train"):
        for document in documents.read(file):
            front = ""
            for _, words in document.words():
                yield front + " ".join(words)
                front = " "
hf = folder.load(sys.argv[3]).hf
source = sentences()
with open(sys.argv[2], "wb") as out:
    while batch := list(islice(source, 10_000)):
        for encoding in hf.encode_batch(batch, add_special_tokens=False):
            out.write(np.array(encoding.ids, dtype=np.uint16).tobytes())
"""

FAIRSEQ_TEXT = """
import sys
from biomlm.corpus.documents import document_files
from biomlm.tokenizer import documents
left = int(sys.argv[3]) * 1_000_000
with open(sys.argv[2], "w", encoding="utf-8") as out:
    for file in document_files(sys.argv[1], "train"):
        for document in documents.read(file):
            if left > 0:
                out.writelines(" ".join(words) + "\\n" for _, words in document.words())
                out.write("\\n")
                left -= len(document.text.encode())
"""

FAIRSEQ_BPE = """
import sys
from multiprocessing import Pool
from fairseq.data.encoders.gpt2_bpe import get_encoder
def start():
    global bpe
    bpe = get_encoder(sys.argv[2] + "/encoder.json", sys.argv[2] + "/vocab.bpe")
def work(line):
    return " ".join(map(str, bpe.encode(line.rstrip("\\n"))))
if __name__ == "__main__":
    with Pool(int(sys.argv[4]), start) as pool, open(sys.argv[1]) as lines, open(sys.argv[3], "w") as out:
        out.writelines(line + "\\n" for line in pool.imap(work, lines, 100))
"""


class Measured(NamedTuple):
    """Wall-clock seconds, processor seconds of all processes, peak memory in MiB (proportional, resident)."""

    wall: float
    cpu: float
    peak: float
    resident: float

    def __str__(self) -> str:
        return f"{self.wall:8.1f} s wall {self.cpu:8.1f} s processor {self.peak:8.0f} MiB proportional {self.resident:8.0f} MiB resident"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", required=True)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--vocab_size", type=int, default=50_000)
    parser.add_argument("--memory", type=int, default=188, help="the bound given to `tokenizer train`, MiB")
    parser.add_argument("--fairseq", default="")
    parser.add_argument(
        "--parts", nargs="+", choices=("learn", "encode", "fairseq", "memory"), default=["learn", "encode"]
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        docs = make(Path(arguments.docs), work / "docs", arguments.megabytes)
        if "learn" in arguments.parts:
            compare_learning(arguments, docs, work)
        else:
            print(f"learn: biomlm       {learn(arguments, docs, work / 'tok')}", flush=True)
        if "encode" in arguments.parts:
            compare_encoding(docs, work)
        if "fairseq" in arguments.parts:
            compare_fairseq(arguments, docs, work)
        if "memory" in arguments.parts:
            for megabytes in (arguments.megabytes // 5, 2 * arguments.megabytes):
                shutil.rmtree(docs)
                make(Path(arguments.docs), docs, megabytes)
                print(f"learn: biomlm       {learn(arguments, docs, work / 'tok')}", flush=True)


def make(source: Path, out: Path, megabytes: int) -> Path:
    """Documents of about so many MB of text."""
    (out / "train").mkdir(parents=True)
    kept = number = 0
    lines: list[bytes] = []
    for line, seen in varied(source):
        lines.append(line)
        kept += len(line)
        if kept > FILE_SIZE or seen > megabytes * 1_000_000:
            (out / "train" / f"{number:05d}.jsonl.gz").write_bytes(gzip.compress(b"".join(lines), 1))
            lines, kept, number = [], 0, number + 1
        if seen > megabytes * 1_000_000:
            break
    Manifest(stage="corpus build", config={}, config_hash="0").finish(out, sorted(out.rglob("*.gz")), {})
    print(f"{seen / 1e6:.0f} MB of text in {number} files", flush=True)
    return out


def varied(source: Path) -> Iterator[tuple[bytes, int]]:
    """Documents and the bytes of text so far, over and over, with as many new words as Heaps' law asks for in all copies but the first."""
    chance, seen, size = random.Random(1), set[str](), 0
    first_size = first_words = 0
    while True:
        for file in document_files(source, "train"):
            for line in gzip.decompress(file.read_bytes()).splitlines(keepends=True):
                raw = orjson.loads(line)
                if first_size:
                    wanted = first_words * (size / first_size) ** HEAPS - len(seen)
                    raw["text"] = with_new_words(raw["text"], int(wanted), seen, chance)
                else:
                    seen.update(WORD.findall(raw["text"]))
                size += len(raw["text"].encode())
                yield orjson.dumps(raw, option=orjson.OPT_APPEND_NEWLINE), size
        print(f"{size / 1e6:.0f} MB of text have {len(seen):,} distinct words", flush=True)
        if not first_size:
            first_size, first_words = size, len(seen)


def with_new_words(text: str, wanted: int, seen: set[str], chance: random.Random) -> str:
    """A text of the same length with at most so many words that have not been seen; they are seen then."""
    words = sorted({word for word in LETTERS.findall(text) if len(word) > 4}) if wanted > 0 else []
    new = {}
    for word in chance.sample(words, min(wanted, len(words))):
        at = chance.randrange(len(word) - 1)
        changed = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        if f" {changed}" not in seen:
            seen.add(f" {changed}")
            new[word] = changed
    return LETTERS.sub(lambda match: new.get(match[0], match[0]), text) if new else text


def biomlm(*words: object) -> list[str]:
    return [sys.executable, "-m", "biomlm.tokenizer", *map(str, words)]


def python(script: str, *words: object, interpreter: str = sys.executable) -> list[str]:
    return [interpreter, "-c", script, *map(str, words)]


def learn(arguments: argparse.Namespace, docs: Path, out: Path) -> Measured:
    shutil.rmtree(out, ignore_errors=True)
    words = ("--vocab_size", arguments.vocab_size, "--memory", arguments.memory)
    return measured(biomlm("train", "--docs", docs, "--out", out, *words))


def compare_learning(arguments: argparse.Namespace, docs: Path, work: Path) -> None:
    (work / "theirs").mkdir()
    theirs = measured(python(LEARN, docs, work / "theirs", arguments.vocab_size))
    ours = learn(arguments, docs, work / "tok")
    same = (work / "theirs" / "merges.txt").read_bytes() == (work / "tok" / "merges.txt").read_bytes()
    report("learn", ours, theirs, f"merges identical: {same}")


def compare_encoding(docs: Path, work: Path) -> None:
    ours = measured(biomlm("encode", "--docs", docs, "--tokenizer", work / "tok", "--out", work / "shards"))
    theirs = measured(python(ENCODE, docs, work / "theirs.bin", work / "tok"))
    reader = ShardReader(work / "shards", "train")
    closing = np.zeros(len(reader.tokens), dtype=np.bool_)
    closing[reader.offsets[1:] - 1] = True
    same = np.array_equal(reader.tokens[~closing], np.fromfile(work / "theirs.bin", dtype=np.uint16))
    report("encode", ours, theirs, f"ids identical: {same}, {len(reader.tokens):,} tokens")


def compare_fairseq(arguments: argparse.Namespace, docs: Path, work: Path) -> None:
    subprocess.run(python(FAIRSEQ_TEXT, docs, work / "text", FAIRSEQ_MB), check=True)
    workers = os.cpu_count() or 1
    script = work / "bpe.py"
    script.write_text(FAIRSEQ_BPE)
    bpe = measured(
        [arguments.fairseq, str(script), str(work / "text"), str(work / "tok"), str(work / "bpe"), str(workers)]
    )
    preprocess = [
        str(Path(arguments.fairseq).with_name("fairseq-preprocess")),
        "--only-source",
        "--destdir",
        str(work / "fs"),
    ]
    preprocess += [
        "--trainpref",
        str(work / "bpe"),
        "--srcdict",
        str(work / "tok" / "dict.txt"),
        "--workers",
        str(workers),
    ]
    binary = measured(preprocess)
    size = (work / "text").stat().st_size / 1e6
    theirs = Measured(
        bpe.wall + binary.wall,
        bpe.cpu + binary.cpu,
        max(bpe.peak, binary.peak),
        max(bpe.resident, binary.resident),
    )
    shutil.rmtree(work / "shards", ignore_errors=True)
    ours = measured(biomlm("encode", "--docs", docs, "--tokenizer", work / "tok", "--out", work / "shards"))
    rates = arguments.megabytes / ours.wall, size / theirs.wall
    cpu = arguments.megabytes / ours.cpu, size / theirs.cpu
    print(
        f"encode against fairseq's own: {rates[0]:.2f} and {rates[1]:.3f} MB/s: {rates[0] / rates[1]:.1f} times the speed"
    )
    print(f"  by processor time: {cpu[0]:.2f} and {cpu[1]:.3f} MB/s: {cpu[0] / cpu[1]:.1f} times", flush=True)


def report(what: str, ours: Measured, theirs: Measured, note: str) -> None:
    print(f"{what}: biomlm       {ours}\n{what}: tokenizers  {theirs}")
    print(
        f"{what}: {theirs.wall / ours.wall:.1f} times the speed ({theirs.cpu / ours.cpu:.1f} by processor time), "
        f"{ours.peak / theirs.peak:.2f} of the memory ({ours.resident / theirs.resident:.2f} resident), {note}",
        flush=True,
    )


def measured(command: list[str]) -> Measured:
    """Run a command to its end."""
    before, started = os.times(), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = resident = 0.0
    while process.poll() is None:
        sizes = [memory(pid) for pid in family(process.pid)]
        peak = max(peak, sum(size["Pss:"] for size in sizes))
        resident = max(resident, sum(size["Rss:"] for size in sizes))
        time.sleep(0.2)
    wall, after = time.perf_counter() - started, os.times()
    assert process.stderr is not None
    if process.returncode:
        sys.exit(f"{' '.join(command)[:200]} failed:\n{process.stderr.read().decode()[-2000:]}")
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return Measured(wall, cpu, peak, resident)


def family(pid: int) -> list[int]:
    """A process and all that came from it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in family(int(child)))]


def memory(pid: int) -> dict[str, float]:
    """MiB of a process: all that is resident, and with what it shares with others counted in part."""
    found = {"Rss:": 0.0, "Pss:": 0.0}
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, size = line.split()[:2]
            if name in found:
                found[name] = int(size) / 1024
    except OSError:
        pass  # it has ended
    return found


if __name__ == "__main__":
    main()
