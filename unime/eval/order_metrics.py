"""Metrics over orders of similarities: comparisons, Spearman correlation, AUROC; pure functions.

A comparison is a fixed set of demands between a few similarities of one item: SugarCrepe asks for
one ("caption above negative"), Winoground's group score for four. All must hold strictly: a tie is
an error of the model, so a constant embedder scores 0. Chance and the expectation under random
tie-breaking follow from the demands themselves, by going through all orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from unime.eval.metrics import require_finite

Demands = tuple[tuple[int, int], ...]
"""Pairs (higher, lower) of places among an item's similarities."""


def satisfied(similarities: np.ndarray, demands: Demands) -> np.ndarray:
    """Return (n,) bool: every demand holds strictly.

    Args:
        similarities: (n, places) float32, finite.
        demands: which place must lie above which.
    """
    require_finite(similarities, "comparison")
    higher, lower = np.array(demands).T
    return np.asarray((similarities[:, higher] > similarities[:, lower]).all(axis=1))


def expected_satisfied(similarities: np.ndarray, demands: Demands) -> np.ndarray:
    """Return (n,) float64: the chance that every demand holds when ties are broken at random."""
    result = satisfied(similarities, demands).astype(np.float64)
    higher, lower = np.array(demands).T
    never = (similarities[:, higher] < similarities[:, lower]).any(axis=1)
    open_ = np.flatnonzero((result == 0) & ~never)
    above = similarities[open_][:, higher] > similarities[open_][:, lower]
    held = [
        (above | (order[higher] > order[lower])).all(axis=1)
        for order in _orders(similarities.shape[1])
    ]
    result[open_] = np.mean(held, axis=0)
    return result


def chance_satisfied(demands: Demands, places: int) -> float:
    """Return the share of all orders of the places that satisfy the demands.

    1/2 for SugarCrepe, 1/3 for both parts of SugarCrepe++, 1/5 for ARO's orders, and for
    Winoground 1/4 (text), 1/4 (image) and 1/6 (group).
    """
    orders = _orders(places)
    return sum(all(order[h] > order[low] for h, low in demands) for order in orders) / len(orders)


def macro_weights(groups: Sequence[str], at_least: int = 1) -> np.ndarray:
    """Return (n,) weights of mean 1 under which every group counts alike.

    Args:
        groups: n group names.
        at_least: groups with fewer items get weight 0.
    """
    _, codes, sizes = np.unique(np.array(groups), return_inverse=True, return_counts=True)
    kept = sizes >= at_least
    if not kept.any():
        return np.zeros(len(codes))
    return np.where(kept, len(codes) / (kept.sum() * sizes), 0.0)[codes]


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Return Spearman's rank correlation of two (n,) arrays; NaN when one of them is constant."""
    require_finite(left, "correlation")
    require_finite(right, "correlation")
    return float(_correlations(_ranks(left)[None], _ranks(right)[None])[0])


def spearman_rows(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return (m,) Spearman's correlation of the rows of two (m, n) arrays."""
    return _correlations(
        np.stack([_ranks(row) for row in left]), np.stack([_ranks(row) for row in right])
    )


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the share of (positive, negative) pairs in right order, ties counting one half."""
    require_finite(positive, "AUROC")
    require_finite(negative, "AUROC")
    ranks = _ranks(np.concatenate([positive, negative]))
    n, m = len(positive), len(negative)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def _orders(places: int) -> list[np.ndarray]:
    return [np.array(order) for order in permutations(range(places))]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1, tied values sharing their mean rank."""
    _, codes, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) - (sizes - 1) / 2)[codes]


def _correlations(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left = left - left.mean(axis=1, keepdims=True)
    right = right - right.mean(axis=1, keepdims=True)
    norms = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms > 0, (left * right).sum(axis=1) / norms, np.nan)
