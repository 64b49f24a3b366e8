"""Queries that all rank the same candidates: caption retrieval and corpora with graded relevance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from unime.eval import metrics
from unime.eval.scores import TaskScores, first_gold, ranking_columns, score_lists
from unime.eval.similarity import Similarities

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class WholeSet:
    """Queries and the candidates they share; rows of the pool."""

    name: str
    queries: np.ndarray
    """(n,) int32."""
    candidates: np.ndarray
    """(m,) int32; equal contents appear as often as the set holds them."""
    query_groups: np.ndarray
    """(n,) which group of right answers a query has."""
    group_golds: list[np.ndarray]
    """For each group, indices into `candidates`."""
    group_gains: list[np.ndarray] | None
    """For each group, how relevant each gold candidate is; all alike if None."""
    at: tuple[str, ...]
    """The metrics, the main one first: `R@k` (any right one found), `ndcg_linear@k`, `recall@k`."""
    query_ids: list[str] | None = None
    """Published ids, for TREC runs."""

    @property
    def encodes_without_sharing(self) -> int:
        """Queries, and the candidates they share."""
        return len(self.queries) + len(self.candidates)

    def relevance(self) -> Iterator[tuple[str | int, int, float]]:
        """Yield (query, row of a right candidate, grade)."""
        for number, group in enumerate(self.query_groups):
            query = number if self.query_ids is None else self.query_ids[number]
            golds = self.group_golds[group]
            gains = np.ones(len(golds)) if self.group_gains is None else self.group_gains[group]
            rows = dict(zip(self.candidates[golds].tolist(), gains.tolist(), strict=True))
            yield from ((query, row, grade) for row, grade in rows.items())

    def score(self, similarities: Similarities) -> TaskScores:
        """Rank all candidates for every query, block by block."""
        values, expected, chance, columns = (
            {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            for parts in zip(*self._score_blocks(similarities), strict=True)
        )
        main = self.at[0]
        top = np.where(columns["top"] >= 0, self.candidates[columns["top"]], -1)
        gold = self.candidates[columns["first_gold"]]
        kept = ("rank", "tied", "gold_similarity", "wrong_similarity")
        return TaskScores(
            values=values[main],
            metrics={name: float(values[name].mean()) for name in self.at},
            expected=float(expected[main].mean()),
            chance={name: float(chance[name].mean()) for name in self.at},
            per_query=pa.table(
                {
                    "query": pa.array(self.query_ids) if self.query_ids is not None else
                    np.arange(len(self.queries)),
                    "hit": columns["rank"] == 1,
                    "value": values[main].astype(np.float64),
                    **{name: columns[name] for name in kept},
                    **ranking_columns(self.queries, gold, top, columns["top_similarity"]),
                }
            ),
        )  # fmt: skip

    def _score_blocks(
        self, similarities: Similarities
    ) -> Iterator[tuple[Columns, Columns, Columns, Columns]]:
        """Yield values, expectations, chance levels and table columns of a block of queries."""
        for part, block in similarities.blocks(self.queries, self.candidates):
            gains = self._gains(part, block.shape)
            gold = gains > 0
            offsets = np.arange(len(block) + 1, dtype=np.int64) * len(self.candidates)
            flat = block.ravel()
            ranks, columns = score_lists(flat, gold, offsets, (1,))
            columns["top"] = np.where(columns["top"] >= 0, columns["top"] - offsets[:-1, None], -1)
            columns["first_gold"] = first_gold(gold, offsets) - offsets[:-1]
            scored = [_scores(name, flat, gains, offsets) for name in self.at]
            del ranks
            yield (
                {name: found[0] for name, found in zip(self.at, scored, strict=True)},
                {name: found[1] for name, found in zip(self.at, scored, strict=True)},
                {name: found[2] for name, found in zip(self.at, scored, strict=True)},
                columns,
            )

    def _gains(self, part: slice, shape: tuple[int, ...]) -> np.ndarray:
        gains = np.zeros(shape, dtype=np.float32)
        for row, group in enumerate(self.query_groups[part]):
            found = 1.0 if self.group_gains is None else self.group_gains[group]
            gains[row, self.group_golds[group]] = found
        return gains.ravel()


def _scores(
    name: str, similarities: np.ndarray, gains: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (n,) values, expectations under random ties, and chance levels of one metric."""
    kind, _, cut = name.partition("@")
    k = int(cut)
    gold = gains > 0
    if kind == "ndcg_linear":
        worst, expected = metrics.ndcg_at(similarities, gains, offsets, k)
        _, chance = metrics.ndcg_at(np.zeros_like(similarities), gains, offsets, k)
        return worst, expected, chance
    if kind == "recall":
        found = metrics.recall_at(similarities, gold, offsets, k)
        lengths = np.diff(offsets)
        return found, found, np.minimum(k, lengths) / lengths
    assert kind == "R", name
    ranks = metrics.rank_gold(similarities, gold, offsets)
    return (
        metrics.hit_at(ranks, k),
        metrics.expected_hit_at(ranks, k),
        metrics.chance_hit_at(gold, offsets, k),
    )
