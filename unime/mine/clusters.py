"""SaHa's self-aware hard negatives: clusters of rows that are trained on in one batch.

A row and its cluster mates are each other's hard negatives: the mates' targets look right to the
model as it starts ("self-aware"), but belong to queries that ask for something else. k + 1 rows
cost k + 1 inputs of each side; no negative is encoded for one row alone (arXiv 2508.00955).
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from unime.core.config import Section
from unime.core.errors import RecipeError, did_you_mean
from unime.core.processes import wait
from unime.data.data_folder import DataFolder
from unime.data.known_positives import content_numbers
from unime.data.training_rows import PairColumns, TrainingRows
from unime.mine.exact_search import exact_topk
from unime.mine.task_plan import ItemInput, StoredEmbeddings
from unime.models.embedder import Embedder

BATCH = 64


class ClusterSection(Section):
    """How rows are put into clusters."""

    mates: int = Field(default=15, gt=0)
    """k: rows beside the anchor."""
    pool: int = Field(default=3, gt=0)
    """m: the k mates are chosen among k * m owners of near targets."""
    keep_order: list[str] = Field(default_factory=list)
    """Tasks whose classes are few (classification): the nearest owners are taken as they come."""


def make_clusters(
    queries: Float[np.ndarray, "rows dim"],
    targets: Float[np.ndarray, "rows dim"],
    contents: Int[np.ndarray, " rows"],
    section: ClusterSection,
    *,
    keep_order: bool = False,
) -> Int[np.ndarray, "clusters size"]:
    """Put a task's rows into clusters of an anchor and its k mates.

    For each row that is in no cluster yet: the 2 k m nearest targets that are not its own, each
    replaced by the unused row it belongs to (of several the one whose query is most similar to the
    anchor's), the first k m of them; of these the k whose queries are *least* similar to the
    anchor's. Rows left over get mates that are used already, from a pool twice as wide.

    Args:
        queries: unit embeddings of the rows' queries, by the model that is about to be trained.
        targets: of their positives.
        contents: a number of each row's positive content, equal where it is equal.
        section: k and m.
        keep_order: take the nearest owners instead.

    Returns:
        Rows; shorter clusters are filled up by repeating their anchor.
    """
    wanted = section.mates * section.pool
    distinct, first, place = np.unique(contents, return_index=True, return_inverse=True)
    owners: defaultdict[int, list[int]] = defaultdict(list)
    for row, content in enumerate(place.tolist()):
        owners[content].append(row)
    pool = min(4 * wanted, max(1, len(distinct) - 1))
    near, _ = exact_topk(queries, targets[first], pool, [[content] for content in place.tolist()])
    unused = np.ones(len(queries), dtype=bool)
    clusters, left_over = [], []
    for anchor in range(len(queries)):
        if not unused[anchor]:
            continue
        unused[anchor] = False
        mates = _mates(anchor, near[anchor, : 2 * wanted], owners, queries, unused, wanted)
        if len(mates) < section.mates:
            # Nothing is used up: another anchor may find these rows.
            left_over.append(anchor)
            continue
        chosen = _choose(anchor, mates, queries, section.mates, keep_order)
        unused[chosen] = False
        clusters.append([anchor, *chosen])
    everyone = np.ones(len(queries), dtype=bool)
    used = {row for cluster in clusters for row in cluster}
    for anchor in left_over:
        if anchor in used:
            continue
        everyone[anchor] = False
        mates = _mates(anchor, near[anchor], owners, queries, everyone, wanted)
        everyone[anchor] = True
        chosen = _choose(anchor, mates, queries, section.mates, keep_order)
        clusters.append([anchor, *chosen, *[anchor] * (section.mates - len(chosen))])
    return np.array(clusters, dtype=np.int64).reshape(-1, section.mates + 1)


def cluster_tasks(
    section: ClusterSection,
    data: DataFolder,
    columns: PairColumns,
    rows: TrainingRows,
    embedder: Embedder,
    folder: Path,
) -> dict[str, Int[np.ndarray, "clusters size"]]:
    """Return each task's rows in clusters, by the embeddings of the model as it is now.

    Args:
        section: how.
        data: the data folder.
        columns: its pairs.
        rows: what is trained on; of several positives a row has, the first counts.
        embedder: not trained yet.
        folder: keeps the embeddings, so that a resumed run does not compute them again.

    Raises:
        RecipeError: when `keep_order` names no task.
    """
    tasks = rows.by_task(columns)
    for name in section.keep_order:
        if name not in tasks:
            raise RecipeError(f"clusters.keep_order: no task '{name}'{did_you_mean(name, tasks)}")
    contents = content_numbers(data.items)
    pair, first = rows.pair, columns.positives[columns.starts[rows.pair]]
    sides = (
        ("query", columns.query[pair], columns.query_instruction, columns.query_instructions),
        ("target", first, columns.target_instruction, columns.target_instructions),
    )
    inputs = [
        [
            ItemInput(item, side, names[code])
            for item, code in zip(items.tolist(), codes[pair].tolist(), strict=True)
        ]
        for side, items, codes, names in sides
    ]
    stored = StoredEmbeddings(folder, list(dict.fromkeys(inputs[0] + inputs[1])))
    stored.fill(data, embedder, BATCH)
    wait()
    clusters = {}
    for name, places in tasks.items():
        queries, targets = (stored.read([side[i] for i in places.tolist()]) for side in inputs)
        found = make_clusters(
            queries.astype(np.float32),
            targets.astype(np.float32),
            contents[first[places]],
            section,
            keep_order=name in section.keep_order,
        )
        clusters[name] = places[found]
    return clusters


def _mates(
    anchor: int,
    near: Int[np.ndarray, " pool"],
    owners: dict[int, list[int]],
    queries: np.ndarray,
    free: np.ndarray,
    wanted: int,
) -> list[int]:
    """Return free owners of the nearest targets, at most `wanted`, nearest target first."""
    mates: list[int] = []
    for content in near.tolist():
        candidates = [row for row in owners[content] if free[row]] if content >= 0 else []
        if candidates:
            similarity = queries[candidates] @ queries[anchor]
            mates.append(candidates[int(similarity.argmax())])
        if len(mates) == wanted:
            break
    return mates


def _choose(
    anchor: int, mates: list[int], queries: np.ndarray, count: int, keep_order: bool
) -> list[int]:
    if keep_order or len(mates) <= count:
        return mates[:count]
    similarity = queries[mates] @ queries[anchor]
    return [mates[i] for i in np.argsort(similarity, kind="stable")[:count].tolist()]
