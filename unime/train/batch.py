"""One prepared global batch: chunks of features, and what the loss needs to know beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unime.config import ModelConfig
from unime.losses import ContrastBatch, RelationBatch
from unime.tables import DataFolder
from unime.train.plan import Budget, Plan, Size, size_of
from unime.train.step import Chunk, Features


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
    """What a loader hands to the training step."""

    chunks: list[Chunk]
    kept: int
    """How many of the last chunks keep their graph; see `unime.train.plan`."""
    indices: Indices
    name: str
    """Task and rows, for messages."""
    counts: dict[str, int | float]
    """Numbers for the log."""


class ItemSizes:
    """Estimated sizes of a data folder's items, from the item table alone."""

    def __init__(self, data: DataFolder, model: ModelConfig, budget: Budget) -> None:
        self._characters = pc.call_function("utf8_length", [data.items.table["text"]]).to_numpy()
        self._pixels = data.items.sizes(range(len(data.items)))
        self._model, self.budget = model, budget

    def of(self, items: Sequence[int], instructions: Sequence[str], side: str) -> list[Size]:
        """Return the size of each (item, instruction)."""
        return [
            size_of(int(self._characters[i]) + len(text), int(self._pixels[i]), self._model, side)
            for i, text in zip(items, instructions, strict=True)
        ]


def prepare_chunks(
    plan: Plan, encodes: Sequence[Any], features: Callable[[Sequence[Any]], Features]
) -> list[Chunk]:
    """Tokenise and preprocess a planned batch."""
    return [
        Chunk(torch.tensor(places), features([encodes[place] for place in places]))
        for places in plan.chunks
    ]
