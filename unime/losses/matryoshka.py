"""Matryoshka: the beginning of an embedding is an embedding too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unime.core.errors import RecipeError
from unime.losses.records import ContrastBatch, RelationBatch, RerankBatch


def at_lengths(
    loss: Any,
    batch: ContrastBatch | RelationBatch | RerankBatch,
    dims: Sequence[int],
    **options: Any,
) -> Float[Tensor, ""]:
    """Return the mean of a loss over the whole embeddings and their first `dims` numbers.

    A shortened embedding is L2-normalised again, as whoever uses it has to. The mean, not the
    sum: weight and learning rate mean what they mean without short vectors.

    Args:
        loss: any function of LOSSES.
        batch: the record it takes; a teacher keeps its length.
        dims: each below the embedding's length; empty gives the loss itself.
        options: the loss's own.

    Raises:
        RecipeError: for a length that is none.

    Source: Kusupati et al. 2022 (arXiv 2205.13147), with equal weights.
    """
    values = [loss(batch, **options)]
    if not dims:
        return values[0]
    if isinstance(batch, RerankBatch):
        raise RecipeError("matryoshka_dims: a reranker has no embeddings to shorten; leave it out")
    values += [loss(shortened(batch, dim), **options) for dim in dims]
    return torch.stack(values).mean()


def shortened(batch: ContrastBatch | RelationBatch, dim: int) -> ContrastBatch | RelationBatch:
    """Return a batch with the first `dim` numbers of each embedding, of length 1 again."""
    if isinstance(batch, RelationBatch):
        return replace(batch, student=_cut(batch.student, dim))
    return replace(batch, query=_cut(batch.query, dim), candidates=_cut(batch.candidates, dim))


def _cut(vectors: Float[Tensor, "rows dim"], dim: int) -> Float[Tensor, "rows short"]:
    if not 0 < dim < vectors.shape[1]:
        raise RecipeError(
            f"matryoshka_dims: {dim} is not below the embedding's {vectors.shape[1]} dimensions"
        )
    return torch.nn.functional.normalize(vectors[:, :dim], dim=1)
