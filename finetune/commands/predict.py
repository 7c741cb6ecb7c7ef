"""`biomlm finetune predict MODEL FILE`: predictions for any number of texts, in the file's order, a chunk in memory at a time.

Within a chunk sequences of like length go through the model together.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from biomlm.core.errors import ConfigError
from biomlm.core.files import atomic_dir, atomic_file, mark_used, nothing, refuse_target, sweep_abandoned
from biomlm.core.progress import progress
from biomlm.core.summary import summary
from biomlm.finetune.config import PredictConfig, input_of
from biomlm.finetune.data import unlabelled
from biomlm.finetune.data.readers.brat import numbered, pubtator_lines, write_brat
from biomlm.finetune.data.records import Tagged
from biomlm.finetune.data.unlabelled import LONGEST, Unlabelled
from biomlm.finetune.tasks.base import Task
from biomlm.finetune.training import checkpoint
from biomlm.finetune.training.inference import outputs
from biomlm.model.device import choose

CHUNK = 1000  # texts read before the model runs
BATCH_TOKENS = {
    "cuda": 16384,
    "cpu": 2048,
}  # tokens; on one core 300 sentences took 1.33 s at 512, 1.20 at 2048, 1.93 at 16384


def run(config: PredictConfig) -> None:
    """Read, predict, write.

    Raises:
        DataError: The model was not fine-tuned, or a line has no text.
    """
    input_of(config)
    is_ours = nothing if config.to == "brat" else lambda _: False
    refuse_target(config.out, [config.model, config.file], option="--out", ours=is_ours)
    task, model = checkpoint.read(config.model)
    if task.caveat:
        print(f"biomlm finetune predict: {task.caveat}", file=sys.stderr)
    device = choose(config.precision)
    model = model.to(device.torch)
    tokens = config.tokens or BATCH_TOKENS[device.torch.type]
    done = 0
    with ExitStack() as stack:
        source = stack.enter_context(unlabelled.opened(config))
        write = _writer(config, task, stack)
        bar = stack.enter_context(progress("biomlm finetune predict", source.size, "B"))
        position = 0
        for chunk in _chunks(source.records):
            records = [_record(task, one) for one in chunk]
            rows = outputs(model, task.examples(records), tokens, device)
            for record, row in zip(records, rows, strict=True):
                done += 1
                write(record, task.decode(row), done)
            bar.advance(source.position - position, note=f"{done:,} texts")
            position = source.position
    if config.out:
        rule = {"words": task.word_rule} if task.word_rule else {}
        summary(f"biomlm finetune predict → {config.out}", {"texts in": done, "texts out": done, **rule})


def _chunks(texts: Iterator[Unlabelled]) -> Iterator[list[Unlabelled]]:
    """Yield as many texts at a time as fit into memory with what becomes of them: a few bytes of gzip can stand for gigabytes."""
    chunk: list[Unlabelled] = []
    size = 0
    for one in texts:
        length = sum(len(text) if isinstance(text, str) else sum(map(len, text)) for text in one.texts)
        if chunk and (len(chunk) == CHUNK or size + length > LONGEST):
            yield chunk
            chunk, size = [], 0
        chunk.append(one)
        size += length
    if chunk:
        yield chunk


def _writer(config: PredictConfig, task: Task[Any, Any], stack: ExitStack) -> Callable[[Any, Any, int], None]:
    """Open the output, which takes its place when all is written; return the function that writes one record's prediction.

    Raises:
        ConfigError: A format that the task does not write.
    """
    if config.to not in task.formats:
        raise ConfigError(f"--to {config.to} is for entities", remedy="Leave it out for JSON lines.")
    if config.to == "brat":
        folder = stack.enter_context(atomic_dir(config.out))
        own_names = input_of(config) == "brat"
        return lambda record, spans, number: write_brat(
            folder, record, record.characters(spans), record.id if own_names else numbered(record, number)
        )
    sink: BinaryIO = sys.stdout.buffer
    if config.out:
        out = Path(config.out)
        tmp = stack.enter_context(atomic_file(out))
        sweep_abandoned(out.parent, rf"\.{re.escape(out.name)}\.\d+\.tmp")
        sink = stack.enter_context(tmp.open("wb"))
        stack.callback(os.close, mark_used(tmp))
    if config.to == "pubtator":
        return lambda record, spans, _: _put(sink, pubtator_lines(record, record.characters(spans)).encode())
    return lambda record, labels, _: _put(sink, _json_line(task, record, labels))


def _put(sink: BinaryIO, line: bytes) -> None:
    sink.write(line)


def _json_line(task: Task[Any, Any], record: Any, labels: Any) -> bytes:
    line = {"id": record.id, "line": record.line, **task.json_fields(record, labels)}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _record(task: Task[Any, Any], one: Unlabelled) -> Any:
    record = task.unlabelled(one.id, one.texts, one.line)
    return replace(record, title=one.title) if isinstance(record, Tagged) else record
