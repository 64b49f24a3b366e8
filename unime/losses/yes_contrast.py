"""Contrastive reranking: the positive's yes against the yes of the query's other candidates."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unime.losses.records import RerankBatch


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
