"""Bootstrap 95 % intervals of means, vectorised and seeded."""

import zlib
from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000
"""Enough for two digits of a 95 % interval."""


def bootstrap_means(values: np.ndarray, name: str, resamples: int = RESAMPLES) -> np.ndarray:
    """Return (resamples,) means of resampled queries.

    Drawing n queries with replacement is one multinomial draw over the distinct values, so a
    metric of zeros and ones costs two numbers a resample instead of n.

    Args:
        values: (n,) the metric of every query.
        name: seeds the generator: the same task gets the same draws in every run, and two tasks
            get independent ones.
        resamples: how many means.
    """
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    draws = generator.multinomial(len(values), counts / len(values), size=resamples)
    return draws @ distinct / len(values)


def macro(means: Sequence[np.ndarray]) -> np.ndarray:
    """Return (resamples,) the mean over tasks of their resampled means."""
    return np.mean(np.stack(list(means)), axis=0)


def interval(means: np.ndarray) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % points of resampled means."""
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
