"""What a task's scoring yields, and the numbers that are the same for every layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from eval import metrics
from eval.similarity import Vectors


@dataclass(frozen=True)
class KindScore:
    """How the gold candidate fares against the distractors of one kind alone."""

    hit: float
    """Share of queries whose gold beats every distractor of this kind, ties against."""
    queries: int
    """Queries that have a distractor of this kind."""
    won: int
    """Queries answered wrongly where the strongest wrong candidate was of this kind."""


@dataclass(frozen=True)
class TaskScores:
    """One model's scores on one task; shares in [0, 1]."""

    values: np.ndarray
    """(n,) the main metric of every query; its mean is the score."""
    metrics: dict[str, float]
    """All metrics by name, the main one too."""
    expected: float
    """The main metric with ties broken at random, where `values` counts them against."""
    chance: dict[str, float]
    """What a random order scores, by metric."""
    per_query: pa.Table
    by_kind: dict[str, KindScore] = field(default_factory=dict)


@runtime_checkable
class ParsedTask(Protocol):
    """A task read from disk: index arrays into the pool of encodes, ready to be scored often."""

    @property
    def name(self) -> str:
        """The task's name."""
        ...

    @property
    def queries(self) -> np.ndarray:
        """(n,) pool rows."""
        ...

    @property
    def encodes_without_sharing(self) -> int:
        """How many encodes it would take without sharing: queries and entries of all lists."""
        ...

    def score(self, vectors: Vectors) -> TaskScores:
        """Score one model's embeddings of the pool."""
        ...


def score_lists(
    similarities: np.ndarray, gold: np.ndarray, offsets: np.ndarray, at: tuple[int, ...]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Score lists of candidates.

    Args:
        similarities: (total,) float32.
        gold: (total,) bool.
        offsets: (n + 1,).
        at: the k of hit@k, the main one first.

    Returns:
        (n,) hits by k name ("hit@1"), with "expected" for the first k; and the columns of the
        per-query table, flat entries in `winner`.
    """
    ranks = metrics.rank_gold(similarities, gold, offsets)
    hits = {f"hit@{k}": metrics.hit_at(ranks, k) for k in at}
    hits["expected"] = metrics.expected_hit_at(ranks, at[0])
    wrong, wrong_similarity = metrics.strongest_wrong(similarities, gold, offsets)
    columns = {
        "rank": ranks.above + ranks.tied_wrong + 1,
        "tied": ranks.tied_wrong,
        "gold_similarity": metrics.best_gold(similarities, gold, offsets),
        "wrong_similarity": wrong_similarity,
        "strongest_wrong": wrong,
    }
    return hits, columns
