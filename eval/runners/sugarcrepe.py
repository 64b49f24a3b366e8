"""SugarCrepe's layout: JSON files `{id: {filename, caption, negative_caption}}`.

A comparison is right if the picture is strictly closer to its caption than to the negative one.
Source: Hsieh et al. 2023, SugarCrepe, where seven categories are reported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from eval import metrics
from eval.benchmark import Benchmark
from eval.pool import Pool
from eval.score import TaskScores
from eval.similarity import Vectors
from unime.errors import DataError

METRICS: tuple[str, ...] = ("pairwise",)
FIELDS = ("filename", "caption", "negative_caption")


@dataclass(frozen=True)
class Comparisons:
    """Pictures with a right and a wrong caption; rows of the pool."""

    name: str
    queries: np.ndarray
    captions: np.ndarray
    negatives: np.ndarray
    ids: list[str]

    @property
    def encodes_without_sharing(self) -> int:
        """A picture and two captions each."""
        return 3 * len(self.queries)

    def score(self, vectors: Vectors) -> TaskScores:
        """Compare every picture with its two captions."""
        right = vectors.pairs(self.queries, self.captions)
        wrong = vectors.pairs(self.queries, self.negatives)
        values = metrics.pairwise(right, wrong)
        return TaskScores(
            values=values,
            metrics={"pairwise": float(values.mean())},
            expected=float((values + 0.5 * (right == wrong)).mean()),
            chance={"pairwise": 0.5},
            per_query=pa.table(
                {
                    "query": pa.array(self.ids),
                    "hit": values,
                    "gold_similarity": right,
                    "wrong_similarity": wrong,
                }
            ),
        )


def read(
    benchmark: Benchmark, root: Path, names: Sequence[str], limit: int | None, pool: Pool
) -> list[Comparisons]:
    """Read the chosen categories."""
    return [_read_category(benchmark, root, name, limit, pool) for name in names]


def _read_category(
    benchmark: Benchmark, root: Path, name: str, limit: int | None, pool: Pool
) -> Comparisons:
    task = benchmark.tasks[name]
    records = [record for path in benchmark.paths(root, name) for record in _load(path)][:limit]
    images = [record["filename"] for _, record in records]
    pictures = pool.add(
        [""] * len(images),
        images,
        [task.query_instruction] * len(images),
        root=root / benchmark.images,
        side="query",
    )
    captions, negatives = (
        pool.add(
            [record[field] for _, record in records],
            [None] * len(records),
            [task.target_instruction] * len(records),
            root=root,
            side="target",
        )
        for field in ("caption", "negative_caption")
    )
    same = np.flatnonzero(captions == negatives)
    if len(same):
        raise DataError(f"{name}: record '{records[same[0]][0]}' has its caption as its negative")
    return Comparisons(name, pictures, captions, negatives, [key for key, _ in records])


def _load(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict) or not values:
        raise DataError(f"{path} holds no mapping of ids to records; expected SugarCrepe's layout")
    for key, record in values.items():
        for field in FIELDS:
            if not isinstance(record, dict) or not isinstance(record.get(field), str):
                raise DataError(f"{path}: record '{key}' has no text '{field}'")
    return list(values.items())
