"""Held-out sequences as a model fills them in, for those who want to see what it has learnt.

They go into `examples.txt` of the run folder and nowhere else. Text of clinical notes must not lie about in run folders: only documents
of sources that `examples.sources` names are shown, and these are the public ones unless the user says otherwise.
"""

from pathlib import Path

import numpy as np
import torch

from biomlm.core.errors import ConfigError
from biomlm.core.files import write_text
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.config import ExamplesConfig
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.training.evaluate import Evaluator

NAME = "examples.txt"


class Examples:
    """The first held-out sequences of the sources that may be shown, always the same ones.

    Args:
        evaluator: Has the held-out split and its masks.
        config: How many, and of which sources.

    Raises:
        ConfigError: No held-out document is of such a source.
    """

    def __init__(self, evaluator: Evaluator, config: ExamplesConfig):
        self.evaluator, self.config = evaluator, config
        names = evaluator.sources.names
        self.shown = [i for i, name in enumerate(names) if name in config.sources]
        if not self.shown:
            raise ConfigError(
                f"examples may be of {', '.join(config.sources)}, and the held-out documents are of {', '.join(names)}",
                remedy="Name another source in --examples.sources if its text may lie in the run folder, or leave --examples.count out.",
            )

    def write(self, run: Path, step: int, model: MaskedLM, device: Device) -> None:
        """Fill them in after `step` steps, on all ranks at once; the first puts them into the run folder, in place of earlier ones."""
        training = model.training
        model.eval()
        lines = [f"step {step}; predicted tokens as [right], or as [prediction|right one]"]
        with torch.inference_mode():
            for index in range(self.evaluator.batches.per_epoch):
                if len(lines) > self.config.count:
                    break
                batch = self.evaluator.batches.micro_batch(0, index)
                if batch is None:
                    continue
                with device.autocast():
                    moved = batch.to(device.torch)
                    best_m = model(moved.packed, moved.positions_m).argmax(-1).cpu()
                lines += self._texts(batch, best_m.tolist())
        model.train(training)
        if self.evaluator.world.is_main:
            write_text(run / NAME, "\n\n".join(lines[: self.config.count + 1]) + "\n")

    def _texts(self, batch: Batch, best: list[int]) -> list[str]:
        """Write out the sequences of a micro-batch that may be shown."""
        assert batch.places_m is not None
        of_sequence = self.evaluator.sources.of(self.evaluator.batches.order.plan(0).micro_batch(batch.index).sequences)
        ends, positions = np.cumsum(batch.packed.lengths), batch.positions_m.tolist()
        texts = []
        for end, length, source in zip(ends, batch.packed.lengths, of_sequence, strict=True):
            if source in self.shown:
                predicted = {
                    p: (best[i], int(batch.labels_m[i])) for i, p in enumerate(positions) if end - length <= p < end
                }
                texts.append(self._text(batch.packed.input_ids_t[end - length : end].tolist(), end - length, predicted))
        return texts

    def _text(self, ids: list[int], first: int, predicted: dict[int, tuple[int, int]]) -> str:
        """Write out one sequence, without its special tokens."""
        tokenizer = self.evaluator.shards.tokenizer
        parts, run = [], list[int]()
        for at, token in enumerate(ids[1:-1], first + 1):
            if at not in predicted:
                run.append(token)
                continue
            guess, right = (tokenizer.decode([token]) for token in predicted[at])
            parts += [tokenizer.decode(run), f"[{right}]" if guess == right else f"[{guess}|{right}]"]
            run = []
        return "".join([*parts, tokenizer.decode(run)]).strip()
