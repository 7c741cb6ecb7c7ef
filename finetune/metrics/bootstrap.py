"""How sure a score is: percentile intervals and a paired test, by resampling records with replacement.

Efron and Tibshirani 1993, "An introduction to the bootstrap"; the paired test is that of Berg-Kirkpatrick et al. 2012
("An empirical investigation of statistical significance in NLP").
"""

from typing import Any

import numpy as np

from biomlm.core import rng
from biomlm.finetune.metrics.scorer import F64, Scorer

RESAMPLES = 1000
LEVEL = 0.95
SEED = 20_200_101  # not the run's seed: runs are compared on the same resamples


def resampled(sums: F64, samples: int = RESAMPLES) -> F64:
    """Sum resampled records: [records, …] → [samples, …]; the same records are drawn for every array of one length."""
    records = len(sums)
    drawn = rng.integers(rng.key(SEED, "bootstrap"), np.arange(samples * records), 0, records).reshape(samples, records)
    weights = np.stack([np.bincount(row, minlength=records) for row in drawn])  # how often each record was drawn
    return np.tensordot(weights.astype(np.float64), sums, axes=1)


def interval(values: F64, level: float = LEVEL) -> tuple[float, float]:
    """Return the central share `level` of bootstrap values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(scorer: Scorer[Any], runs: list[F64]) -> tuple[float, float]:
    """Compute the interval of the mean score of several seeds on the same records, each seed's rows given."""
    return interval(np.mean([scorer.value(resampled(sums)) for sums in runs], axis=0))
