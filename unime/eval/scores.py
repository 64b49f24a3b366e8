"""What a task's scoring yields, and the numbers that are the same for every layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from unime.eval import metrics
from unime.eval.similarity import Similarities

TOP = 10
"""How many of each query's best candidates are kept: for TREC runs, galleries and rerankers."""


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
    """(n,) the main metric of every query, whose mean is the score; or (n, 2) similarity and gold
    score, whose rank correlation is."""
    metrics: dict[str, float]
    """All metrics by name, the main one too."""
    expected: float
    """The main metric with ties broken at random, where `values` counts them against."""
    chance: dict[str, float]
    """What a random order scores, by metric."""
    per_query: pa.Table
    """One row a query: `query_row`, `gold_row`, `top_rows`, `top_similarities`, all rows of the
    pool, and what the layout adds."""
    by_kind: dict[str, KindScore] = field(default_factory=dict)


@runtime_checkable
class ParsedTask(Protocol):
    """A task read from disk: index arrays into the pool of inputs, ready to be scored often."""

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
        """How many inputs it would take without sharing: queries and entries of all lists."""
        ...

    def score(self, similarities: Similarities) -> TaskScores:
        """Score one model's similarities."""
        ...


@runtime_checkable
class RankedTask(ParsedTask, Protocol):
    """A task whose candidates are ranked, as TREC's tools know it."""

    def relevance(self) -> Iterator[tuple[str | int, int, float]]:
        """Yield (query, row of a right candidate, grade)."""
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
        per-query table, flat entries in `strongest_wrong` and `top`.
    """
    ranks = metrics.rank_gold(similarities, gold, offsets)
    hits = {f"hit@{k}": metrics.hit_at(ranks, k) for k in at}
    hits["expected"] = metrics.expected_hit_at(ranks, at[0])
    wrong, wrong_similarity = metrics.strongest_wrong(similarities, gold, offsets)
    top, top_similarity = metrics.top_at(similarities, gold, offsets, TOP)
    columns = {
        "rank": ranks.above + ranks.tied_wrong + 1,
        "tied": ranks.tied_wrong,
        "gold_similarity": metrics.best_gold(similarities, gold, offsets),
        "wrong_similarity": wrong_similarity,
        "strongest_wrong": wrong,
        "top": top,
        "top_similarity": top_similarity,
    }
    return hits, columns


def ranking_columns(
    queries: np.ndarray, golds: np.ndarray, top: np.ndarray, similarities: np.ndarray
) -> dict[str, pa.Array]:
    """Return the columns every per-query table has.

    Args:
        queries: (n,) pool rows.
        golds: (n,) pool rows of a right answer each.
        top: (n, k) pool rows, best first, -1 where there are fewer.
        similarities: (n, k).
    """
    there = top >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(there.sum(axis=1))]), pa.int32())
    rows = pa.array(top[there].astype(np.int32))
    values = pa.array(similarities[there].astype(np.float32))
    return {
        "query_row": pa.array(queries.astype(np.int32)),
        "gold_row": pa.array(golds.astype(np.int32)),
        "top_rows": pa.ListArray.from_arrays(offsets, rows),
        "top_similarities": pa.ListArray.from_arrays(offsets, values),
    }


def first_gold(gold: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return (n,) the first gold entry of each list."""
    entries = np.where(gold, np.arange(len(gold)), len(gold))
    return np.minimum.reduceat(entries, offsets[:-1])
