"""Metrics over lists of candidates: hit@k, recall@k, nDCG@k; pure functions of arrays.

A ragged batch of lists is two flat arrays and `offsets (n + 1,)`: query i owns the entries
`offsets[i]:offsets[i + 1]`. `gold` marks right candidates; there may be several, anywhere in the
list, so the position of the gold candidate never matters.

Ties count against the model: a wrong candidate that scores exactly like the best gold one ranks
above it. Scorers that take `argmax == 0` of lists with the gold candidate first give a constant
embedder 100 %; here it gets 0 %. The expectation under a random order of the tied candidates is
available beside it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unime.core.errors import ModelError


class GoldRanks(NamedTuple):
    """How the best gold candidate of each query stands among the wrong ones."""

    above: np.ndarray
    """(n,) int64: wrong candidates that score strictly higher."""
    tied_wrong: np.ndarray
    """(n,) int64: wrong candidates with the same score."""
    tied_gold: np.ndarray
    """(n,) int64: gold candidates with the same score, the best one included; at least 1."""


def require_finite(similarities: np.ndarray, what: str) -> None:
    """Raise ModelError if any similarity is NaN or infinite; NaN would compare as "not beaten"."""
    wrong = int((~np.isfinite(similarities)).sum())
    if wrong:
        raise ModelError(
            f"{what}: {wrong} of {similarities.size} similarities are NaN or infinite; expected "
            "finite numbers. Look for an overflow (load the model in float32 to see) or a broken "
            "checkpoint"
        )


def rank_gold(similarities: np.ndarray, gold: np.ndarray, offsets: np.ndarray) -> GoldRanks:
    """Count, for each query, the wrong candidates above and level with its best gold one.

    Args:
        similarities: (total,) float32, finite.
        gold: (total,) bool; every query has at least one.
        offsets: (n + 1,) int, increasing; no list is empty.
    """
    require_finite(similarities, "ranking")
    starts, lengths = offsets[:-1], np.diff(offsets)
    assert (lengths > 0).all(), "a query without candidates"
    best = np.maximum.reduceat(np.where(gold, similarities, -np.inf), starts)
    assert np.isfinite(best).all(), "a query without a gold candidate"
    best = np.repeat(best, lengths)
    tied = similarities == best

    def count(mask: np.ndarray) -> np.ndarray:
        return np.add.reduceat(mask, starts, dtype=np.int64)

    return GoldRanks(
        above=count((similarities > best) & ~gold),
        tied_wrong=count(tied & ~gold),
        tied_gold=count(tied & gold),
    )


def hit_at(ranks: GoldRanks, k: int) -> np.ndarray:
    """Return (n,) bool: a gold candidate is among the first k, all ties against the model."""
    return ranks.above + ranks.tied_wrong < k


def expected_hit_at(ranks: GoldRanks, k: int) -> np.ndarray:
    """Return (n,) float64: chance of a gold candidate among the first k, ties in random order."""
    tied = ranks.tied_wrong + ranks.tied_gold
    free = np.clip(k - ranks.above, 0, tied)
    return 1.0 - _share_without_gold(tied, ranks.tied_gold, free)


def chance_hit_at(gold: np.ndarray, offsets: np.ndarray, k: int) -> np.ndarray:
    """Return (n,) float64: expected hit@k of a random order; for k = 1 gold / candidates."""
    lengths = np.diff(offsets)
    golds = np.add.reduceat(gold, offsets[:-1], dtype=np.int64)
    return 1.0 - _share_without_gold(lengths, golds, np.minimum(k, lengths))


def _share_without_gold(total: np.ndarray, golds: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Probability that `drawn` of `total` candidates, drawn at random, hold no gold one."""
    share = np.ones(len(total))
    for step in range(int(drawn.max(initial=0))):
        wrong_left = np.maximum(total - golds - step, 0)
        share = np.where(step < drawn, share * wrong_left / np.maximum(total - step, 1), share)
    return share


def recall_at(
    similarities: np.ndarray, gold: np.ndarray, offsets: np.ndarray, k: int
) -> np.ndarray:
    """Return (n,) float64: share of a query's gold candidates among its first k, ties against.

    With several golds this is not the R@k of caption retrieval, which asks for any of them:
    that is `hit_at`.
    """
    require_finite(similarities, "ranking")
    lengths, starts = np.diff(offsets), offsets[:-1]
    owner = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((gold, -similarities, owner))
    place = np.arange(len(order)) - np.repeat(starts, lengths)
    found = np.add.reduceat(gold[order] & (place < k), starts, dtype=np.int64)
    return found / np.add.reduceat(gold, starts, dtype=np.int64)


