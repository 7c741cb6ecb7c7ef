"""A large fairseq checkpoint to Hugging Face, check included: peak memory and time, against reading and writing it alone.

    python benchmarks/convert.py --bpe FOLDER [--size base] [--keep FOLDER]

The checkpoint is a stand-in in the layout of bio-lm's published tarballs: random weights in RoBERTa's shape (`--size large` has 355M
parameters), with the real BPE files (`dict.txt`, `encoder.json`, `vocab.bpe`) in FOLDER. Each measurement is a process of its own;
peak memory is its largest resident set, mapped pages of files included. The floor copies every tensor from the checkpoint into
memory and writes them as safetensors. Files are in the page cache for both.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAKE = """
import sys, torch
from pathlib import Path
from biolm.convert.fairseq import write
from biolm.convert.parts import Parts
from biolm.model.config import ModelConfig
from biolm.model.encoder import MaskedLM
torch.manual_seed(0)
config = ModelConfig(size=sys.argv[1]).resolve(vocab_size=int(sys.argv[3]), max_positions=512, pad_token_id=1)
model = MaskedLM(config)
write(Parts("native", config, dict(model.state_dict()), Path("made")), Path(sys.argv[2]), torch.float32)
"""

FLOOR = """
import sys
from safetensors.torch import save_file
from biolm.convert import torchfile
tensors = torchfile.load(sys.argv[1])["model"]
tied = "encoder.lm_head.weight"
save_file({name: value.clone() for name, value in tensors.items() if name != tied}, sys.argv[2])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bpe", type=Path, required=True, help="folder with dict.txt, encoder.json and vocab.bpe")
    parser.add_argument("--size", default="large", choices=["tiny", "base", "large"])
    parser.add_argument("--keep", type=Path, help="folder to work in and to keep; else a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        source = folder / f"RoBERTa-{arguments.size}-stand-in"
        source.mkdir(parents=True, exist_ok=True)
        for name in ("dict.txt", "encoder.json", "vocab.bpe"):
            shutil.copy(arguments.bpe / name, source)
        rows = len((source / "dict.txt").read_text().splitlines()) + 5  # four special tokens and <mask>
        if not (source / "model.pt").exists():
            measured([sys.executable, "-c", MAKE, arguments.size, str(source), str(rows)])
        size = (source / "model.pt").stat().st_size
        (source / "model.pt").read_bytes()
        floor, floor_work, floor_memory = measured(
            [sys.executable, "-c", FLOOR, str(source / "model.pt"), str(folder / "floor")]
        )
        command = ["-m", "biolm.convert", str(source), str(folder / "hf"), "--to", "hf", "--override"]
        seconds, work, memory = measured([sys.executable, *command])
    print(f"checkpoint            {size / 1e9:8.2f} GB")
    print(f"reading and writing   {floor:8.1f} s {floor_work:8.1f} s of processor {floor_memory / 1e9:8.2f} GB peak")
    print(f"biolm convert         {seconds:8.1f} s {work:8.1f} s of processor {memory / 1e9:8.2f} GB peak")
    print(f"time / floor          {seconds / floor:8.2f}")
    print(f"peak / checkpoint     {memory / size:8.2f}")


def measured(command: list[str]) -> tuple[float, float, int]:
    """Wall seconds, processor seconds and peak resident bytes of a command."""
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command[:4])} …")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
