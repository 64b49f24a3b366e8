"""Listwise reranking: name the place of the positive in a shuffled list."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unime.losses.records import RerankBatch


def choose(batch: RerankBatch) -> Float[Tensor, ""]:
    """Return the mean over lists of the cross-entropy of the positive's label.

        loss = -log softmax(logits of the list's labels) at the positive's place

    The softmax is over the labels of the list, not over the vocabulary: what is trained is what
    scores. Without lists the loss is 0.

    Args:
        batch: label logits and the positive's place.

    Source: UniME-V2-Reranker (arXiv 2510.13515, section 3.4), whose lists never had the positive
    last; here the place is drawn uniformly, where lists are made.
    """
    chosen = torch.log_softmax(batch.choice, dim=1).gather(1, batch.gold[:, None])
    return -chosen.sum() / max(len(batch.gold), 1)
