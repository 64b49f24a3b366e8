"""A reranker's losses: yes or no about each candidate, or the place of the positive in a list."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from unime.losses.records import RerankBatch

Weights = Literal["sft", "contrastive", "uniform"]
Which = Literal["list_mle", "rank_net", "lambda", "list_net"]


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


def _weights(
    batch: RerankBatch, weights: Weights, temperature: float
) -> Float[Tensor, "batch slots"]:
    if weights == "uniform":
        return torch.ones_like(batch.yes)
    logits = (batch.yes.detach() / temperature).masked_fill(~batch.present, -torch.inf)
    share = logits.softmax(dim=1)
    return torch.cat([1 - share[:, :1], share[:, 1:]], dim=1)


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
