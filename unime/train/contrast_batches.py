"""Layout of contrast batches: batch number -> who is whose positive and negative.

A pure function of data and seed; nothing is loaded before `load`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int

from unime.core.errors import DataError
from unime.data.data_folder import DataFolder
from unime.data.known_positives import KnownPositives
from unime.data.training_rows import PairColumns, TrainingRows
from unime.losses import LossTerm
from unime.mine.task_plan import ItemInput
from unime.models.inputs import ModelInput, load_input
from unime.train.batch import ContrastIndices, ItemSizes, Layout
from unime.train.sampler import Draw, TaskBatches


class _Distinct(NamedTuple):
    """The distinct (content, instruction) pairs among many, and where each one went."""

    items: np.ndarray
    instructions: list[str]
    place: np.ndarray
    """Of each given pair, its place among the distinct."""


class _Masks(NamedTuple):
    """What a row's query has to do with each candidate, by content."""

    excluded: Bool[np.ndarray, "batch cands"]
    """Known positives of the query, its own among them, and the query's own content."""
    same: Bool[np.ndarray, "batch cands"]
    """The query's own content."""
    related: Bool[np.ndarray, "batch cands"]
    """See `ContrastBatch.related`."""


class ContrastLayout:
    """Batches of distinct inputs, and who is whose positive and negative.

    Args:
        data: the data folder.
        columns: its pairs.
        rows: what is trained on.
        batches: which rows make up which batch.
        known: all known positives.
        sizes: estimated size of each item.
        random_labels: how many targets of the task serve as negatives where a task has
            `in_batch: false` and a row brings none.
        masked: whether known positives and the query's own content are no negatives.
    """

    def __init__(
        self,
        *,
        data: DataFolder,
        columns: PairColumns,
        rows: TrainingRows,
        batches: TaskBatches,
        known: KnownPositives,
        sizes: ItemSizes,
        random_labels: int,
        masked: bool = True,
    ) -> None:
        self.rows, self.batches = rows, batches
        self._data, self._columns, self._sizes = data, columns, sizes
        self._known, self._contents = known, known.contents
        self._masks = masked
        self._labels = {
            name: self._task_labels(places)
            for name, places in rows.by_task(columns).items()
            if not data.tasks[name].in_batch
        }
        self._random_labels = random_labels

    def layout(self, number: int) -> Layout:
        """Return what batch `number` holds; nothing is loaded."""
        draw = self.batches[number]
        pair = self.rows.pair[draw.rows]
        positives, negatives, scores = self._targets(draw, number)
        instruction = self._columns.target_instruction[pair]
        present = negatives >= 0
        queries = self._distinct(
            self._columns.query[pair],
            self._columns.query_instruction[pair],
            self._columns.query_instructions,
        )
        targets = self._distinct(
            np.concatenate([positives, negatives[present]]),
            np.concatenate([instruction, np.repeat(instruction, present.sum(axis=1))]),
            self._columns.target_instructions,
            # Without masks a copy of a row's positive, of another row, is a negative: another column.
            apart=not self._masks and self._data.tasks[draw.task].in_batch,
        )
        places = np.full(negatives.shape, -1, dtype=np.int64)
        places[present] = targets.place[len(pair) :]
        positive = targets.place[: len(pair)]
        masks = self._compare(draw.task, pair, targets, positive)
        allowed = self._allowed(draw.task, masks.excluded, positive, places)
        inputs, sizes = self._inputs(queries, targets)
        named = len(pair) + len(targets.place)
        return Layout(
            name=f"task {draw.task}, pairs {pair.tolist()}",
            inputs=inputs,
            sizes=sizes,
            indices=ContrastIndices(
                query=torch.from_numpy(queries.place),
                positive=torch.from_numpy(positive),
                negatives=torch.from_numpy(places),
                scores=torch.from_numpy(scores),
                allowed=torch.from_numpy(allowed),
                related=torch.from_numpy(masks.related),
            ),
            counts={
                "rows": len(draw.rows),
                "encodes": len(inputs),
                "repeats": 1 - len(inputs) / named,
                "negatives": float(allowed.sum()) / len(draw.rows),
                **_masked(masks, allowed),
            },
        )

    def load(self, entry: ItemInput) -> ModelInput:
        """Return one input of the embedder, its image decoded."""
        return load_input(self._data, *entry)

    def has_negative(self, number: int, losses: Sequence[LossTerm]) -> bool:
        """Tell whether a batch gives one of the losses something to tell from a positive."""
        indices = self.layout(number).indices
        assert isinstance(indices, ContrastIndices)
        present = indices.negatives >= 0
        own = present & indices.allowed.gather(1, indices.negatives.clamp(min=0))
        scored = (~indices.scores.isnan()).sum(dim=1) >= 2
        found = {
            "info_nce": bool(indices.allowed.any()),
            "info_nce, own": bool(own.any()),
            "soft_label": bool((own.any(dim=1) & scored).any()),
        }
        names = [
            f"{term.name}, own" if term.options.get("in_batch") is False else term.name
            for term in losses
        ]
        return any(found.get(name, True) for name in names)

    def _inputs(
        self, queries: _Distinct, targets: _Distinct
    ) -> tuple[list[ItemInput], Int[np.ndarray, "inputs 3"]]:
        """Return the distinct inputs, queries first, and their sizes."""
        inputs: list[ItemInput] = []
        sizes = []
        for side, group in (("query", queries), ("target", targets)):
            sizes.append(self._sizes.of(group.items, group.instructions, side))
            inputs += [
                ItemInput(item, side, text)
                for item, text in zip(group.items.tolist(), group.instructions, strict=True)
            ]
        return inputs, np.concatenate(sizes)

    def _compare(
        self, task: str, pair: np.ndarray, targets: _Distinct, positive: np.ndarray
    ) -> _Masks:
        """Compare every row's query with every candidate; identity decides, not similarity."""
        query = self._contents[self._columns.query[pair]]
        candidates = self._contents[targets.items]
        excluded = ~self._known.allowed(task, query, candidates)
        same = query[:, None] == candidates[None, :]
        own = candidates[positive][:, None] == candidates[None, :]
        return _Masks(excluded, same, excluded & ~same & ~own)

    def _allowed(
        self, task: str, excluded: np.ndarray, positive: np.ndarray, negatives: np.ndarray
    ) -> Bool[np.ndarray, "batch cands"]:
        if self._masks:
            allowed = ~excluded
        else:
            allowed = np.ones(excluded.shape, dtype=bool)
            # Losses count the positive themselves.
            np.put_along_axis(allowed, positive[:, None], False, axis=1)
        if not self._data.tasks[task].in_batch:
            own = np.zeros((len(excluded), excluded.shape[1] + 1), dtype=bool)
            np.put_along_axis(own, negatives, True, axis=1)
            # Absent negatives (-1) have marked the column too many.
            allowed &= own[:, :-1]
        return allowed

    def _targets(self, draw: Draw, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return positive items `(b,)`, negative items `(b, n)` and scores `(b, 1 + n)`."""
        negatives, scores = self.rows.negatives[draw.rows], self.rows.scores[draw.rows]
        positives = self._positives(draw, scores)
        labels = self._labels.get(draw.task)
        if labels is not None and not (negatives >= 0).any():
            # The same labels for all rows: encoded once, and masked where they are right.
            rng = np.random.default_rng([self.batches.seed, 2, number])
            count = min(self._random_labels, len(labels))
            negatives = np.tile(rng.choice(labels, count, replace=False), (len(draw.rows), 1))
            unscored = np.full((len(draw.rows), count), np.nan, dtype=scores.dtype)
            scores = np.concatenate([scores[:, :1], unscored], axis=1)
        return positives, negatives, scores

    def _positives(self, draw: Draw, scores: np.ndarray) -> np.ndarray:
        """Return one positive a row: the judged first one, else another one every round."""
        pair = self.rows.pair[draw.rows]
        starts, counts = self._columns.starts[pair], np.diff(self._columns.starts)[pair]
        shift = np.where(np.isnan(scores[:, 0]), draw.round + pair, 0)
        return self._columns.positives[starts + shift % counts]

    def _distinct(
        self, items: np.ndarray, codes: np.ndarray, names: list[str], apart: bool = False
    ) -> _Distinct:
        keys = np.arange(len(items)) if apart else self._contents[items] * len(names) + codes
        _, first, place = np.unique(keys, return_index=True, return_inverse=True)
        return _Distinct(items[first], [names[code] for code in codes[first].tolist()], place)

    def _task_labels(self, places: np.ndarray) -> np.ndarray:
        """Return one item for each distinct target content of a task."""
        starts = self._columns.starts
        items = np.concatenate(
            [self._columns.positives[starts[p] : starts[p + 1]] for p in self.rows.pair[places]]
        )
        _, first = np.unique(self._contents[items], return_index=True)
        if len(first) < 2:
            task = self._columns.tasks[self._columns.task[self.rows.pair[places[0]]]]
            raise DataError(
                f"task {task} has in_batch: false and a single target; there is nothing to contrast"
            )
        return items[first]


def _masked(masks: _Masks, allowed: np.ndarray) -> dict[str, float]:
    """Return how many candidates a row loses, by reason; its own positive aside."""
    # Without masks only the own positive is left out.
    itself = masks.same & ~allowed
    known = masks.excluded & ~masks.same & ~allowed
    rows = len(allowed)
    return {
        "masked_own_content": float(itself.sum()) / rows,
        "masked_known_positive": float(known.sum()) / rows - 1,
        "masked_not_in_batch": float((~allowed & ~known & ~itself).sum()) / rows,
    }
