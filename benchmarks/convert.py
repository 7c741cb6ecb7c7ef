"""A large fairseq checkpoint to Hugging Face, check included: peak memory and time, against reading and writing it alone.

    python benchmarks/convert.py --bpe FOLDER [--size base] [--keep FOLDER] [--script PYTHON]
    python benchmarks/convert.py --sparse 56 [--keep FOLDER]

The checkpoint is a stand-in in the layout of bio-lm's published tarballs: random weights in RoBERTa's shape (`--size large` has 355M
parameters), with the real BPE files (`dict.txt`, `encoder.json`, `vocab.bpe`) in FOLDER. Each measurement is a process of its own;
peak memory is its largest resident set, mapped pages of files included. Reading and writing alone copies every tensor from the checkpoint
into memory and writes them as safetensors, flushed. All take turns, with the checkpoint on the disk alone, then in the page cache; medians.

`--script PYTHON` times Hugging Face's own script as well, which writes weights and configuration only and compares one sentence. It runs
in an environment of its own: Python 3.8, fairseq 0.10.2, transformers 4.30.2, torch 1.12.1, numpy below 1.24.

`--sparse LAYERS` converts a float16 stand-in of GatorTron-large's width (3,584, 56 heads; 56 layers are 8.9 billion parameters) that
takes no disk, because its file is one hole; the result, a Hugging Face folder in shards, takes two bytes a parameter. Of its peak memory
the part that is not mapped files is shown as well: the system can drop mapped pages at any time.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAKE = """
import sys, torch
from pathlib import Path
from biomlm.convert.formats.fairseq import write
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.model.config import ModelConfig
from biomlm.model.encoder import MaskedLM
torch.manual_seed(0)
config = ModelConfig(size=sys.argv[1]).resolve(vocab_size=int(sys.argv[3]), max_positions=512, pad_token_id=1)
model = MaskedLM(config)
write(SourceCheckpoint("native", config, dict(model.state_dict()), Path("made")), Path(sys.argv[2]), torch.float32)
"""

FLOOR = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from biomlm.convert.safe_load import torch_file
from biomlm.core.files import fsync_path
tensors = torch_file.load(sys.argv[1])["model"]
tied = "encoder.lm_head.weight"
save_file({name: value.clone() for name, value in tensors.items() if name != tied}, sys.argv[2])
fsync_path(Path(sys.argv[2]))
"""


SPARSE = """
import json, sys
from pathlib import Path
from biomlm.convert.names import hf_architectures
from biomlm.convert.names.table import shapes
from biomlm.convert.names.table import from_native
from biomlm.model.config import EncoderConfig
import torch
layers, folder = int(sys.argv[1]), Path(sys.argv[2])
config = EncoderConfig(50176, 3584, layers, 56, 14336, 512, 2, layer_norm_eps=1e-12, pad_token_id=0, shape="megatron-bert")
with torch.device("meta"):
    native = {name: torch.empty(shape) for name, shape in shapes(config).items()}
header, place = {}, 0
for name, tensor in from_native(hf_architectures.MEGATRON.table, native, {}, 0).items():
    header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [place, place + 2 * tensor.numel()]}
    place += 2 * tensor.numel()
text = json.dumps(header).encode()
with (folder / "model.safetensors").open("wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    file.truncate(8 + len(text) + place)
(folder / "config.json").write_text(json.dumps(architectures.keys(config) | {"torch_dtype": "float16"}))
"""