def ndcg_at(
    similarities: np.ndarray, gains: np.ndarray, offsets: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) float64 nDCG@k with linear gain, ties against the model; and its expectation.

    The expectation takes tied candidates in random order: each place of a tie earns the mean gain
    of the tied candidates (McSherry and Najork 2008, Computing Information Retrieval Performance
    Measures Efficiently in the Presence of Tied Scores). A query without any gain scores 0.

    Args:
        similarities: (total,) float32, finite.
        gains: (total,) float, 0 for irrelevant candidates.
        offsets: (n + 1,).
        k: the cut.
    """
    require_finite(similarities, "ranking")
    starts, lengths = offsets[:-1], np.diff(offsets)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(owner)) - np.repeat(starts, lengths)
    discount = np.where(place < k, 1.0 / np.log2(place + 2.0), 0.0)

    def gain_of(ordered: np.ndarray) -> np.ndarray:
        return np.add.reduceat(ordered * discount, starts)

    order = np.lexsort((gains, -similarities, owner))
    worst = gains[order].astype(np.float64)
    ranked, owners = similarities[order], owner[order]
    new_tie = np.r_[True, (ranked[1:] != ranked[:-1]) | (owners[1:] != owners[:-1])]
    tie_starts = np.flatnonzero(new_tie)
    tie_sizes = np.diff(np.r_[tie_starts, len(ranked)])
    mean_gain = np.repeat(np.add.reduceat(worst, tie_starts) / tie_sizes, tie_sizes)
    ideal = gain_of(gains[np.lexsort((-gains, owner))].astype(np.float64))
    divisor = np.where(ideal > 0, ideal, 1.0)
    return gain_of(worst) / divisor, gain_of(mean_gain) / divisor


def top_at(
    similarities: np.ndarray, gold: np.ndarray, offsets: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first k flat entries of each list, best first, and their similarities, (n, k).

    Ties against the model, then by place in the list; lists shorter than k end in -1 and -inf.
    """
    starts, lengths = offsets[:-1], np.diff(offsets)
    width = int(lengths.max())
    inside = np.arange(width) < lengths[:, None]
    if inside.all():
        padded, right = similarities.reshape(-1, width), gold.reshape(-1, width)
    else:
        padded = np.full(inside.shape, -np.inf, dtype=np.float32)
        right = np.zeros(inside.shape, dtype=bool)
        padded[inside], right[inside] = similarities, gold
    k = min(k, width)
    # Everything level with the k-th is looked at, so that a tie at the cut is broken by rule.
    kth = -np.partition(-padded, k - 1, axis=1)[:, k - 1]
    rows, columns = np.nonzero(padded >= kth[:, None])
    values = padded[rows, columns]
    order = np.lexsort((columns, right[rows, columns], -values, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    first = np.searchsorted(rows, np.arange(len(lengths)))[:, None] + np.arange(k)
    places, best = columns[first], values[first]
    there = np.isfinite(best)
    return np.where(there, starts[:, None] + places, -1), best


def strongest_wrong(
    similarities: np.ndarray, gold: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) flat entry of the highest scoring wrong candidate, and (n,) its similarity.

    The first of several equal ones; entry -1 and similarity -inf where every candidate is gold.
    """
    starts, lengths = offsets[:-1], np.diff(offsets)
    masked = np.where(gold, -np.inf, similarities)
    best = np.maximum.reduceat(masked, starts)
    entries = np.arange(len(masked))
    is_best = (masked == np.repeat(best, lengths)) & ~gold
    first = np.minimum.reduceat(np.where(is_best, entries, len(masked)), starts)
    return np.where(np.isfinite(best), first, -1), best


def best_gold(similarities: np.ndarray, gold: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return (n,) the similarity of each query's best gold candidate."""
    return np.maximum.reduceat(np.where(gold, similarities, -np.inf), offsets[:-1])


SAMPLE = 2000
"""Embeddings of a side that uniformity looks at."""


def geometry(
    values: np.ndarray, queries: np.ndarray, golds: np.ndarray, has_image: np.ndarray
) -> dict[str, float | None]:
    """Return the three numbers of one task, rounded.

    Args:
        values: embeddings of the pool `(inputs, dim)`.
        queries: (n,) rows.
        golds: (n,) rows of a right answer each.
        has_image: (inputs,) bool.

    Returns:
        `alignment`: mean squared distance of query and gold, 0 is best. `uniformity`: log of the
        mean Gaussian potential of different queries and golds, lower is more even. `modality_gap`:
        distance of the centres of the query and the gold embeddings where one side has pictures
        and the other has not, else None.
    """
    left, right = np.asarray(values[queries]), np.asarray(values[golds])
    both = np.unique(np.concatenate([queries, golds]))
    generator = np.random.default_rng(0)
    if len(both) > SAMPLE:
        both = np.sort(generator.choice(both, SAMPLE, replace=False))
    sample = np.asarray(values[both], dtype=np.float64)
    squared = np.maximum(2 - 2 * (sample @ sample.T)[np.triu_indices(len(sample), 1)], 0)
    gap = None
    if has_image[queries].all() != has_image[golds].all():
        gap = float(np.linalg.norm(left.mean(axis=0) - right.mean(axis=0)))
    return {
        "alignment": _rounded(((left - right) ** 2).sum(axis=1).mean()),
        "uniformity": _rounded(np.log(np.exp(-2 * squared).mean())) if len(squared) else None,
        "modality_gap": None if gap is None else _rounded(gap),
    }


def _rounded(value: float | np.floating) -> float:
    return round(float(value), 4)
