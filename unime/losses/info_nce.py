"""InfoNCE: the positive against all allowed negatives of the global batch."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unime.losses.records import ContrastBatch


def info_nce(
    batch: ContrastBatch,
    *,
    temperature: float = 0.02,
    in_batch: bool = True,
    threshold: float | None = None,
    hardest: int | None = None,
    symmetric: bool = False,
) -> Float[Tensor, ""]:
    """Return the mean over queries of -log p(positive).

        p(positive) = exp(s+ / t) / (exp(s+ / t) + sum over negatives j of exp(s_j / t))

    Negatives of a query are all distinct candidates that `allowed` permits. A query without any
    has loss 0. Masks look at detached similarities: they choose, they are not trained.

    Args:
        batch: embeddings and indices.
        temperature: t, in units of cosine.
        in_batch: False keeps only the row's own explicit negatives.
        threshold: beta; drops negatives with s_j > s+ + beta as probably false.
        hardest: k; keeps the k most similar negatives after all other masks, or fewer.
        symmetric: adds the same loss from each positive over the distinct queries, and halves.

    Source: van den Oord et al. 2018 (arXiv 1807.03748); beta and k from UniME
    (arXiv 2504.17432, section 3.3), with masks by identity where UniME had none.
    """
    similarity = batch.query @ batch.candidates.T
    counted = batch.allowed.clone()
    if not in_batch:
        counted &= own_negatives(batch)
    loss = _from_similarity(similarity, batch.positive, counted, temperature, threshold, hardest)
    if not symmetric:
        return loss
    rows = torch.arange(len(batch.query), device=similarity.device)
    backward = _from_similarity(
        similarity.T[batch.positive],
        rows,
        _allowed_queries(batch, counted),
        temperature,
        threshold,
        hardest,
    )
    return (loss + backward) / 2


def own_negatives(batch: ContrastBatch) -> Bool[Tensor, "batch cands"]:
    """Return which candidates each row names as its negatives."""
    width = batch.candidates.shape[0]
    # Absent negatives (-1) go to one column too many, which is cut off.
    columns = torch.where(batch.negatives < 0, width, batch.negatives)
    named = batch.allowed.new_zeros(len(batch.query), width + 1)
    return named.scatter(1, columns, True)[:, :width]


def _allowed_queries(
    batch: ContrastBatch, counted: Bool[Tensor, "batch cands"]
) -> Bool[Tensor, "batch batch"]:
    """Return which queries may be negatives of each row's positive; each distinct query once."""
    same = batch.query_id[:, None] == batch.query_id[None, :]
    is_repeat = torch.tril(same, diagonal=-1).any(dim=1)
    return counted.T[batch.positive] & ~same & ~is_repeat[None, :]


def _from_similarity(
    similarity: Float[Tensor, "batch others"],
    positive: Int[Tensor, " batch"],
    counted: Bool[Tensor, "batch others"],
    temperature: float,
    threshold: float | None,
    hardest: int | None,
) -> Float[Tensor, ""]:
    is_positive = torch.zeros_like(counted).scatter(1, positive[:, None], True)
    counted = counted & ~is_positive
    detached = similarity.detach()
    if threshold is not None:
        counted = counted & (detached <= detached.gather(1, positive[:, None]) + threshold)
    if hardest is not None:
        counted = _keep_hardest(detached, counted, hardest)
    logits = (similarity / temperature).masked_fill(~(counted | is_positive), -torch.inf)
    return -torch.log_softmax(logits, dim=1).gather(1, positive[:, None]).mean()


def _keep_hardest(
    similarity: Float[Tensor, "batch others"], counted: Bool[Tensor, "batch others"], count: int
) -> Bool[Tensor, "batch others"]:
    best = similarity.masked_fill(~counted, -torch.inf).topk(min(count, similarity.shape[1]))
    # Top-k also returns masked columns where fewer than k remain: they stay masked.
    return torch.zeros_like(counted).scatter(1, best.indices, True) & counted
