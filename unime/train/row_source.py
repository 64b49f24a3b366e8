"""What every source of training batches holds and does; contrast and reranking lay their batches out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, Unpack

import torch

from unime.core.processes import ranks
from unime.data.data_folder import DataFolder
from unime.data.known_positives import KnownPositives
from unime.data.training_rows import PairColumns, TrainingRows
from unime.train.batch import Indices, ItemSizes, LiveBudget, Prepared, prepare_chunks
from unime.train.chunking import Budget, Size, plan_chunks
from unime.train.sampler import Draw, TaskBatches
from unime.train.step import Features


class SourceParts(TypedDict):
    """What a source is made of."""

    data: DataFolder
    rows: TrainingRows
    """What is trained on."""
    batches: TaskBatches
    """Which rows make up which batch."""
    known: KnownPositives
    """All known positives."""
    sizes: ItemSizes
    """Estimated size of each item."""
    budget: Budget
    """Of a forward pass."""
    features: Callable[[Sequence[Any]], Features]
    """Renders, tokenises and preprocesses inputs."""


class RowSource:
    """A map-style data set whose samples are global batches, of each this process's share."""

    def __init__(self, **parts: Unpack[SourceParts]) -> None:
        self.data, self.rows, self.batches = parts["data"], parts["rows"], parts["batches"]
        self.columns = PairColumns.of(self.data)
        self.known, self.contents = parts["known"], parts["known"].contents
        self.budget = LiveBudget(parts["budget"])
        self._sizes, self._features, self._ranks = parts["sizes"], parts["features"], ranks()

    def _prepared(
        self,
        number: int,
        draw: Draw,
        sizes: Sequence[Size],
        load: Callable[[int], Any],
        indices: Indices,
        counts: dict[str, int | float],
    ) -> Prepared:
        """Plan a batch's forward passes and prepare this process's.

        Args:
            number: of the batch.
            draw: its rows.
            sizes: of its distinct inputs.
            load: place among them -> input.
            indices: into their outputs.
            counts: for the log.
        """
        plan = plan_chunks(sizes, self.budget.now(), self._ranks.world)
        seed = (self.batches.seed, 3, number)
        chunks, gather = prepare_chunks(plan, load, self._features, self._ranks, seed)
        return Prepared(
            chunks=chunks,
            kept=plan.kept,
            gather=gather,
            indices=indices,
            number=number,
            name=f"task {draw.task}, pairs {self.rows.pair[draw.rows].tolist()}",
            pictures=torch.tensor([size.pixels > 0 for size in sizes]),
            counts={"rows": len(draw.rows), **counts},
        )
