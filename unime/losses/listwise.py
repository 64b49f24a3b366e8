"""Listwise: the score of each of a row's candidates against the others'."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unime.losses.records import RerankBatch


def listwise(batch: RerankBatch, *, which: Which = "list_mle") -> Float[Tensor, ""]:
    """Return a listwise loss of s = z_yes - z_no against the candidates' grades.

    A query's grades are its judge scores where it has any (an unscored candidate is left out), else
    1 for the positive and 0 for the others. Queries with fewer than two grades are left out; without
    any the loss is 0.

    Args:
        batch: logits and judge scores.
        which: ListMLE (Xia et al. 2008), RankNet (Burges et al. 2005), LambdaLoss
            (Wang et al. 2018) or ListNet (Cao et al. 2007), each with the library's defaults;
            ListMLE orders by grade.
    """
    score = (batch.yes - batch.no).float()
    judged = ~batch.scores.isnan() & batch.present
    hard = torch.zeros_like(score)
    hard[:, 0] = 1.0
    has_scores = judged.any(dim=1, keepdim=True)
    counted = torch.where(has_scores, judged, batch.present)
    grades = torch.where(has_scores, batch.scores.to(score.dtype), hard)
    usable = counted.sum(dim=1) >= 2
    if not usable.any():
        return score.sum() * 0
    rows = list(zip(score[usable], grades[usable], counted[usable], strict=True))
    documents = [list(row[mask]) for row, _, mask in rows]
    labels = [row[mask] for _, row, mask in rows]
    loss = _loss(which, score.device)
    return loss([["query"] * len(rows), documents], labels)


Which = Literal["list_mle", "rank_net", "lambda", "list_net"]


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


def _loss(which: Which, device: torch.device) -> nn.Module:
    from sentence_transformers.cross_encoder import losses

    model: Any = _Scored(device)
    if which == "list_mle":
        return losses.ListMLELoss(model, respect_input_order=False)
    kinds = {"rank_net": losses.RankNetLoss, "lambda": losses.LambdaLoss}
    return kinds.get(which, losses.ListNetLoss)(model)


class _Scored(nn.Module):
    """Stands where those losses expect a cross-encoder; a document is its score."""

    num_labels = 1

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def preprocess(self, pairs: list[tuple[str, Tensor]], **_: Any) -> dict[str, Tensor]:
        """Return the scores of (query, document) pairs."""
        return {"scores": torch.stack([score for _, score in pairs])}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return them again."""
        return features
