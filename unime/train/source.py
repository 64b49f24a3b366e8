"""Batches for contrast: batch number -> prepared batch, a pure function of data and seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from unime.errors import DataError
from unime.models import Encode
from unime.tables import DataFolder
from unime.train.batch import ContrastIndices, ItemSizes, Prepared, prepare_chunks
from unime.train.masks import KnownPositives
from unime.train.plan import plan_chunks
from unime.train.rows import PairColumns, TrainingRows
from unime.train.sampler import Draw, TaskBatches
from unime.train.step import Features


class Distinct(NamedTuple):
    """The distinct (item, instruction) pairs among many, and where each one went."""

    items: np.ndarray
    instructions: list[str]
    place: np.ndarray
    """Of each given pair, its place among the distinct."""


class ContrastSource:
    """A map-style data set whose samples are whole global batches.

    Args:
        data: the data folder.
        rows: what is trained on.
        batches: which rows make up which batch.
        known: all known positives.
        contents: content number of each item.
        sizes: estimated size of each item, and the budget.
        features: tokenises and preprocesses encodes, as `Embedder.features` does.
        wrong_labels: how many targets of the task serve as negatives where a task has
            `in_batch: false` and a row brings none.
    """

    def __init__(
        self,
        *,
        data: DataFolder,
        rows: TrainingRows,
        batches: TaskBatches,
        known: KnownPositives,
        contents: np.ndarray,
        sizes: ItemSizes,
        features: Callable[[Sequence[Encode]], Features],
        wrong_labels: int,
    ) -> None:
        self.data, self.rows, self.batches = data, rows, batches
        self.columns = PairColumns.of(data)
        self._known, self._contents, self._sizes = known, contents, sizes
        self._features = features
        self._labels = {
            name: self._task_labels(places)
            for name, places in rows.by_task(self.columns).items()
            if not data.tasks[name].in_batch
        }
        self._wrong_labels = wrong_labels

    def __getitem__(self, number: int) -> Prepared:
        """Return batch `number`."""
        draw = self.batches[number]
        pair = self.rows.pair[draw.rows]
        positives, negatives, scores = self._targets(draw, number)
        instruction = self.columns.target_instruction[pair]
        present = negatives >= 0
        queries = self._distinct(
            self.columns.query[pair],
            self.columns.query_instruction[pair],
            self.columns.query_instructions,
        )
        targets = self._distinct(
            np.concatenate([positives, negatives[present]]),
            np.concatenate([instruction, np.repeat(instruction, present.sum(axis=1))]),
            self.columns.target_instructions,
        )
        places = np.full(negatives.shape, -1, dtype=np.int64)
        places[present] = targets.place[len(pair) :]
        indices = ContrastIndices(
            query=torch.from_numpy(queries.place),
            positive=torch.from_numpy(targets.place[: len(pair)]),
            negatives=torch.from_numpy(places),
            scores=torch.from_numpy(scores),
            allowed=torch.from_numpy(self._allowed(draw.task, pair, targets, places)),
        )
        return self._prepare(draw, queries, targets, indices, len(pair) + len(targets.place))

    def _prepare(
        self, draw: Draw, queries: Distinct, targets: Distinct, indices: ContrastIndices, named: int
    ) -> Prepared:
        sizes, encodes = [], []
        for side, group in (("query", queries), ("target", targets)):
            items = group.items.tolist()
            sizes += self._sizes.of(items, group.instructions, side)
            encodes += [
                load_encode(self.data, item, side, text)
                for item, text in zip(items, group.instructions, strict=True)
            ]
        plan = plan_chunks(sizes, self._sizes.budget)
        return Prepared(
            chunks=prepare_chunks(plan, encodes, self._features),
            kept=plan.kept,
            indices=indices,
            name=f"task {draw.task}, pairs {self.rows.pair[draw.rows].tolist()}",
            counts={
                "rows": len(draw.rows),
                "encodes": len(encodes),
                "repeats": 1 - len(encodes) / named,
                "negatives": float(indices.allowed.sum()) / len(draw.rows),
            },
        )

    def _targets(self, draw: Draw, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return positive items `(b,)`, negative items `(b, n)` and scores `(b, 1 + n)`."""
        negatives, scores = self.rows.negatives[draw.rows], self.rows.scores[draw.rows]
        positives = self._positives(draw, scores)
        labels = self._labels.get(draw.task)
        if labels is not None and not (negatives >= 0).any():
            # The same labels for all rows: encoded once, and masked where they are right.
            rng = np.random.default_rng([self.batches.seed, 2, number])
            count = min(self._wrong_labels, len(labels))
            negatives = np.tile(rng.choice(labels, count, replace=False), (len(draw.rows), 1))
            unscored = np.full((len(draw.rows), count), np.nan, dtype=scores.dtype)
            scores = np.concatenate([scores[:, :1], unscored], axis=1)
        return positives, negatives, scores

    def _positives(self, draw: Draw, scores: np.ndarray) -> np.ndarray:
        """Return one positive a row: the judged first one, else another one every turn."""
        pair = self.rows.pair[draw.rows]
        starts, counts = self.columns.starts[pair], np.diff(self.columns.starts)[pair]
        turn = np.where(np.isnan(scores[:, 0]), draw.turn + pair, 0)
        return self.columns.positives[starts + turn % counts]

    def _distinct(self, items: np.ndarray, codes: np.ndarray, names: list[str]) -> Distinct:
        keys = self._contents[items] * len(names) + codes
        _, first, place = np.unique(keys, return_index=True, return_inverse=True)
        return Distinct(items[first], [names[code] for code in codes[first].tolist()], place)

    def _allowed(
        self, task: str, pair: np.ndarray, targets: Distinct, negatives: np.ndarray
    ) -> np.ndarray:
        allowed = self._known.allowed(
            task, self._contents[self.columns.query[pair]], self._contents[targets.items]
        )
        if not self.data.tasks[task].in_batch:
            own = np.zeros((len(pair), len(targets.items) + 1), dtype=bool)
            np.put_along_axis(own, negatives, True, axis=1)
            # Absent negatives (-1) have marked the column too many.
            allowed &= own[:, :-1]
        return allowed

    def _task_labels(self, places: np.ndarray) -> np.ndarray:
        """Return one item for each distinct target content of a task."""
        starts = self.columns.starts
        items = np.concatenate(
            [self.columns.positives[starts[p] : starts[p + 1]] for p in self.rows.pair[places]]
        )
        _, first = np.unique(self._contents[items], return_index=True)
        if len(first) < 2:
            task = self.columns.tasks[self.columns.task[self.rows.pair[places[0]]]]
            raise DataError(
                f"task {task} has in_batch: false and a single target; there is nothing to contrast"
            )
        return items[first]


def load_encode(data: DataFolder, item: int, side: str, instruction: str) -> Encode:
    """Return one input of the embedder, its image decoded."""
    return Encode(data.items.item(item).text, data.load_image(item), side, instruction)
