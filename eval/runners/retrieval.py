"""Pictures with captions, several a picture: R@1/5/10 both ways over the whole set.

Layout: a captions file in any of the forms of the folder reader (`unime/readers/folder.py`).
`image_to_text` is right when any caption of the picture is among the first
k, as the CLIP literature counts it; `text_to_image` when the caption's picture is. Candidates
equal in content to a right one are right, and queries equal in content share their right answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from eval import metrics
from eval.benchmark import Benchmark
from eval.pool import Pool
from eval.score import TaskScores, score_lists
from eval.similarity import Vectors
from unime.errors import DataError, RecipeError, did_you_mean
from unime.readers import folder
from unime.readers.instructions import Instructions
from unime.readers.source import Job, RowError, Source

METRICS: tuple[str, ...] = ("R@1",)
AT = (1, 5, 10)
Columns = dict[str, np.ndarray]
DIRECTIONS = ("image_to_text", "text_to_image")


@dataclass(frozen=True)
class WholeSet:
    """Queries that all rank the same candidates; rows of the pool."""

    name: str
    queries: np.ndarray
    """(n,) int32."""
    candidates: np.ndarray
    """(m,) int32; equal contents appear as often as the set holds them."""
    query_groups: np.ndarray
    """(n,) which group of right answers a query has."""
    group_golds: list[np.ndarray]
    """For each group, indices into `candidates`."""

    @property
    def encodes_without_sharing(self) -> int:
        """Queries, and the candidates they share."""
        return len(self.queries) + len(self.candidates)

    def score(self, vectors: Vectors) -> TaskScores:
        """Rank all candidates for every query, block by block."""
        hits, columns, chance = (
            {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            for parts in zip(*self._score_blocks(vectors), strict=True)
        )
        return TaskScores(
            values=hits["hit@1"],
            metrics={f"R@{k}": float(hits[f"hit@{k}"].mean()) for k in AT},
            expected=float(hits["expected"].mean()),
            chance={name: float(values.mean()) for name, values in chance.items()},
            per_query=pa.table(
                {"query": np.arange(len(self.queries)), "hit": hits["hit@1"], **columns}
            ),
        )

    def _score_blocks(self, vectors: Vectors) -> Iterator[tuple[Columns, Columns, Columns]]:
        """Yield hits, columns of the per-query table, and chance levels of a block of queries."""
        for part, similarities in vectors.blocks(self.queries, self.candidates):
            gold = np.zeros(similarities.shape, dtype=bool)
            for row, group in enumerate(self.query_groups[part]):
                gold[row, self.group_golds[group]] = True
            offsets = np.arange(len(gold) + 1, dtype=np.int64) * len(self.candidates)
            hits, columns = score_lists(similarities.ravel(), gold.ravel(), offsets, AT)
            strongest = columns["strongest_wrong"]
            columns["strongest_wrong"] = np.where(strongest >= 0, strongest - offsets[:-1], -1)
            chance = {f"R@{k}": metrics.chance_hit_at(gold.ravel(), offsets, k) for k in AT}
            yield hits, columns, chance


def read(
    benchmark: Benchmark, root: Path, names: Sequence[str], limit: int | None, pool: Pool
) -> list[WholeSet]:
    """Read the chosen directions."""
    tasks: list[WholeSet] = []
    for name in names:
        if name not in DIRECTIONS:
            raise RecipeError(
                f"{benchmark.name}: unknown direction '{name}'{did_you_mean(name, DIRECTIONS)}"
            )
        records = [r for path in benchmark.paths(root, name) for r in _load(benchmark, root, path)][
            :limit
        ]
        tasks.append(_parse(benchmark, root, name, records, pool))
    return tasks


def _parse(
    benchmark: Benchmark,
    root: Path,
    name: str,
    records: Sequence[tuple[str, list[str]]],
    pool: Pool,
) -> WholeSet:
    task = benchmark.tasks[name]
    by_picture = name == "image_to_text"
    owner = np.repeat(np.arange(len(records)), [len(captions) for _, captions in records])
    pictures = [image for image, _ in records]
    captions = [caption for _, captions in records for caption in captions]
    image_rows = pool.add(
        [""] * len(pictures),
        pictures,
        [task.query_instruction if by_picture else task.target_instruction] * len(pictures),
        root=root,
        side="query" if by_picture else "target",
    )
    text_rows = pool.add(
        captions,
        [None] * len(captions),
        [task.target_instruction if by_picture else task.query_instruction] * len(captions),
        root=root,
        side="target" if by_picture else "query",
    )
    if by_picture:
        return _whole_set(name, image_rows, text_rows, owner, np.arange(len(captions)))
    return _whole_set(name, text_rows, image_rows, np.arange(len(captions)), owner)


def _whole_set(
    name: str,
    queries: np.ndarray,
    candidates: np.ndarray,
    pair_query: np.ndarray,
    pair_candidate: np.ndarray,
) -> WholeSet:
    """Join right answers over equal contents, of queries and of candidates.

    Args:
        name: the task.
        queries: (n,) pool rows.
        candidates: (m,) pool rows.
        pair_query: (pairs,) indices into `queries`.
        pair_candidate: (pairs,) indices into `candidates`, right for the query beside it.
    """
    places: dict[int, list[int]] = {}
    for place, row in enumerate(candidates.tolist()):
        places.setdefault(row, []).append(place)
    contents, groups = np.unique(queries, return_inverse=True)
    golds: list[set[int]] = [set() for _ in contents]
    for query, candidate in zip(groups[pair_query], candidates[pair_candidate], strict=True):
        golds[query].update(places[int(candidate)])
    return WholeSet(name, queries, candidates, groups, [np.array(sorted(gold)) for gold in golds])


def _load(benchmark: Benchmark, root: Path, path: Path) -> list[tuple[str, list[str]]]:
    """Return (image, captions) of each picture of a captions file, in order."""
    job = Job(
        source=Source(reader="folder", path=str(path), language=benchmark.language),
        root=root,
        path=path,
        task=benchmark.name,
        image_root=benchmark.images,
        instructions=Instructions({}),
    )
    captions: dict[str, list[str]] = {}
    for file, number, values in folder.records(job):
        try:
            if isinstance(values, RowError):
                raise values
            (pair,) = folder.pairs(values, job)
        except RowError as error:
            raise DataError(f"{path.parent / file}, row {number}: {error}") from None
        assert pair.query.image is not None
        captions.setdefault(pair.query.image, []).extend(item.text for item in pair.positives)
    if not captions:
        raise DataError(f"{path} holds no pictures")
    return list(captions.items())
