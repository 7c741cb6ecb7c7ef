"""The sides of benchmarks/pretrain.py, each run as `python sides.py NAME CASE`: does one optimiser step for each line on its input."""

import itertools
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peers import roberta

from biomlm.core import rng
from biomlm.core.config import fairseq_env
from biomlm.model import device
from biomlm.model.config import EncoderConfig, ModelConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.flops import step_flops
from biomlm.model.optim.config import OptimConfig
from biomlm.model.optim.optimizer import Optimizer
from biomlm.model.packed import Packed
from biomlm.tokenizer.shards import ShardReader, ShardWriter, id_type

LONGEST = 512
MOST_TOKENS = 4_000_000  # that blocks are made of; a run sees a fraction of them
LR = 1e-4
MASK_RATE = 0.15


@dataclass
class Case:
    """What all sides compute."""

    shards: str
    layers: int
    hidden: int
    heads: int
    vocab_size: int
    precision: str
    text: str
    rows: int
    dropout: float

    def encoder(self, pad_token_id: int) -> EncoderConfig:
        """The shape."""
        config = ModelConfig(
            num_hidden_layers=self.layers,
            hidden_size=self.hidden,
            num_attention_heads=self.heads,
            hidden_dropout=self.dropout,
            attention_dropout=self.dropout,
        )
        return config.resolve(self.vocab_size, LONGEST, pad_token_id)


@dataclass
class Result:
    """One step: real tokens, seconds, and the process's peak memory so far."""

    tokens: int
    seconds: float
    peak_gb: float
    flops: float = 0.0  # that the step must do; told by our side, for all of them see the same rows


def rows_of(case: Case, reader: ShardReader, longest: int = LONGEST) -> list[list[int]]:
    """Blocks of so many tokens over all documents, or documents of one source cut there; `<s>` and `</s>` around each."""
    special = reader.tokenizer.ids
    body = longest - 2
    if case.text == "full":
        flat = reader.tokens[:MOST_TOKENS].astype(np.int64)
        flat = flat[flat != special.eos]
        bodies = [flat[i : i + body] for i in range(0, len(flat) - body, body)]
    else:
        starts = np.concatenate([[0], np.cumsum(reader.sizes, dtype=np.int64)])[reader.doc_index]
        wanted = [i for i, doc in enumerate(reader.documents()) if doc["source"] == case.text]
        bodies = [reader.tokens[starts[i] : starts[i + 1]].astype(np.int64) for i in wanted]
        bodies = [b[b != special.eos][:body] for b in bodies]
    rows = [[special.bos, *map(int, b), special.eos] for b in bodies if len(b) > 8]
    order = rng.permutation(rng.key(0, "benchmark"), len(rows))
    return [rows[i] for i in order]


