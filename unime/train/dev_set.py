"""Hit@1 on the dev split while training: small, honest about ties, masked by identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from unime.core.errors import ModelError
from unime.data.data_folder import DataFolder
from unime.data.known_positives import KnownPositives
from unime.data.training_rows import PairColumns
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput, load_input


@runtime_checkable
class DevEvaluation(Protocol):
    """What decides which weights are the best."""

    def hits(self, model: Any) -> dict[str, float]:
        """Return metrics of a model as it is trained, "hit@1" among them."""
        ...


class DevSet:
    """A fixed sample of each task's dev rows; their positives are the task's candidates.

    Args:
        data: the data folder.
        columns: its pairs.
        known: its known positives.
        queries: at most so many rows a task; none at all for 0.
    """

    def __init__(
        self, data: DataFolder, columns: PairColumns, known: KnownPositives, queries: int
    ) -> None:
        self._data, self._columns, self._known = data, columns, known
        self._contents = known.contents
        dev = data.split("dev")
        self.tasks: dict[str, np.ndarray] = {}
        for number, name in enumerate(columns.tasks):
            rows = dev[columns.task[dev] == number]
            if len(rows) and queries:
                chosen = np.random.default_rng(number).permutation(len(rows))[:queries]
                self.tasks[name] = rows[np.sort(chosen)]

    def hits(self, model: Embedder) -> dict[str, float]:
        """Return hit@1 of each task, and their mean as "hit@1"."""
        hits = {f"{name}_hit@1": self._hit(model, name) for name in self.tasks}
        return {"hit@1": float(np.mean(list(hits.values()))), **hits}

    def _hit(self, embedder: Embedder, name: str) -> float:
        rows, columns = self.tasks[name], self._columns
        starts = columns.starts
        items = np.concatenate([columns.positives[starts[r] : starts[r + 1]] for r in rows])
        owner = np.repeat(np.arange(len(rows)), np.diff(starts)[rows])
        _, first, place = np.unique(self._contents[items], return_index=True, return_inverse=True)
        gold = np.zeros((len(rows), len(first)), dtype=bool)
        gold[owner, place] = True
        queries = DevInputs(
            self._data,
            columns.query[rows],
            "query",
            [columns.query_instructions[i] for i in columns.query_instruction[rows]],
        )
        targets = DevInputs(
            self._data,
            items[first],
            "target",
            [
                columns.target_instructions[i]
                for i in columns.target_instruction[rows][owner[first]]
            ],
        )
        allowed = self._known.allowed(
            name, self._contents[columns.query[rows]], self._contents[items[first]]
        )
        similarity = embedder.encode(queries, label=f"dev {name}") @ (
            embedder.encode(targets, label=f"dev {name}").T
        )
        return hit_at_1(similarity, gold, allowed)


class DevInputs(Sequence[ModelInput]):
    """Inputs loaded when they are asked for."""

    def __init__(
        self, data: DataFolder, items: np.ndarray, side: str, instructions: Sequence[str]
    ) -> None:
        self._data, self._items, self._side, self._texts = data, items, side, instructions

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> ModelInput:  # type: ignore[override]  # no slices
        return load_input(self._data, int(self._items[place]), self._side, self._texts[place])


def hit_at_1(
    similarity: Float[np.ndarray, "queries cands"],
    gold: Bool[np.ndarray, "queries cands"],
    allowed: Bool[np.ndarray, "queries cands"],
) -> float:
    """Return the share of queries whose best gold candidate beats all allowed others.

    A tie counts against the model. Candidates neither gold nor allowed (known positives that are
    not this row's, the query's own content) are left out.

    Raises:
        ModelError: when a similarity is not a number.
    """
    if np.isnan(similarity).any():
        raise ModelError("the model returns embeddings that are not numbers; training diverged")
    best = np.where(gold, similarity, -np.inf).max(axis=1)
    rival = np.where(allowed & ~gold, similarity, -np.inf).max(axis=1)
    return float((best > rival).mean())
