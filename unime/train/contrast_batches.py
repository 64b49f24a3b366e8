"""Batches for contrast: batch number -> prepared batch, a pure function of data and seed."""

from __future__ import annotations

from typing import NamedTuple, Unpack

import numpy as np
import torch

from unime.core.errors import DataError
from unime.models.inputs import load_input
from unime.train.batch import ContrastIndices, Prepared
from unime.train.chunking import Size
from unime.train.row_source import RowSource, SourceParts
from unime.train.sampler import Draw


class Distinct(NamedTuple):
    """The distinct (content, instruction) pairs among many, and where each one went."""

    items: np.ndarray
    instructions: list[str]
    place: np.ndarray
    """Of each given pair, its place among the distinct."""


class Layout(NamedTuple):
    """A batch before anything is loaded."""

    encodes: list[tuple[int, str, str]]
    """(item, side, instruction) of the distinct encodes."""
    sizes: list[Size]
    indices: ContrastIndices
    named: int
    """Encodes with their repetitions."""
    masked: dict[str, float]


class ContrastSource(RowSource):
    """Batches of distinct encodes, and who is whose positive and negative.

    Args:
        wrong_labels: how many targets of the task serve as negatives where a task has
            `in_batch: false` and a row brings none.
        masked: whether known positives and the query's own content are no negatives.
        parts: see `SourceParts`; `features` takes encodes, as `Embedder.features` does.
    """

    def __init__(
        self, *, wrong_labels: int, masked: bool = True, **parts: Unpack[SourceParts]
    ) -> None:
        super().__init__(**parts)
        self._masks = masked
        self._labels = {
            name: self._task_labels(places)
            for name, places in self.rows.by_task(self.columns).items()
            if not self.data.tasks[name].in_batch
        }
        self._wrong_labels = wrong_labels

    def __getitem__(self, number: int) -> Prepared:
        """Return batch `number`."""
        draw = self.batches[number]
        layout = self._lay_out(number, draw)
        return self._prepared(
            number,
            draw,
            layout.sizes,
            lambda place: load_input(self.data, *layout.encodes[place]),
            layout.indices,
            {
                "encodes": len(layout.encodes),
                "repeats": 1 - len(layout.encodes) / layout.named,
                "negatives": float(layout.indices.allowed.sum()) / len(draw.rows),
                **layout.masked,
            },
        )

    def layout(self, number: int) -> Layout:
        """Return what batch `number` holds; nothing is loaded."""
        return self._lay_out(number, self.batches[number])

    def _lay_out(self, number: int, draw: Draw) -> Layout:
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
            # Without masks a copy of a row's positive, of another row, is a negative: another column.
            apart=not self._masks and self.data.tasks[draw.task].in_batch,
        )
        places = np.full(negatives.shape, -1, dtype=np.int64)
        places[present] = targets.place[len(pair) :]
        allowed = self._allowed(draw.task, pair, targets, places)
        sizes: list[Size] = []
        encodes: list[tuple[int, str, str]] = []
        for side, group in (("query", queries), ("target", targets)):
            items = group.items.tolist()
            sizes += self._sizes.of(items, group.instructions, side)
            encodes += [(i, side, text) for i, text in zip(items, group.instructions, strict=True)]
        return Layout(
            encodes=encodes,
            sizes=sizes,
            indices=ContrastIndices(
                query=torch.from_numpy(queries.place),
                positive=torch.from_numpy(targets.place[: len(pair)]),
                negatives=torch.from_numpy(places),
                scores=torch.from_numpy(scores),
                allowed=torch.from_numpy(allowed),
            ),
            named=len(pair) + len(targets.place),
            masked=self._masked(draw, queries, targets, allowed),
        )

    def _masked(
        self, draw: Draw, queries: Distinct, targets: Distinct, allowed: np.ndarray
    ) -> dict[str, float]:
        """Return how many candidates a row loses, by reason; its own positive aside."""
        contents = self.contents[queries.items][queries.place]
        same = contents[:, None] == self.contents[targets.items][None, :]
        excluded = ~self.known.allowed(draw.task, contents, self.contents[targets.items])
        # Without masks only the own positive is left out.
        itself, known = same & ~allowed, excluded & ~same & ~allowed
        rows = len(draw.rows)
        return {
            "masked_own_content": float(itself.sum()) / rows,
            "masked_known_positive": float(known.sum()) / rows - 1,
            "masked_not_in_batch": float((~allowed & ~known & ~itself).sum()) / rows,
        }

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

    def _distinct(
        self, items: np.ndarray, codes: np.ndarray, names: list[str], apart: bool = False
    ) -> Distinct:
        keys = np.arange(len(items)) if apart else self.contents[items] * len(names) + codes
        _, first, place = np.unique(keys, return_index=True, return_inverse=True)
        return Distinct(items[first], [names[code] for code in codes[first].tolist()], place)

    def _allowed(
        self, task: str, pair: np.ndarray, targets: Distinct, negatives: np.ndarray
    ) -> np.ndarray:
        if self._masks:
            allowed = self.known.allowed(
                task, self.contents[self.columns.query[pair]], self.contents[targets.items]
            )
        else:
            allowed = np.ones((len(pair), len(targets.items)), dtype=bool)
            # Losses count the positive themselves.
            np.put_along_axis(allowed, targets.place[: len(pair), None], False, axis=1)
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
        _, first = np.unique(self.contents[items], return_index=True)
        if len(first) < 2:
            task = self.columns.tasks[self.columns.task[self.rows.pair[places[0]]]]
            raise DataError(
                f"task {task} has in_batch: false and a single target; there is nothing to contrast"
            )
        return items[first]
