"""`biomlm pretrain inspect`: a run → what its first batches held, counted from the tokens that the model was shown.

Batches are functions of configuration, shards, seed and step, so they are made again; that they are the run's own is known by the hashes
in its metrics. What is counted are ids and labels as they stand in the batches, whatever code chose them.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biomlm.core import config as configuration
from biomlm.core.files import refuse_target, with_keys, write_json
from biomlm.core.manifest import read_manifest
from biomlm.core.metrics import read_metrics
from biomlm.core.summary import summary
from biomlm.core.verbs import VERBS
from biomlm.model.config import EncoderConfig
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.data.curriculum import Curriculum
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.planning.config import InspectConfig
from biomlm.tokenizer.upos import UPOS
from biomlm.training.rank_batches import FINGERPRINT, fingerprint

I64 = npt.NDArray[np.int64]
KEYS = {"steps", "sequences", "tokens", "longest", "token_types", "own", "masks", "pairs"}


@dataclass
class Counts:
    """Sums over batches.

    Args:
        shards: Of the run, which know the special ids, where words begin, and parts of speech.
        of: Name → how many of what.
        pairs: Number of a pair's class → pairs.
        tags: Number of a part of speech → predicted tokens.
    """

    shards: Shards
    of: Counter[str] = field(default_factory=Counter)
    pairs: Counter[int] = field(default_factory=Counter)
    tags: Counter[int] = field(default_factory=Counter)

    def add(self, batch: Batch) -> None:
        """Count one micro-batch."""
        ids = self.shards.tokenizer.ids
        shown_t, positions_m = batch.packed.input_ids_t.numpy(), batch.positions_m.numpy()
        labels_m, lengths_b = batch.labels_m.numpy(), np.asarray(batch.packed.lengths)
        original_t = shown_t.copy()
        original_t[positions_m] = labels_m
        text_t = ~np.isin(original_t, (ids.bos, ids.eos, ids.pad))
        masked_t = np.zeros(len(shown_t), dtype=bool)
        masked_t[positions_m] = True
        is_mask_m = shown_t[positions_m] == ids.mask
        sequence_m = np.repeat(np.arange(len(lengths_b)), lengths_b)[positions_m]
        self.of.update(
            sequences=len(lengths_b),
            tokens=len(shown_t),
            text=int(text_t.sum()),
            predicted=len(positions_m),
            special=int((masked_t & ~text_t).sum()),
            mask=int(is_mask_m.sum()),
            kept=int((~is_mask_m & (shown_t[positions_m] == labels_m)).sum()),
        )
        self._at_most("longest", lengths_b)
        self._at_most("most", np.bincount(sequence_m, minlength=1))
        self._at_most(
            "token_types",
            np.ones(1) if batch.packed.token_type_ids_t is None else 1 + batch.packed.token_type_ids_t.numpy(),
        )
        self._add_words(original_t, text_t, masked_t)
        if batch.pair_labels_b is not None:
            self.pairs.update(batch.pair_labels_b.tolist())
        if self.shards.pos is not None and batch.places_m is not None:
            self.tags.update(self.shards.pos[batch.places_m].tolist())

    def _at_most(self, name: str, values: npt.NDArray[Any]) -> None:
        self.of[name] = max(self.of[name], int(values.max(initial=0)))

    def _add_words(self, original_t: I64, text_t: npt.NDArray[np.bool_], masked_t: npt.NDArray[np.bool_]) -> None:
        """Count words of several pieces that are predicted, and of them those whose pieces all are; and rows of predicted words."""
        begins_t = ~text_t | self.shards.tokenizer.is_word_start[original_t]
        begins_t[1:] |= ~text_t[:-1]
        begins_t[:1] = True
        firsts_w = np.flatnonzero(begins_t)
        pieces_w = np.diff(np.append(firsts_w, len(begins_t)))
        predicted_w = np.add.reduceat(masked_t.astype(np.int64), firsts_w)
        touched_w = (predicted_w > 0) & (pieces_w > 1)
        any_w = predicted_w > 0
        rows = int(any_w[:1].sum() + (any_w[1:] & ~any_w[:-1]).sum())
        self.of.update(
            long_words=int(touched_w.sum()),
            whole_words=int((touched_w & (predicted_w == pieces_w)).sum()),
            words=int(any_w.sum()),
            rows=rows,
        )

    def result(self, steps: int, own: bool | None) -> dict[str, Any]:
        """Give the counts as shares of what they were counted in."""
        of = self.of
        random = of["predicted"] - of["mask"] - of["kept"]
        tags = {(UPOS[tag - 1] if tag else "none"): share(n, of["predicted"]) for tag, n in sorted(self.tags.items())}
        classes = [label for label in sorted(self.pairs) if label >= 0]
        labelled = sum(self.pairs[label] for label in classes)
        return {
            "steps": steps,
            "own": own,
            **{name: of[name] for name in ("sequences", "tokens", "longest", "token_types")},
            "masks": {
                "rate": share(of["predicted"], of["text"]),
                "mask": share(of["mask"], of["predicted"]),
                "random": share(random, of["predicted"]),
                "kept": share(of["kept"], of["predicted"]),
                "special": share(of["special"], of["predicted"]),
                "most": of["most"],
                "whole_words": share(of["whole_words"], of["long_words"]),
                "words_in_a_row": round(of["words"] / max(of["rows"], 1), 3),
                "parts_of_speech": tags,
            },
            "pairs": [share(self.pairs[label], labelled) for label in classes],
        }


def share(part: int, whole: int) -> dict[str, float]:
    """Give a share with what it was counted in: a reader can tell chance from a fault."""
    return {"share": round(part / whole, 5) if whole else 0.0, "of": whole}


def inspect(config: InspectConfig) -> None:
    """Count, print and, where asked for, write the counts.

    Raises:
        DataError: This is no run, or its shards are gone.
    """
    refuse_target(config.out, [config.run], option="--out", ours=with_keys(KEYS), inside=True)
    run = Path(config.run)
    stage = read_manifest(run, "pretrain|distill", finished=False).stage
    words = ["--config", str(run / "config.yaml")]
    settings = configuration.parse(VERBS[stage].config, words, prog=f"biomlm {stage}", as_it_was=True)
    result = counted(settings, run, config.tokens)
    if config.out:
        write_json(config.out, result)
    rows = {name: value for name, value in result.items() if name not in ("masks", "pairs", "own")}
    rows["the run's own"] = {True: "yes, by their hashes", False: "no", None: "not known"}[result["own"]]
    rows |= {f"masks: {name}": _text(value) for name, value in result["masks"].items() if value != {}}
    rows |= {f"pairs of class {label}": _text(value) for label, value in enumerate(result["pairs"])}
    summary(f"pretrain inspect {run}", rows)


def counted(settings: PretrainConfig, run: Path, tokens: int) -> dict[str, Any]:
    """Count the first steps of a run.

    Args:
        settings: Its configuration.
        run: Its folder.
        tokens: Stop after this many.
    """
    shards = Shards(settings.folders, "train")
    curriculum = Curriculum(shards, settings, EncoderConfig.load(run).type_vocab_size > 1)
    counts, hashes = Counts(shards), list[int]()
    for step in range(settings.steps):
        batches = curriculum.step(step)
        for batch in batches:
            counts.add(batch)
        hashes.append(sum(map(fingerprint, batches)) & FINGERPRINT)
        if counts.of["tokens"] >= tokens:
            break
    return counts.result(len(hashes), _are_own(hashes, run))


def _are_own(hashes: list[int], run: Path) -> bool | None:
    """Whether the run wrote the same hashes of its first steps; None if it wrote none of so few."""
    answers = [
        sum(hashes[first:last]) & FINGERPRINT == seen for first, last, seen in _written(run) if last <= len(hashes)
    ]
    return all(answers) if answers else None


def _written(run: Path) -> Iterator[tuple[int, int, int]]:
    """Yield first step, last step and hash of the batches of every record."""
    before = 0
    for record in read_metrics(run):
        if record["split"] == "train" and "batches" in record:
            yield before, int(record["step"]), int(record["batches"], 16)
            before = int(record["step"])


def _text(value: Any) -> str:
    if isinstance(value, dict) and value.keys() == {"share", "of"}:
        return f"{value['share']:.1%} of {value['of']:,}"
    return ", ".join(f"{name} {_text(item)}" for name, item in value.items()) if isinstance(value, dict) else str(value)
