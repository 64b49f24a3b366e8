"""Semantic textual similarity: pairs of sentences with a graded score, Spearman's correlation.

Rows `sentence1, sentence2, score`, of the split `test` where the rows name theirs. Source: Cer et
al. 2017, STS benchmark.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from unime.core.errors import DataError
from unime.data.readers import cells, formats
from unime.data.readers.base import DataSource, ResolvedSource, RowError
from unime.data.readers.instructions import Instructions
from unime.eval.benchmark import TaskSpec
from unime.eval.intervals import score_of
from unime.eval.pool import Pool
from unime.eval.scores import TaskScores, ranking_columns
from unime.eval.similarity import Similarities

METRICS: tuple[str, ...] = ("spearman",)


@dataclass(frozen=True)
class GradedPairs:
    """Pairs of inputs with the similarity people gave them; rows of the pool."""

    name: str
    left: np.ndarray
    right: np.ndarray
    grades: np.ndarray

    @property
    def queries(self) -> np.ndarray:
        """(n,) the first of each pair."""
        return self.left

    @property
    def encodes_without_sharing(self) -> int:
        """Two a pair."""
        return 2 * len(self.left)

    def score(self, similarities: Similarities) -> TaskScores:
        """Correlate similarities with grades; a constant model has no correlation and scores 0."""
        found = similarities.pairs(self.left, self.right)
        values = np.stack([found.astype(np.float64), self.grades], axis=1)
        correlation = score_of(values)
        return TaskScores(
            values=values,
            metrics={"spearman": correlation},
            expected=correlation,
            chance={"spearman": 0.0},
            per_query=pa.table(
                {
                    "query": np.arange(len(found)),
                    "value": found.astype(np.float64),
                    "grade": self.grades,
                    "gold_similarity": found,
                    **ranking_columns(self.left, self.right, self.right[:, None], found[:, None]),
                }
            ),
        )


def read(spec: TaskSpec, pool: Pool) -> GradedPairs:
    """Read one task."""
    found: list[tuple[str, str, float]] = []
    for path in spec.paths():
        source = DataSource(reader="rows", path=str(path))
        job = ResolvedSource(source, spec.root, path, spec.name, "", Instructions({}))
        for file, number, values in formats.records(job):
            try:
                if isinstance(values, RowError):
                    raise values
                cells.require(values, "sentence1", "sentence2", "score")
                (grade,) = cells.numbers(values["score"], "score")
            except RowError as error:
                raise DataError(f"{spec.name}: {file}, row {number}: {error}") from None
            if values.get("split", "test") == "test":
                found.append((values["sentence1"], values["sentence2"], grade))
    found = found[: spec.limit]
    if len(found) < 2:
        raise DataError(f"{spec.benchmark}, task {spec.name}: {len(found)} pairs, expected more")
    # Both sentences play one part: similarity between them is symmetric.
    instruction = [spec.definition.query_instruction] * len(found)
    left, right = (
        pool.add(texts, [None] * len(texts), instruction, root=spec.root, side=spec.definition.side)
        for texts in ([first for first, _, _ in found], [second for _, second, _ in found])
    )
    return GradedPairs(spec.name, left, right, np.array([grade for _, _, grade in found]))
