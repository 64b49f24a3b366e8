"""Yes or no about each candidate, with hard labels or the judge's scores."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from unime.losses.records import RerankBatch


def yes_no(
    batch: RerankBatch,
    *,
    soft: bool = False,
    weights: Weights = "sft",
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """Return the mean over queries of the mean over their candidates of a yes/no loss.

        s = z_yes - z_no
        sft          -t log sigmoid(s) - (1 - t) log sigmoid(-s), t = 1 for the positive, else 0
        contrastive  the same direction s, each candidate weighted as InfoNCE over z_yes would:
                     w+ (-s+) + sum of w_i s_i, with w_i = softmax of z_yes / temperature at i,
                     w+ = 1 - softmax at the positive; no gradient through w
        uniform      the same with all weights 1

    For the gradient, `sft` is that form too, with w+ = 1 - sigmoid(s+) and w_i = sigmoid(s_i):
    GMR's account of why supervised yes/no training beats contrast.

    Args:
        batch: logits and judge scores.
        soft: t is the judge's score; an unscored candidate is left out.
        weights: how strongly each candidate pulls.
        temperature: of the contrastive weights.

    Source: GMR (arXiv 2510.14824, section 3, W and D of the unified reranking loss).
    """
    score = batch.yes - batch.no
    counted = batch.present
    target = torch.zeros_like(score)
    target[:, 0] = 1.0
    if soft:
        counted = counted & ~batch.scores.isnan()
        target = batch.scores.to(score.dtype).nan_to_num(0.0)
    if weights == "sft":
        loss = functional.binary_cross_entropy_with_logits(score, target, reduction="none")
    else:
        sign = 1 - 2 * target
        loss = _weights(batch, weights, temperature) * sign * score
    per_query = loss.masked_fill(~counted, 0.0).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
    usable = counted.any(dim=1)
    return per_query.sum() / usable.sum().clamp(min=1)


def _weights(
    batch: RerankBatch, weights: Weights, temperature: float
) -> Float[Tensor, "batch slots"]:
    if weights == "uniform":
        return torch.ones_like(batch.yes)
    logits = (batch.yes.detach() / temperature).masked_fill(~batch.present, -torch.inf)
    share = logits.softmax(dim=1)
    return torch.cat([1 - share[:, :1], share[:, 1:]], dim=1)


Weights = Literal["sft", "contrastive", "uniform"]


def yes_contrast(batch: RerankBatch, *, temperature: float = 1.0) -> Float[Tensor, ""]:
    """Return the mean over queries of -log softmax(z_yes / temperature) at the positive.

    The logit of no takes no part: what GMR compares supervised training with. A query without
    negatives has loss 0.

    Args:
        batch: logits; the positive's first.
        temperature: in units of logits.

    Source: GMR (arXiv 2510.14824, section 3).
    """
    logits = (batch.yes / temperature).masked_fill(~batch.present, -torch.inf)
    return -torch.log_softmax(logits, dim=1)[:, 0].mean()
