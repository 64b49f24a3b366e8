"""Which rows make up batch number n: a pure function of seed and batch size.

Nothing is drawn one after the other, so resuming at a batch is asking for its number, and
workers, ranks and restarts cannot change the sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from unime.core.errors import OutputError, RecipeError, did_you_mean


class Draw(NamedTuple):
    """One batch: rows of one task."""

    task: str
    rows: np.ndarray
    """Places in the training rows, int64 `(batch,)`, all distinct."""
    round: int
    """How many times the task's rows have been gone through before."""


class TaskBatches:
    """The endless sequence of task-homogeneous batches.

    An epoch holds, of every task, `weight` times as many batches as its rows fill, at least one,
    in random order. Each time a task's rows have been used up they are shuffled anew. Rows that
    do not fill a last batch (fewer than `batch_size`, other ones every time) are left out of that
    round. A task smaller than a batch gives batches of all its rows.

    Rows may come in clusters that stay together in a batch (see `unime.mine.clusters`); a row
    that several clusters of a batch share is in it once.

    Args:
        rows: for each task the places of its rows `(rows,)`, or clusters of them
            `(clusters, size)`.
        batch_size: rows of a global batch.
        seed: of every shuffle.
        weights: how often a task is drawn, relative to 1.
        caps: how many of a task's rows, or clusters, are used at most, drawn at random.
        temperature: T; a task of n rows is drawn in proportion to n ** (1 / T): 1 keeps the
            tasks' sizes, larger values even them out.

    Raises:
        RecipeError: when a weight or cap names no task.
    """

    def __init__(
        self,
        rows: Mapping[str, np.ndarray],
        batch_size: int,
        seed: int,
        weights: Mapping[str, float] | None = None,
        caps: Mapping[str, int] | None = None,
        temperature: float = 1.0,
    ) -> None:
        weights, caps = weights or {}, caps or {}
        for option, values in (("weights", weights), ("caps", caps)):
            for name in values:
                if name not in rows:
                    raise RecipeError(f"{option}: no task '{name}'{did_you_mean(name, rows)}")
        self.batch_size, self.seed = batch_size, seed
        self.rows = {
            name: self._capped(number, places, caps.get(name))
            for number, (name, places) in enumerate(rows.items())
            if len(places)
        }
        if not self.rows:
            raise RecipeError("there is no training row")
        self.names: Sequence[str] = list(self.rows)
        full = np.array([self._full_batches(name) for name in self.names])
        mixed = full ** (1 / temperature)
        mixed *= full.sum() / mixed.sum()
        wanted = mixed * np.array([weights.get(name, 1.0) for name in self.names])
        # Halves are rounded to even, as Python does.
        self.counts = np.maximum(1, np.rint(wanted)).astype(int)
        self.epoch_length = int(self.counts.sum())
        self._remember()

    def __getitem__(self, number: int) -> Draw:
        """Return batch `number`, counted from 0."""
        epoch, place = divmod(number, self.epoch_length)
        task, before = self._order(epoch)[place]
        name = self.names[task]
        round_, part = divmod(epoch * int(self.counts[task]) + before, self._full_batches(name))
        size = self._size(name)
        chosen = self._permutation(task, round_)[part * size : (part + 1) * size].ravel()
        _, first = np.unique(chosen, return_index=True)
        return Draw(name, chosen[np.sort(first)], round_)

    def state_dict(self, number: int) -> dict[str, Any]:
        """Return what identifies the sequence, and the next batch's number."""
        return {
            "next": number,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "rows": {name: list(places.shape) for name, places in self.rows.items()},
            "batches": dict(zip(self.names, self.counts.tolist(), strict=True)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> int:
        """Return the next batch's number.

        Raises:
            OutputError: when the state belongs to another sequence.
        """
        ours = self.state_dict(int(state["next"]))
        if dict(state) != ours:
            raise OutputError(
                f"the checkpoint's batches are {dict(state)}, this recipe's are {ours}; "
                "resume with the same data, seed and global batch size"
            )
        return int(state["next"])

    def _capped(self, task: int, places: np.ndarray, cap: int | None) -> np.ndarray:
        if cap is None or cap >= len(places):
            return places
        rng = np.random.default_rng([self.seed, 4, task])
        return places[np.sort(rng.permutation(len(places))[:cap])]

    def _size(self, name: str) -> int:
        """Return how many rows, or clusters, make up a batch."""
        places = self.rows[name]
        width = 1 if places.ndim == 1 else places.shape[1]
        return min(max(1, self.batch_size // width), len(places))

    def _full_batches(self, name: str) -> int:
        return len(self.rows[name]) // self._size(name)

    def _remember(self) -> None:
        # Per instance, because a cache on the method would outlive the data.
        self._order = lru_cache(maxsize=2)(self._compute_order)
        self._permutation = lru_cache(maxsize=2 * len(self.names))(self._compute_permutation)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker process is sent: all but the caches, which cannot be."""
        return {k: v for k, v in vars(self).items() if k not in ("_order", "_permutation")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin with empty caches."""
        vars(self).update(state)
        self._remember()

    def _compute_order(self, epoch: int) -> list[tuple[int, int]]:
        """Return, for each place of an epoch, the task and how many of its batches came before."""
        shuffled = np.repeat(np.arange(len(self.names)), self.counts)
        np.random.default_rng([self.seed, 0, epoch]).shuffle(shuffled)
        before = np.zeros(len(self.names), dtype=int)
        order = []
        for task in shuffled.tolist():
            order.append((task, int(before[task])))
            before[task] += 1
        return order

    def _compute_permutation(self, task: int, round_: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 1, task, round_])
        return rng.permutation(self.rows[self.names[task]])