SCRIPT = """
import sys
import fairseq.data.encoders.gpt2_bpe as bpe  # by default it loads these two from the network
from transformers.models.roberta import convert_roberta_original_pytorch_checkpoint_to_pytorch as script
source, target = sys.argv[1:]
bpe.DEFAULT_ENCODER_JSON, bpe.DEFAULT_VOCAB_BPE = source + "/encoder.json", source + "/vocab.bpe"
script.convert_roberta_checkpoint_to_pytorch(source, target, False)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bpe", type=Path, help="folder with dict.txt, encoder.json and vocab.bpe")
    parser.add_argument(
        "--sparse", type=int, help="convert a sparse stand-in of this many layers of 8.9B's width instead"
    )
    parser.add_argument("--size", default="large", choices=["tiny", "base", "large"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--script", help="python of an environment in which Hugging Face's script runs")
    parser.add_argument("--keep", type=Path, help="folder to work in and to keep; else a temporary one")
    arguments = parser.parse_args()
    if arguments.sparse:
        with tempfile.TemporaryDirectory() as scratch:
            sparse(arguments.sparse, arguments.keep or Path(scratch))
        return
    if not arguments.bpe:
        parser.error("--bpe is needed")
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        source = folder / f"RoBERTa-{arguments.size}-stand-in"
        source.mkdir(parents=True, exist_ok=True)
        for name in ("dict.txt", "encoder.json", "vocab.bpe"):
            shutil.copy(arguments.bpe / name, source)
        rows = len((source / "dict.txt").read_text().splitlines()) + 5  # four special tokens and <mask>
        if not (source / "model.pt").exists():
            measured([sys.executable, "-c", MAKE, arguments.size, str(source), str(rows)])
        commands = {
            "reading and writing": [sys.executable, "-c", FLOOR, str(source / "model.pt"), str(folder / "floor")],
            "biomlm convert": [sys.executable, "-m", "biomlm.convert", str(source), str(folder / "hf"), "--to", "hf"],
        }
        if arguments.script:
            commands["Hugging Face's script"] = [arguments.script, "-c", SCRIPT, str(source), str(folder / "script")]
        for cached in (False, True):
            compare(commands, source / "model.pt", folder, arguments.repeats, cached=cached)


def compare(commands: dict[str, list[str]], checkpoint: Path, folder: Path, repeats: int, *, cached: bool) -> None:
    """Run the commands in turn, in the page cache or not, and print medians; what they make is removed."""
    found: dict[str, list[tuple[float, float, int, int]]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            with checkpoint.open("rb+") as file:
                os.fsync(file)
                if cached:
                    file.read()
                else:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            found[name].append(measured(command))
            (folder / "floor").unlink(missing_ok=True)
            for made in ("hf", "script"):
                shutil.rmtree(folder / made, ignore_errors=True)
    size = checkpoint.stat().st_size
    print(f"{size / 1e9:.2f} GB, {'in the page cache' if cached else 'on the disk'}; median of {repeats}")
    floor = statistics.median(seconds for seconds, *_ in found["reading and writing"])
    for name, runs in found.items():
        seconds, work = (statistics.median(run[i] for run in runs) for i in (0, 1))
        peak = max(run[2] for run in runs)
        print(
            f"  {name:22}{seconds:6.1f} s {work:6.1f} s of processor {peak / 1e9:6.2f} GB peak"
            f"   {seconds / floor:5.2f} times the first, {peak / size:.2f} times the file",
            flush=True,
        )


def sparse(layers: int, folder: Path) -> None:
    """Convert a sparse stand-in, and print what that took."""
    source = folder / f"sparse-{layers}"
    source.mkdir(parents=True, exist_ok=True)
    measured([sys.executable, "-c", SPARSE, str(layers), str(source)])
    size = (source / "model.safetensors").stat().st_size
    command = ["-m", "biomlm.convert", str(source), str(folder / "sparse-hf"), "--to", "hf", "--override"]
    seconds, work, memory, own = measured([sys.executable, *command])
    print(f"checkpoint            {size / 1e9:8.2f} GB")
    print(f"biomlm convert         {seconds:8.1f} s {work:8.1f} s of processor")
    print(f"peak resident         {memory / 1e9:8.2f} GB, without mapped files {own / 1e9:.2f} GB")
    print(f"own peak / checkpoint {own / size:8.2f}")


def measured(command: list[str]) -> tuple[float, float, int, int]:
    """Wall seconds, processor seconds, peak resident bytes, and peak bytes without mapped files, of a command."""
    started, own = time.perf_counter(), 0
    process = subprocess.Popen(command)
    status_file = Path(f"/proc/{process.pid}/status")
    while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
        lines = status_file.read_text().splitlines()
        own = max([own, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))])
        time.sleep(0.05)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command[:4])} …")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, own


if __name__ == "__main__":
    main()
