"""A toy encoder: texts are vectors, a forward pass is a small network with dropout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unime.losses import LOSSES, Combined, ContrastBatch, RelationBatch, RerankBatch
from unime.losses.combine import record_of
from unime.train.backends import ChunkRunner
from unime.train.batch import Batch, Chunk, Gather, Indices

WIDTH = 5


class ToyEncoder(nn.Module):
    """Maps feature rows to unit vectors."""

    def __init__(self, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Linear(WIDTH, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 8)
        ).double()

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return nn.functional.normalize(self.layers(features["rows"]), dim=1)


class ToyRunner(ChunkRunner):
    """Any function of a chunk as a model in one process."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def encode(self, chunk: Chunk) -> Tensor:
        return self.forward(chunk.features)  # type: ignore[return-value]

    def forward(self, features: Mapping[str, Any]) -> Any:
        return self.model(features)

    def backward(self, scalar: Tensor, is_last: bool) -> None:
        scalar.backward()

    @contextmanager
    def step(self, is_boundary: bool, accumulated: int = 1) -> Iterator[None]:
        yield


class Outputs(Indices):
    """The loss is given the outputs themselves."""

    def record(self, outputs: Tensor, /) -> Tensor:
        return outputs


def toy_batch(chunks: Sequence[Chunk], kept: int) -> Batch:
    """A batch of one process, cut by hand."""
    places = torch.cat([chunk.places for chunk in chunks])
    return Batch(
        chunks=list(chunks),
        kept=kept,
        gather=Gather([places]),
        indices=Outputs(),
        number=0,
        name="toy",
        images=torch.zeros(len(places), dtype=torch.bool),
        counts={},
    )


def toy_rows(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)).double()


def toy_chunks(rows: Tensor, size: int) -> list[Chunk]:
    """Cut rows, shuffled, into chunks of a size."""
    places = torch.randperm(len(rows), generator=torch.Generator().manual_seed(2))
    return [
        Chunk(part, {"rows": rows[part]}, seed=number)
        for number, part in enumerate(places.split(size))
    ]


def toy_loss(name: str, embeddings: Tensor) -> Combined:
    """Any loss of the table on a batch of 6 queries and the other rows as candidates."""
    queries, targets = embeddings[:6], embeddings[6:]
    g = torch.Generator().manual_seed(3)
    scores = torch.rand(6, 4, generator=g, dtype=torch.float64)
    scores[0, 2] = float("nan")
    if name == "relational_kl":
        teacher = torch.randn(len(embeddings), 7, generator=g)
        value = LOSSES[name](RelationBatch(embeddings, teacher))
    elif record_of(LOSSES[name]) == "RerankBatch":
        value = LOSSES[name](toy_answers(embeddings, scores))
    else:
        allowed = torch.rand(6, len(targets), generator=g) < 0.9
        batch = ContrastBatch(
            query=queries,
            candidates=targets,
            positive=torch.tensor([0, 1, 2, 3, 3, 4]),
            negatives=torch.tensor(
                [[5, 6, 7], [6, -1, -1], [7, 8, 0], [8, 9, 1], [9, 5, 2], [1, 2, -1]]
            ),
            scores=scores,
            allowed=allowed,
            related=~allowed,
            query_id=torch.arange(6),
        )
        value = LOSSES[name](batch)
    return Combined(value, {name: value.detach()})


def toy_answers(outputs: Tensor, scores: Tensor) -> RerankBatch:
    """The outputs as logits of yes, no and four labels: of 3 rows with 4 slots, then of lists."""
    asked, lists = outputs[:12].view(3, 4, -1), outputs[12:, 2:6]
    lengths = torch.tensor([4, 3, 2, 4, 3])[: len(lists), None]
    return RerankBatch(
        yes=asked[..., 0],
        no=asked[..., 1],
        present=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 1], [1, 0, 0, 0]], dtype=torch.bool),
        scores=scores[:3],
        choice=lists.masked_fill(torch.arange(4) >= lengths, -torch.inf),
        gold=torch.tensor([0, 2, 1, 3, 1])[: len(lists)],
    )
