"""A run's training is what a plain loop around transformers' model does, step by step: same losses without dropout, same final weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from biomlm.convert.formats import native
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.load import load_model
from biomlm.core import cli
from biomlm.finetune.config import BatchConfig, FinetuneConfig, OptimConfig
from biomlm.finetune.data import dataset
from biomlm.finetune.tasks import build
from biomlm.finetune.training.batches import FoldBatches, TaskBatch
from biomlm.finetune.training.fit import TaskObjective, build_model
from biomlm.model import device
from biomlm.tokenizer.formats import folder as tokenizer_folder
from biomlm.training.distributed.ddp import DDPEngine
from biomlm.training.distributed.engine import LossModule
from biomlm.training.distributed.process_group import RankInfo, World

EPOCHS, LR, DECAY = 2, 3e-3, 0.01


@pytest.fixture
def without_dropout(tiny_model: Path, tmp_path: Path) -> Path:
    loaded = load_model(tiny_model)
    config = replace(loaded.config, hidden_dropout=0.0, attention_dropout=0.0)
    folder = tmp_path / "model"
    folder.mkdir()
    native.write(SourceCheckpoint("native", config, loaded.model.state_dict(), folder), folder, torch.float32)
    tokenizer_folder.copy(tiny_model / native.TOKENIZER, folder / native.TOKENIZER)
    return folder


def padded(batch: TaskBatch, pad_token_id: int) -> dict[str, torch.Tensor]:
    """The batch as transformers takes it: [b, l], labels -100 where there is none."""
    lengths = list(batch.packed.lengths)
    labels_t = torch.full_like(batch.packed.input_ids_t, -100)
    labels_t[batch.positions_m] = batch.targets_m
    pad = torch.nn.utils.rnn.pad_sequence
    ids_bl = pad(list(batch.packed.input_ids_t.split(lengths)), batch_first=True, padding_value=pad_token_id)
    labels_bl = pad(list(labels_t.split(lengths)), batch_first=True, padding_value=-100)
    mask_bl = torch.arange(ids_bl.shape[1]) < torch.tensor(lengths)[:, None]
    return {"input_ids": ids_bl, "attention_mask": mask_bl.long(), "labels": labels_bl}


def test_losses_and_weights_equal_a_plain_loop(without_dropout: Path, toy: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForTokenClassification, get_linear_schedule_with_warmup

    config = FinetuneConfig(
        str(without_dropout),
        "ner",
        str(toy),
        str(tmp_path / "run"),
        EPOCHS,
        precision="fp32",
        batch=BatchConfig(size=16),
        optim=OptimConfig(lr=LR, weight_decay=DECAY, warmup=0.0),
    )
    loaded = load_model(str(without_dropout))
    data = dataset.read(config)
    task: Any = build.make_task(config, loaded, data.folds["train"], data.unseen)
    ours = build_model(task, loaded, config)
    examples = [example for record in task.examples(data.folds["train"]) for example in record]
    batches = FoldBatches(examples, config.batch, config.seed)
    steps = batches.per_epoch * EPOCHS
    engine = DDPEngine(
        LossModule(ours, TaskObjective(task), device.choose("fp32")), World(RankInfo()), config.optim, steps
    )

    assert cli.run(["convert", str(without_dropout), str(tmp_path / "hf"), "--to", "hf"]) == 0
    theirs: Any = AutoModelForTokenClassification.from_pretrained(tmp_path / "hf", num_labels=len(task.labels))
    theirs.classifier.load_state_dict(ours.classifier.state_dict())  # type: ignore[union-attr]
    # a row that transformers' RoBERTa adds to every token, zero in published models; fairseq has none, nor have we
    theirs.roberta.embeddings.token_type_embeddings.requires_grad_(False)
    decayed = [p for p in theirs.parameters() if p.ndim > 1]
    other = [p for p in theirs.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, steps)

    ours.train()
    theirs.train()
    for step in range(steps):
        (name,) = batches.names(step)
        batch = batches.make(name)
        engine.begin(step, False)
        result = engine.step(engine.backward(batch, batch.denominators(), 1.0, True), lambda *_: True)
        assert result.moved
        assert result.rate == pytest.approx(schedule.get_last_lr()[0])
        expected = theirs(**padded(batch, loaded.config.pad_token_id)).loss
        assert result.figures["loss"] == pytest.approx(float(expected.detach()), abs=2e-5)
        expected.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        assert result.norm == pytest.approx(float(norm), rel=1e-3)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert steps >= 20
    assert result.figures["loss"] < 0.5  # from 1.0: it has learnt, so equality says something
    assert torch.allclose(ours.classifier.weight, theirs.classifier.weight, atol=1e-4)  # type: ignore[arg-type]
