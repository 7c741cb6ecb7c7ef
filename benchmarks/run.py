"""`make bench`: prepare the demo's input once, then run every benchmark on it, each printing ratios taken in one run.

python benchmarks/run.py [NAME …]      all, or some of: corpus tokenizer pretrain loader start
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
DATA = HERE.parent / "demo" / "data"
OUT = HERE.parent / "runs" / "bench"

PREPARE = [
    [
        "corpus",
        "build",
        "--pubmed",
        DATA / "pubmed",
        "--pmc",
        DATA / "pmc",
        "--notes",
        DATA / "notes",
        "--salt_file",
        DATA / "salt",
        "--out",
        OUT / "corpus",
    ],
    ["tokenizer", "train", "--docs", OUT / "corpus", "--vocab_size", "8000", "--out", OUT / "tokenizer"],
    ["tokenizer", "encode", "--docs", OUT / "corpus", "--tokenizer", OUT / "tokenizer", "--out", OUT / "shards"],
]
BENCHMARKS = {
    "corpus": ["--pubmed", DATA / "pubmed", "--pmc", DATA / "pmc"],
    "tokenizer": ["--docs", OUT / "corpus"],
    "pretrain": [OUT / "shards"],
    "loader": [OUT / "shards"],
    "start": [OUT / "shards"],
    "distill": [OUT / "shards"],
    "checkpoint": [],
    "engines": [OUT / "shards"],
    "quality": [OUT / "shards"],
    "linear": [],
}


def main() -> None:
    names = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"there is no benchmark {unknown[0]}; there are: {', '.join(BENCHMARKS)}")
    for words in PREPARE:
        subprocess.run([sys.executable, "-m", f"biomlm.{words[0]}", *map(str, words[1:])], check=True)
    failed = []
    for name in names:
        print(f"\n== {name} ==", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), *map(str, BENCHMARKS[name])]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
