"""`biomlm finetune compare RUN…`: models × tasks with intervals, which differences are more than chance, kinds of mistakes.

Runs on the same task and data are compared with the first of them. The paired bootstrap draws the same test records for both,
so that what is hard for both does not blur the difference.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from biomlm.core import config as configuration
from biomlm.core.errors import ConfigError, MismatchError
from biomlm.core.files import matching, read_json, refuse_target, with_keys, write_json, write_text
from biomlm.core.manifest import digest, read_manifest
from biomlm.core.summary import summary
from biomlm.finetune.comparison import errors
from biomlm.finetune.comparison.page import page
from biomlm.finetune.comparison.runs import Comparison, Run, other_settings
from biomlm.finetune.comparison.tables import show
from biomlm.finetune.config import CompareConfig, FinetuneConfig
from biomlm.finetune.data import dataset
from biomlm.finetune.metrics.bootstrap import interval, resampled
from biomlm.finetune.metrics.scorer import Scorer
from biomlm.finetune.training import checkpoint, protocol

FOOTER = r"<footer>Made by \w+ finetune compare, "  # what an earlier page is known by


def run(config: CompareConfig) -> None:
    """Print the tables and write what was asked for.

    Raises:
        ConfigError: Mistakes are to be shown, and no task has any.
        MismatchError: No two runs are of one task and one data set, or the data have changed since.
    """
    refuse_target(config.out, config.runs, option="--out", ours=with_keys({"tasks"}), inside=True)
    refuse_target(config.page, config.runs, option="--page", ours=matching(FOOTER), inside=True)
    groups = grouped([load(name) for name in config.runs])
    if config.words and not any(runs[0].error_analysis for runs in groups):
        raise ConfigError("--words has no effect here: these runs predict numbers", remedy="Leave it out.")
    comparisons = [compare_runs(runs, config.words) for runs in groups]
    if all(len(comparison.runs) == 1 for comparison in comparisons):
        problem = "no two of the runs are of one task on the same data with the same labels"
        raise MismatchError(problem, file=config.runs[-1], remedy="Give runs of several models on the same data.")
    show(comparisons)
    if config.out:
        write_json(config.out, {"tasks": [comparison.as_json() for comparison in comparisons]})
    if config.page:
        write_text(config.page, page(comparisons))
        summary(f"biomlm finetune compare → {config.page}", {"runs": len(config.runs), "tasks": len(comparisons)})


def load(name: str) -> Run:
    """Read a finished run.

    Raises:
        DataError: It is none, or it was interrupted.
    """
    folder = Path(name)
    manifest = read_manifest(folder, "finetune")
    scores = read_json(folder / "scores.json")
    seeds: Any = scores["seeds"]
    folders = [protocol.folder_of(folder, seed) for seed in seeds]
    given = configuration.parse(
        FinetuneConfig, ["--config", str(folder / "config.yaml")], prog="biomlm finetune compare", as_it_was=True
    )
    return Run(
        name=name,
        config=given,
        scores=scores,
        rows=[np.load(seed / protocol.ROWS) for seed in folders],
        weights=manifest.inputs["model"],
        data={k: v for k, v in manifest.inputs.items() if k not in ("model", protocol.READ)},
        histories=[read_json(seed / protocol.RESULT)["history"] for seed in folders],  # type: ignore[misc]
        lines=[
            [orjson.loads(line) for line in (seed / protocol.PREDICTIONS).read_bytes().splitlines()] for seed in folders
        ],
    )


def grouped(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs of one task on the same data with the same gold, in the order given.

    The gold of one file is another with --one_type, --groups or other --columns, and F1 is another without another --negative.
    """
    groups: dict[tuple[object, ...], list[Run]] = {}
    for one in runs:
        gold = [[line["id"], line["gold"]] for line in one.lines[0]]
        key = (one.config.task, one.config.negative, digest(gold), *sorted(one.data.items()))
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def compare_runs(runs: list[Run], words: int) -> Comparison:
    """Compare runs on one task.

    Args:
        runs: Of one task on the same data.
        words: How many mistakes to show with their words.

    Raises:
        MismatchError: The data, which words would be taken from, have changed since.
    """
    scorer, first = checkpoint.read(runs[0].name)[0].scorer, runs[0]
    mistakes = []
    if words and first.error_analysis:
        data = dataset.read(first.config)
        if data.hashes() != first.data:
            problem = "the data are no longer those that the run was scored on"
            raise MismatchError(problem, file=first.config.data, remedy="Leave --words out, or put the files back.")
        worst = errors.hardest(first.error_analysis, [lines for one in runs for lines in one.lines], words)
        mistakes = [(mistake, errors.context(data.folds["test"][mistake.record], mistake)) for mistake in worst]
    return Comparison(scorer.metric, runs, [against(scorer, first, other) for other in runs], mistakes)


def against(scorer: Scorer[Any], first: Run, other: Run) -> dict[str, Any]:
    """Compute a run's score, and its difference from the first one's with interval and p-value.

    The p-value is two-sided: twice the share of resamples in which the difference has the other sign (ties count), at most 1.
    """
    metric = scorer.metric
    means = [np.mean([scorer.value(resampled(rows)) for rows in one.rows], axis=0) for one in (first, other)]
    difference = means[1] - means[0]
    worse, better = float(np.mean(difference <= 0)), float(np.mean(difference >= 0))
    test = other.scores["test"]
    return {
        "run": other.name,
        "model": other.model,
        "settings": other_settings(first, other),
        "seeds": len(other.rows),
        metric: test[metric],
        "sd": test[f"{metric}_sd"],
        "interval": test[f"{metric}_interval"],
        "difference": test[metric] - first.scores["test"][metric],
        "difference_interval": interval(difference),
        "p": min(1.0, 2 * min(worse, better)),
        "types": {kind: scores["f1"] for kind, scores in test.get("types", {}).items()},
        "mistakes": other.mistakes,
    }
