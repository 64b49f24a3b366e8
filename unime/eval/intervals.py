"""Bootstrap 95 % intervals and paired tests of per-query values, vectorised and seeded.

A task's score is a statistic of its per-query values: their mean, or Spearman's correlation of
their two columns (similarity, gold score). Equal names give equal draws, so two models are always
resampled alike.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from unime.eval.order_metrics import spearman, spearman_rows

RESAMPLES = 1000
"""Enough for two digits of a 95 % interval."""

SIGN_FLIPS = 10_000
"""Draws of a paired test: p-values down to 1e-4 before correction."""

AT_ONCE = 2_000_000
"""Numbers a block of resampled correlations may hold."""


def score_of(values: np.ndarray) -> float:
    """Return the statistic: the mean of (n,) values, the correlation of (n, 2); 0 if undefined."""
    if values.ndim == 1:
        return float(values.mean())
    return float(np.nan_to_num(spearman(values[:, 0], values[:, 1])))


def bootstrap(values: np.ndarray, name: str, resamples: int = RESAMPLES) -> np.ndarray:
    """Return (resamples,) scores of resampled queries, for values of either shape."""
    if values.ndim == 1:
        return bootstrap_means(values, name, resamples)
    generator = _generator(name)
    parts = []
    for size in _blocks(resamples, len(values)):
        rows = generator.integers(len(values), size=(size, len(values)))
        parts.append(spearman_rows(values[rows, 0], values[rows, 1]))
    return np.nan_to_num(np.concatenate(parts))


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
    draws = _generator(name).multinomial(len(values), counts / len(values), size=resamples)
    return draws @ distinct / len(values)


def paired_bootstrap(first: np.ndarray, second: np.ndarray, name: str) -> np.ndarray:
    """Return (RESAMPLES,) of score(second) - score(first) on the same resampled queries."""
    if first.ndim == 1:
        return bootstrap_means(second - first.astype(np.float64), name)
    return bootstrap(second, name) - bootstrap(first, name)


def paired_null(first: np.ndarray, second: np.ndarray, name: str) -> np.ndarray:
    """Return (SIGN_FLIPS,) differences as they would be if the models' names meant nothing.

    Each query's two values are swapped or not by the toss of a coin (Fisher's randomisation test).
    Equal differences are tossed together, by one binomial draw over the distinct ones.
    """
    generator = _generator(f"{name} null")
    if first.ndim == 1:
        difference = np.abs(second - first.astype(np.float64))
        distinct, counts = np.unique(difference[difference > 0], return_counts=True)
        if not len(distinct):
            return np.zeros(SIGN_FLIPS)
        heads = generator.binomial(counts, 0.5, size=(SIGN_FLIPS, len(counts)))
        return (2 * heads - counts) @ distinct / len(first)
    parts = []
    for size in _blocks(SIGN_FLIPS, 2 * len(first)):
        swap = generator.random((size, len(first))) < 0.5
        gold = np.broadcast_to(first[:, 1], swap.shape)
        one = np.where(swap, second[:, 0], first[:, 0])
        other = np.where(swap, first[:, 0], second[:, 0])
        parts.append(spearman_rows(other, gold) - spearman_rows(one, gold))
    return np.nan_to_num(np.concatenate(parts))


def p_value(observed: float, null: np.ndarray) -> float:
    """Return the two-sided p-value of a difference; never 0, by counting the observation itself."""
    # Rounding must not make a difference as large as the observed one look smaller.
    extreme = np.abs(null) >= abs(observed) * (1 - 1e-9) - 1e-15
    return float((1 + extreme.sum()) / (1 + len(null)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), in the same order."""
    count = len(p_values)
    corrected, highest = [0.0] * count, 0.0
    for rank, place in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (count - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def macro(means: Sequence[np.ndarray]) -> np.ndarray:
    """Return (draws,) the mean over tasks of their resampled scores."""
    return np.mean(np.stack(list(means)), axis=0)


def interval(means: np.ndarray) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % points of resampled scores."""
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def _blocks(total: int, width: int) -> list[int]:
    """Return how many rows of `width` numbers to draw at once, block by block."""
    size = max(1, AT_ONCE // width)
    return [min(size, total - start) for start in range(0, total, size)]
