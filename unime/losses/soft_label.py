"""Soft labels: the student's choice among a query's own candidates follows the judge's."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unime.losses.records import ContrastBatch

Directions = Literal["both", "student_judge", "judge_student"]


def soft_label(
    batch: ContrastBatch,
    *,
    temperature: float = 0.02,
    judge_temperature: float = 0.1,
    directions: Directions = "both",
    positive_floor: float | None = None,
) -> Float[Tensor, ""]:
    """Return the symmetric KL divergence between student and judge, averaged over queries.

        P = softmax(cosines / t),  Q = softmax(scores / t_judge),  over positive and negatives
        loss = (KL(P || Q) + KL(Q || P)) / 2

    The minimum lies where cosines differ as t / t_judge times the scores do. Absent, masked and
    unscored candidates leave both distributions, and so does a repeated one. Rows with fewer
    than two scored candidates are left out; without any row the loss is 0. In-batch negatives
    have no score and never enter.

    Args:
        batch: embeddings, indices and judge scores.
        temperature: t, in units of cosine.
        judge_temperature: t_judge, in units of score.
        directions: "both", or only KL(P || Q) ("student_judge") or KL(Q || P) ("judge_student").
        positive_floor: m; raises a scored positive to the best scored negative + m, because a
            judge that doubts the positive would otherwise teach to move away from it.

    Source: UniME-V2 (arXiv 2510.13515, section 3.3), where both temperatures are 0.02.
    """
    index = torch.cat([batch.positive[:, None], batch.negatives], dim=1)
    scores = batch.scores.to(batch.query.dtype)
    counted = _counted(batch, index) & ~scores.isnan()
    if positive_floor is not None:
        scores = _raise_positive(scores, counted, positive_floor)
    usable = counted.sum(dim=1) >= 2
    chosen = batch.candidates[index[usable].clamp(min=0)]
    cosine = torch.einsum("bd,bcd->bc", batch.query[usable], chosen)
    student = _log_distribution(cosine / temperature, counted[usable])
    judge = _log_distribution(scores[usable] / judge_temperature, counted[usable])
    divergence = {
        "student_judge": lambda: _kl(student, judge, counted[usable]),
        "judge_student": lambda: _kl(judge, student, counted[usable]),
        "both": lambda: (
            (_kl(student, judge, counted[usable]) + _kl(judge, student, counted[usable])) / 2
        ),
    }[directions]()
    # A sum over no rows is 0 and keeps its (zero) gradient, a mean would be NaN.
    return divergence.sum() / max(int(usable.sum()), 1)


def _counted(batch: ContrastBatch, index: Tensor) -> Bool[Tensor, "batch slots"]:
    """Return which of positive and negatives exist, are allowed, and are named first here."""
    counted = batch.allowed.gather(1, index.clamp(min=0)) & (index >= 0)
    counted[:, 0] = True
    repeats = torch.tril(index[:, :, None] == index[:, None, :], diagonal=-1).any(dim=2)
    return counted & ~repeats


def _raise_positive(
    scores: Float[Tensor, "batch slots"], counted: Bool[Tensor, "batch slots"], margin: float
) -> Float[Tensor, "batch slots"]:
    negatives = scores.masked_fill(~counted, -torch.inf)[:, 1:]
    if negatives.shape[1] == 0:
        return scores
    floor = negatives.amax(dim=1, keepdim=True) + margin
    # NaN stays NaN: an unscored positive is not invented.
    return torch.cat([torch.maximum(scores[:, :1], floor), scores[:, 1:]], dim=1)


def _log_distribution(
    logits: Float[Tensor, "rows cands"], counted: Bool[Tensor, "rows cands"]
) -> Float[Tensor, "rows cands"]:
    return torch.log_softmax(logits.masked_fill(~counted, -torch.inf), dim=1)


def _kl(
    left: Float[Tensor, "rows cands"],
    right: Float[Tensor, "rows cands"],
    counted: Bool[Tensor, "rows cands"],
) -> Float[Tensor, " rows"]:
    """Return KL(left || right) a row from log-probabilities, over the counted candidates."""
    # Both are -inf where not counted; zero them first, or the gradient of inf - inf is NaN.
    left, right = (log.masked_fill(~counted, 0.0) for log in (left, right))
    return (left.exp() * (left - right)).masked_fill(~counted, 0.0).sum(dim=1)