def answers(tokens: int, seconds: float, flops: float = 0.0) -> None:
    """Tell the parent of one step."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print("RESULT " + json.dumps(vars(Result(tokens, seconds, peak, flops))), flush=True)


def biomlm(case: Case) -> None:
    """Mask, pack, forward, backward, update."""
    from biomlm.pretrain.data.masking import choose, corrupt, ordinary
    from biomlm.pretrain.objectives.config import MlmConfig

    reader = ShardReader(case.shards, "train")
    rows, special = rows_of(case, reader), reader.tokenizer.ids
    where = device.choose("bf16" if case.precision == "bf16" else "fp32")
    model = MaskedLM(case.encoder(special.pad)).train()
    optimizer = Optimizer(dict(model.named_parameters()), case.layers, OptimConfig(lr=LR), 10_000)
    mlm, pieces = MlmConfig(mask_rate=MASK_RATE), ordinary(special, reader.vocab_size)
    for step, batch in enumerate(_batches(rows, case.rows)):
        sys.stdin.readline()
        start = time.perf_counter()
        lengths = tuple(map(len, batch))
        ids_t = np.concatenate([np.array(row) for row in batch])
        places_t = np.where(np.isin(ids_t, (special.bos, special.eos)), -1, np.arange(len(ids_t)) + step * 10**6)
        key = rng.key(0, "mask", 0)
        positions_m = choose(
            mlm, places_t, reader.tokenizer.is_word_start[ids_t], np.array(lengths), key=key, rate=MASK_RATE
        )
        shown_t = corrupt(mlm, ids_t, positions_m, places_t, key=key, mask_id=special.mask, pieces=pieces)
        packed = Packed(torch.from_numpy(shown_t), lengths)
        with where.autocast():
            hidden_mh = model.encoder(packed, torch.from_numpy(positions_m))[-1]
            loss, _ = model.masked_loss(hidden_mh, torch.from_numpy(ids_t[positions_m]))
        (loss / len(positions_m)).backward()
        optimizer.step(step)
        flops = step_flops(model.config, lengths, len(positions_m), len(positions_m))
        answers(len(ids_t), time.perf_counter() - start, flops)


def transformers(case: Case) -> None:
    """What `run_mlm.py` builds, its loop halted between steps by a callback."""
    from torch.utils.data import Dataset
    from transformers import (
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    reader = ShardReader(case.shards, "train")
    rows, special = rows_of(case, reader), reader.tokenizer.ids

    class Rows(Dataset[dict[str, list[int]]]):
        def __len__(self) -> int:
            return len(rows) * 1000

        def __getitem__(self, i: int) -> dict[str, list[int]]:
            return {"input_ids": rows[i % len(rows)]}

    class Turns(TrainerCallback):  # type: ignore[misc]
        start, step = 0.0, 0

        def on_step_begin(self, *_args: object, **_kwargs: object) -> None:
            sys.stdin.readline()
            self.start = time.perf_counter()

        def on_step_end(self, *_args: object, **_kwargs: object) -> None:
            first = self.step * case.rows
            tokens = sum(len(rows[i % len(rows)]) for i in range(first, first + case.rows))
            self.step += 1
            answers(tokens, time.perf_counter() - self.start)

    model = roberta(case.encoder(special.pad))

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_args: object, **_kwargs: object) -> torch.utils.data.Sampler[int]:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            output_dir=out,
            per_device_train_batch_size=case.rows,
            learning_rate=LR,
            max_steps=10_000,
            bf16=case.precision == "bf16",
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
        )
        collator = DataCollatorForLanguageModeling(
            AutoTokenizer.from_pretrained(reader.folder / "tokenizer"), mlm_probability=MASK_RATE
        )
        InOrder(model, arguments, data_collator=collator, train_dataset=Rows(), callbacks=[Turns()]).train()


def fairseq(case: Case) -> None:
    """The real `fairseq-train` on the same rows, its dictionary filled up to the vocabulary's size as fairseq itself fills one.

    It batches rows of like length, so it hardly pads.
    """
    reader = ShardReader(case.shards, "train")
    data = Path(tempfile.mkdtemp())
    items = [item for row in rows_of(case, reader) for item in (row[1:], row[-1:])]  # fairseq puts <s> in front itself
    sizes, starts = np.array(list(map(len, items)), dtype=np.int32), np.arange(0, len(items), 2)
    with ShardWriter(data / "train", id_type(reader.vocab_size)) as writer:
        writer.append(np.concatenate(items), sizes, starts, starts, b"")
    words = (reader.folder / "dict.txt").read_text().splitlines()
    made_up = [
        f"madeupword{i:05} 0" for i in range(case.vocab_size - len(words) - 5)
    ]  # four specials in front, <mask> behind
    (data / "dict.txt").write_text("\n".join([*words, *made_up, ""]))
    arguments = {
        "task": "masked_lm",
        "criterion": "masked_lm",
        "arch": "roberta_base",
        "encoder-layers": case.layers,
        "encoder-embed-dim": case.hidden,
        "encoder-ffn-embed-dim": 4 * case.hidden,
        "encoder-attention-heads": case.heads,
        "dropout": case.dropout,
        "attention-dropout": case.dropout,
        "sample-break-mode": "complete_doc",
        "tokens-per-sample": LONGEST,
        "max-positions": LONGEST,
        "batch-size": case.rows,
        "optimizer": "adam",
        "lr": LR,
        "lr-scheduler": "fixed",
        "clip-norm": 1.0,
        "max-update": 10_000,
        "save-dir": data / "out",
    }
    flags = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    python = str(Path(fairseq_home()) / "bin" / "python")
    side = str(Path(__file__).with_name("fairseq_side.py"))
    os.execv(
        python, [python, side, str(data), *flags, "--cpu", "--no-save", "--disable-validation", "--log-format", "none"]
    )


def fairseq_home() -> str:
    """Folder of fairseq's environment (docs/fairseq.md), or nothing."""
    home = fairseq_env()
    return str(home) if (home / "bin" / "python").exists() else ""


def _batches(rows: list[list[int]], size: int) -> Iterator[list[list[int]]]:
    endless = itertools.cycle(rows)
    while True:
        yield list(itertools.islice(endless, size))


SIDES: dict[str, Callable[[Case], None]] = {"biomlm": biomlm, "transformers": transformers, "fairseq": fairseq}

if __name__ == "__main__":
    SIDES[sys.argv[1]](Case(**json.loads(sys.argv[2])))
