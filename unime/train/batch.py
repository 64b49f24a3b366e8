"""One global batch: laid out, then as chunks of features with what the loss needs to know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unime.data.data_folder import DataFolder
from unime.losses import ContrastBatch, RelationBatch
from unime.models.model_config import ModelConfig
from unime.train.chunking import estimate_sizes
from unime.train.sampler import TaskBatches

Features = dict[str, Tensor]


class Chunk(NamedTuple):
    """Inputs that go through the model together."""

    places: Int[Tensor, " chunk"]
    """Their places in the batch's list of distinct inputs; none for a dummy, whose features keep
    this process in step with the others and whose embeddings count nowhere."""
    features: Features
    seed: int = 0
    """Of the random numbers its forward passes draw."""


class Gather(NamedTuple):
    """Puts the embeddings of all processes into their places in the batch."""

    places: Sequence[Int[Tensor, " own"]]
    """Of each process, the places of its embeddings, chunk after chunk."""
    rank: int = 0

    def __call__(self, own: Float[Tensor, "own dim"]) -> Float[Tensor, "inputs dim"]:
        """Return all embeddings, a leaf; similarities are computed in fp32 at least."""
        own = own.detach()
        own = own.float() if own.dtype in {torch.bfloat16, torch.float16} else own
        blocks = [own] if len(self.places) == 1 else self._from_all(own)
        everyone = torch.cat([*self.places]).to(own.device)
        joined = own.new_empty(len(everyone), own.shape[1])
        return joined.index_copy_(0, everyone, torch.cat(blocks)).requires_grad_()

    def _from_all(self, own: Tensor) -> list[Tensor]:
        counts = [len(places) for places in self.places]
        padded = own.new_zeros(max(counts), own.shape[1])
        padded[: len(own)] = own
        blocks = [torch.empty_like(padded) for _ in counts]
        torch.distributed.all_gather(blocks, padded)
        return [block[:count] for block, count in zip(blocks, counts, strict=True)]


class Indices(ABC):
    """Index tensors that make the losses' record of a batch's outputs."""

    @abstractmethod
    def record(self, outputs: Tensor, /) -> Any:
        """Return the record; a view of the outputs, with their gradient."""


@dataclass(frozen=True)
class ContrastIndices(Indices):
    """Index tensors of a contrast batch; the distinct queries come before the targets."""

    query: Int[Tensor, " batch"]
    positive: Int[Tensor, " batch"]
    negatives: Int[Tensor, "batch negs"]
    scores: Float[Tensor, "batch slots"]
    allowed: Bool[Tensor, "batch cands"]
    related: Bool[Tensor, "batch cands"]

    def record(self, outputs: Float[Tensor, "inputs dim"], /) -> ContrastBatch:
        """Return the record for the losses; a view of the embeddings, with their gradient."""
        device = outputs.device
        query = self.query.to(device)
        return ContrastBatch(
            query=outputs[query],
            candidates=outputs[len(outputs) - self.allowed.shape[1] :],
            positive=self.positive.to(device),
            negatives=self.negatives.to(device),
            scores=self.scores.to(device),
            allowed=self.allowed.to(device),
            related=self.related.to(device),
            query_id=query,
        )


@dataclass(frozen=True)
class RelationIndices(Indices):
    """The teacher's embeddings of a batch of distinct texts."""

    teacher: Float[Tensor, "batch teacher_dim"]

    def record(self, outputs: Float[Tensor, "batch dim"], /) -> RelationBatch:
        """Return the record for the losses."""
        return RelationBatch(outputs, self.teacher.to(outputs.device))


@dataclass(frozen=True)
class Layout:
    """A batch before anything is loaded: its distinct inputs, and which of them stands where."""

    name: str
    """Task and rows, for messages."""
    inputs: Sequence[Any]
    """What `BatchLayout.load` is asked with."""
    sizes: Int[np.ndarray, "inputs 3"]
    """See `unime.train.chunking`."""
    indices: Indices
    counts: dict[str, int | float]
    """Numbers for the log."""


@runtime_checkable
class BatchLayout(Protocol):
    """Which inputs make up batch number n, and how one of them is loaded; one class a stage."""

    batches: TaskBatches
    """Which rows make up which batch."""

    def layout(self, number: int) -> Layout:
        """Return what batch `number` holds; nothing is loaded."""
        ...

    def load(self, entry: Any) -> Any:
        """Return one entry of a layout's `inputs` as the model's `features` take it."""
        ...


@dataclass(frozen=True)
class Batch:
    """What the training step of one process is given."""

    chunks: list[Chunk]
    """This process's."""
    kept: int
    """How many of the last chunks keep their graph; see `unime.train.chunking`."""
    gather: Gather
    indices: Indices
    number: int
    """Which batch of the run it is."""
    name: str
    """Task and rows, for messages."""
    images: Bool[Tensor, " inputs"]
    """Which of the distinct inputs have an image."""
    counts: dict[str, int | float]
    """Numbers for the log."""


class ItemSizes:
    """Estimated sizes of a data folder's items, from the item table alone."""

    def __init__(self, data: DataFolder, model: ModelConfig) -> None:
        self._characters = pc.call_function("utf8_length", [data.items.table["text"]]).to_numpy()
        self._pixels = data.items.sizes(range(len(data.items)))
        self._model = model

    def of(
        self, items: Int[np.ndarray, " inputs"], instructions: Sequence[str], side: str
    ) -> Int[np.ndarray, "inputs 3"]:
        """Return the size of each (item, instruction)."""
        lengths = np.fromiter(map(len, instructions), dtype=np.int64, count=len(items))
        characters = self._characters[items].astype(np.int64) + lengths
        return estimate_sizes(characters, self._pixels[items].astype(np.int64), self._model, side)
