"""What is encoded and searched for one task, and the embeddings on disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from unime.core import console, files, processes
from unime.data.data_folder import DataFolder

if TYPE_CHECKING:
    from unime.models.embedder import Embedder

PART = 1024
"""Inputs in one saved part; also how many decoded images are in memory at once."""


class ItemInput(NamedTuple):
    """One distinct input: an item on one side, under an instruction."""

    item: int
    side: str
    instruction: str


@dataclass(frozen=True)
class TaskPlan:
    """What is to be encoded and searched for one task."""

    task: str
    pairs: Int[np.ndarray, " pairs"]
    """Rows of the pair table."""
    queries: list[ItemInput]
    """The distinct query inputs."""
    query_of: Int[np.ndarray, " pairs"]
    """Which query input a pair has."""
    corpus: list[ItemInput]
    """The distinct targets; each with the instruction of the first pair that names it."""
    positive_of: Int[np.ndarray, " pairs"]
    """Where in the corpus a pair's first positive is."""
    excluded: list[list[int]]
    """Per pair, where in the corpus its query's known positives and its own content are."""

    def own_part(self) -> TaskPlan:
        """Return the pairs that this process searches for, in the whole corpus."""
        rank, world = processes.ranks()
        part = slice(len(self.pairs) * rank // world, len(self.pairs) * (rank + 1) // world)
        return replace(
            self,
            pairs=self.pairs[part],
            query_of=self.query_of[part],
            positive_of=self.positive_of[part],
            excluded=self.excluded[part],
        )


@dataclass(frozen=True)
class TaskResult:
    """What was found for one task; rows of the item table."""

    candidates: Int[np.ndarray, "pairs k"]
    """-1 where the corpus has fewer."""
    similarities: Float[np.ndarray, "pairs k"]
    positive_similarities: Float[np.ndarray, " pairs"]
    ranks: Int[np.ndarray, " pairs"]

    @classmethod
    def joined(cls, parts: Sequence[TaskResult]) -> TaskResult:
        """Put the processes' parts together."""
        return cls(
            np.concatenate([part.candidates for part in parts]),
            np.concatenate([part.similarities for part in parts]),
            np.concatenate([part.positive_similarities for part in parts]),
            np.concatenate([part.ranks for part in parts]),
        )


def plan_task(
    data: DataFolder, task: str, splits: Sequence[str], limit: int | None = None
) -> TaskPlan:
    """Return what to encode and search for one task, for all queries or a sample of `limit`.

    Known positives count from every split, so that a dev answer is no negative either. Rows of
    the item table are distinct contents: equal row and equal content are the same.
    """
    known: defaultdict[int, set[int]] = defaultdict(set)
    corpus: dict[int, ItemInput] = {}
    found: list[tuple[int, ItemInput, int]] = []
    for row, name in enumerate(data.pairs["task"].to_pylist()):
        if name != task:
            continue
        pair = data.pair(row)
        known[pair.query].update(pair.positives)
        if pair.split not in splits:
            continue
        query = ItemInput(pair.query, "query", pair.query_instruction)
        for item in (*pair.positives, *pair.negatives):
            target = ItemInput(item, "target", pair.target_instruction)
            corpus.setdefault(item, target)
        found.append((row, query, pair.positives[0]))
    # Content ids are hashes: their order is a random one that depends on nothing else.
    distinct = dict.fromkeys(query.item for _, query, _ in found)
    asking = set(sorted(distinct, key=data.items.content_id)[:limit])
    chosen = [one for one in found if one[1].item in asking]
    queries = {query: number for number, query in enumerate(dict.fromkeys(q for _, q, _ in chosen))}
    place = {item: number for number, item in enumerate(corpus)}
    return TaskPlan(
        task,
        np.array([row for row, *_ in chosen], dtype=np.int32),
        list(queries),
        np.array([queries[query] for _, query, _ in chosen], dtype=np.int64),
        list(corpus.values()),
        np.array([place[positive] for *_, positive in chosen], dtype=np.int64),
        [
            sorted(place[item] for item in known[query.item] | {query.item} if item in place)
            for _, query, _ in chosen
        ],
    )


class StoredEmbeddings:
    """The embeddings of a list of distinct inputs: fp16, on disk, in parts of `PART`."""

    def __init__(self, folder: Path, inputs: Sequence[ItemInput]) -> None:
        self._folder = folder
        self._inputs = inputs
        self._number = {one: number for number, one in enumerate(inputs)}

    def fill(self, data: DataFolder, embedder: Embedder, batch_size: int) -> None:
        """Compute the parts that are missing, each process its own."""
        from unime.models.inputs import load_input

        rank, world = processes.ranks()
        starts = range(0, len(self._inputs), PART)
        label = f"mine: encoding {len(self._inputs)} distinct inputs"
        with ThreadPoolExecutor() as pool:
            for part, start in enumerate(console.progress(starts, label=label, unit="parts")):
                path = self._path(part)
                if part % world != rank or path.exists():
                    continue
                chosen = self._inputs[start : start + PART]
                loaded = list(pool.map(lambda one: load_input(data, *one), chosen))
                label_part = f"mine: encoding part {part + 1}/{len(starts)}"
                values = embedder.encode(loaded, batch_size=batch_size, label=label_part)
                with files.atomic_path(path) as temporary:
                    np.save(temporary, values.astype(np.float16))

    def read(self, inputs: Sequence[ItemInput]) -> Float[np.ndarray, "inputs dim"]:
        """Return the embeddings of some of the inputs, as they are on disk."""
        numbers = np.array([self._number[one] for one in inputs], dtype=np.int64)
        parts, rows = np.divmod(numbers, PART)
        pieces = {
            part: np.load(self._path(part), mmap_mode="r") for part in np.unique(parts).tolist()
        }
        dim = next(iter(pieces.values())).shape[1]
        values = np.empty((len(numbers), dim), dtype=np.float16)
        for part, piece in pieces.items():
            values[parts == part] = piece[rows[parts == part]]
        return values

    def _path(self, part: int) -> Path:
        return self._folder / f"{part:05d}.npy"
