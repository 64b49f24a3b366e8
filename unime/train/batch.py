"""One prepared global batch: chunks of features, and what the loss needs to know beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unime.core.processes import Ranks
from unime.data.data_folder import DataFolder
from unime.losses import ContrastBatch, RelationBatch
from unime.models.model_config import ModelConfig
from unime.train.chunking import Budget, Plan, Size, size_of
from unime.train.step import Chunk, Features, Gather


@dataclass(frozen=True)
class ContrastIndices:
    """Index tensors of a contrast batch; the distinct queries come before the targets."""

    query: Int[Tensor, " batch"]
    positive: Int[Tensor, " batch"]
    negatives: Int[Tensor, "batch negs"]
    scores: Float[Tensor, "batch slots"]
    allowed: Bool[Tensor, "batch cands"]

    def record(self, embeddings: Float[Tensor, "encodes dim"]) -> ContrastBatch:
        """Return the record for the losses; a view of the embeddings, with their gradient."""
        device = embeddings.device
        query = self.query.to(device)
        return ContrastBatch(
            query=embeddings[query],
            candidates=embeddings[len(embeddings) - self.allowed.shape[1] :],
            positive=self.positive.to(device),
            negatives=self.negatives.to(device),
            scores=self.scores.to(device),
            allowed=self.allowed.to(device),
            query_id=query,
        )


@dataclass(frozen=True)
class RelationIndices:
    """The teacher's embeddings of a batch of distinct texts."""

    teacher: Float[Tensor, "batch teacher_dim"]

    def record(self, embeddings: Float[Tensor, "batch dim"]) -> RelationBatch:
        """Return the record for the losses."""
        return RelationBatch(embeddings, self.teacher.to(embeddings.device))


@runtime_checkable
class Indices(Protocol):
    """Index tensors that make the losses' record of a batch's outputs."""

    def record(self, outputs: Tensor, /) -> Any:
        """Return the record; a view of the outputs, with their gradient."""
        ...


@dataclass(frozen=True)
class Prepared:
    """What a loader hands to the training step of one process."""

    chunks: list[Chunk]
    """This process's share."""
    kept: int
    """How many of the last chunks keep their graph; see `unime.train.chunking`."""
    gather: Gather
    indices: Indices
    number: int
    """Which batch of the run it is."""
    name: str
    """Task and rows, for messages."""
    pictures: Bool[Tensor, " encodes"]
    """Which of the distinct encodes have a picture."""
    counts: dict[str, int | float]
    """Numbers for the log."""


class LiveBudget:
    """A budget that can shrink while the workers that plan by it are running."""

    def __init__(self, budget: Budget) -> None:
        self._largest = budget.largest() if torch.cuda.is_available() else budget
        # In shared memory: worker processes see it change.
        self._halvings = torch.zeros(1, dtype=torch.int64).share_memory_()

    def now(self) -> Budget:
        """Return the budget as it is."""
        budget = self._largest
        for _ in range(int(self._halvings)):
            budget = budget.halved()
        return budget

    def halve(self) -> None:
        """Halve it, for every process."""
        self._halvings += 1


class ItemSizes:
    """Estimated sizes of a data folder's items, from the item table alone."""

    def __init__(self, data: DataFolder, model: ModelConfig) -> None:
        self._characters = pc.call_function("utf8_length", [data.items.table["text"]]).to_numpy()
        self._pixels = data.items.sizes(range(len(data.items)))
        self._model = model

    def of(self, items: Sequence[int], instructions: Sequence[str], side: str) -> list[Size]:
        """Return the size of each (item, instruction)."""
        return [
            size_of(int(self._characters[i]) + len(text), int(self._pixels[i]), self._model, side)
            for i, text in zip(items, instructions, strict=True)
        ]


def prepare_chunks(
    plan: Plan,
    load: Callable[[int], Any],
    features: Callable[[Sequence[Any]], Features],
    ranks: Ranks,
    seed: Sequence[int],
) -> tuple[list[Chunk], Gather]:
    """Load, tokenise and preprocess one process's share of a planned batch.

    Args:
        plan: of the whole batch.
        load: place -> encode.
        features: encodes -> the model's inputs.
        ranks: whose share.
        seed: of the batch; a chunk's random numbers depend on it and on the chunk's first place.
    """
    chunks = []
    for cut in plan.ranks[ranks.rank]:
        draws = np.random.SeedSequence([*seed, cut.places[0]]).generate_state(1, np.uint64)
        places = torch.tensor([] if cut.dummy else cut.places, dtype=torch.int64)
        chunks.append(Chunk(places, features([load(p) for p in cut.places]), int(draws[0] >> 1)))
    everyone = [torch.tensor(plan.places(r), dtype=torch.int64) for r in range(ranks.world)]
    return chunks, Gather(everyone, ranks.rank)
