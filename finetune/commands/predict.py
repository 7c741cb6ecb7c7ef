"""`biomlm finetune predict MODEL FILE`: predictions for any number of texts, in the file's order, a chunk in memory at a time.

Within a chunk sequences of like length go through the model together.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from biomlm.core.errors import ConfigError, DataError
from biomlm.core.files import atomic_dir, atomic_file, nothing, refuse_target
from biomlm.core.progress import progress
from biomlm.core.summary import summary
from biomlm.finetune.config import PredictConfig, json_lines
from biomlm.finetune.data.readers.brat import pubtator_lines, write_brat
from biomlm.finetune.tasks.base import Task, Text
from biomlm.finetune.training import checkpoint
from biomlm.finetune.training.inference import outputs
from biomlm.inputs.streams import bare_name, open_lines
from biomlm.model.device import choose

CHUNK = 1000  # texts read before the model runs
BATCH_TOKENS = {
    "cuda": 16384,
    "cpu": 2048,
}  # tokens; on one core 300 sentences took 1.33 s at 512, 1.20 at 2048, 1.93 at 16384
ENDINGS = (".jsonl", ".txt")


def run(config: PredictConfig) -> None:
    """Read, predict, write.

    Raises:
        DataError: The model was not fine-tuned, or a line has no text.
    """
    path = Path(config.file)
    if not bare_name(path.name).endswith(ENDINGS):
        remedy = "Give texts as JSON lines, or one a line."
        raise ConfigError("the file is neither .jsonl nor .txt", file=path, remedy=remedy)
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
        raw = stack.enter_context(path.open("rb"))
        write = _writer(config, task, stack)
        bar = stack.enter_context(progress("biomlm finetune predict", path.stat().st_size, "B"))
        records = _records(raw, config, task)
        position = 0
        while chunk := list(islice(records, CHUNK)):
            rows = outputs(model, task.examples(chunk), tokens, device)
            for record, row in zip(chunk, rows, strict=True):
                done += 1
                write(record, task.decode(row), done)
            bar.advance(raw.tell() - position, note=f"{done:,} texts")
            position = raw.tell()
    if config.out:
        summary(f"biomlm finetune predict → {config.out}", {"texts in": done, "texts out": done})


def _writer(config: PredictConfig, task: Task[Any, Any], stack: ExitStack) -> Callable[[Any, Any, int], None]:
    """Open the output, which takes its place when all is written; return the function that writes one record's prediction.

    Raises:
        ConfigError: A format that the task does not write.
    """
    if config.to not in task.formats:
        raise ConfigError(f"--to {config.to} is for entities", remedy="Leave it out for JSON lines.")
    if config.to == "brat":
        folder = stack.enter_context(atomic_dir(config.out))
        return lambda record, spans, number: write_brat(folder, record, record.characters(spans), number)
    sink: BinaryIO = sys.stdout.buffer
    if config.out:
        sink = stack.enter_context(stack.enter_context(atomic_file(config.out)).open("wb"))
    if config.to == "pubtator":
        return lambda record, spans, _: _put(sink, pubtator_lines(record, record.characters(spans)).encode())
    return lambda record, labels, _: _put(sink, _json_line(task, record, labels))


def _put(sink: BinaryIO, line: bytes) -> None:
    sink.write(line)


def _json_line(task: Task[Any, Any], record: Any, labels: Any) -> bytes:
    line = {"id": record.id, "line": record.line, **task.json_fields(record, labels)}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _records(raw: BinaryIO, config: PredictConfig, task: Task[Any, Any]) -> Iterator[Any]:
    as_json = json_lines(config)
    for number, line in enumerate(open_lines(raw), start=1):
        if line.strip():
            name, texts = _json(config, number, line) if as_json else (f"line {number}", [_utf8(config, number, line)])
            yield task.unlabelled(name, texts, number)


def _utf8(config: PredictConfig, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        where = f"line {number}"
        raise DataError("this is not UTF-8", file=config.file, record=where, remedy="Convert it to UTF-8.") from None


def _json(config: PredictConfig, number: int, line: bytes) -> tuple[str, list[Text]]:
    try:
        row = orjson.loads(line)
        return str(row.get(config.id, f"line {number}")), [_text(row[name]) for name in config.text]
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        problem = f"this is no JSON object with text under {', '.join(config.text)}"
        remedy = "Name the keys with --text."
        raise DataError(problem, file=config.file, record=f"line {number}", remedy=remedy) from None


def _text(value: object) -> Text:
    words = value if isinstance(value, list) else [value]
    if not all(isinstance(word, str) and (word or value == "") for word in words):
        raise TypeError
    return value  # type: ignore[return-value]
