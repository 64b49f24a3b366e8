"""What the scores of an audit say: measures, and verdicts that follow from them by fixed rules.

How far two kinds of pairs are apart is an AUC: it does not depend on a bias, so that a judge that
likes to say yes is told from one that cannot see the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from unime.judge.truth_report import auc

Scores = Float[np.ndarray, " _"]

ABLE = 0.75
"""AUC of positives over random pairs above which a judge tells right from wrong at all."""

BLIND = 0.65
"""AUC below which a judge does not tell two kinds of pairs apart."""

YES_BIAS = 0.25
"""Share of random pairs above 0.5 that is too much."""

ENOUGH = 20
"""Pairs of a kind without which nothing is said."""

TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Finding(NamedTuple):
    """A verdict."""

    fault: str
    """A short name: always-yes, colour-blind, ignores-images, cannot-judge, says-no."""
    sentence: str


def judge_faults(scores: Mapping[str, Scores], seen: Mapping[str, Scores]) -> list[Finding]:
    """Return the faults that scores show.

    Args:
        scores: by kind of pair: positive, random, colour, image.
        seen: by kind (colour, image), the scores of the positives that have a pair of this kind.
    """
    able = separation(scores["positive"], scores["random"])
    random_yes = share_above(scores["random"])
    faults = []
    ignores = _not_apart(seen, scores, "image")
    if ignores is not None:
        faults.append(
            Finding(
                "ignores-images",
                f"The judge ignores images: with another image under the same texts it scores "
                f"alike (AUC {ignores:.2f}, a judge that looks has 0.9 or more).",
            )
        )
    if able is not None and able >= ABLE:
        apart = _not_apart(seen, scores, "colour")
        if apart is not None:
            faults.append(
                Finding(
                    "colour-blind",
                    f"The judge is colour-blind: it tells random pairs from positives (AUC "
                    f"{able:.2f}), not those that differ in colour alone (AUC {apart:.2f}).",
                )
            )
    elif able is not None and ignores is None and len(scores["random"]) >= ENOUGH:
        faults.append(
            Finding(
                "cannot-judge",
                f"The judge does not tell positives from random pairs (AUC {able:.2f}).",
            )
        )
    if random_yes > YES_BIAS and (ignores is None or random_yes > 0.9):
        faults.append(
            Finding(
                "always-yes",
                f"The judge says yes too easily: {100 * random_yes:.0f} % of the random pairs are "
                "above 0.5; absolute cuts mean nothing with it.",
            )
        )
    if share_above(scores["positive"]) < 0.5 and random_yes < 0.5 and able and able >= ABLE:
        faults.append(
            Finding(
                "says-no",
                f"The judge says no too easily: {100 * share_above(scores['positive']):.0f} % of "
                "the known positives are above 0.5.",
            )
        )
    return faults


def separation(positives: Scores, others: Scores) -> float | None:
    """Return how often a positive scores above another pair, ties counted half."""
    both = np.concatenate([positives, others])
    return auc(both, np.arange(len(both)) < len(positives))


def share_above(scores: Scores, cut: float = 0.5) -> float:
    """Return the share of scores above a cut; 0 when there are none."""
    scores = scores[~np.isnan(scores)]
    return float((scores > cut).mean()) if len(scores) else 0.0


def calibration(scores: Scores, relevant: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """Return, for each tenth of the scale, how many pairs there are and how many are relevant."""
    known = ~np.isnan(scores)
    places = np.minimum((scores[known] * bins).astype(int), bins - 1)
    rows = []
    for place in range(bins):
        here = places == place
        if here.any():
            rows.append(
                {
                    "from": place / bins,
                    "pairs": int(here.sum()),
                    "score": float(scores[known][here].mean()),
                    "relevant": float(relevant[known][here].mean()),
                }
            )
    return rows


def outranked(positive: Sequence[float], mined: Sequence[Scores]) -> float:
    """Return the share of queries in which a candidate scores above the positive."""
    known = [(p, m[~np.isnan(m)]) for p, m in zip(positive, mined, strict=True) if not np.isnan(p)]
    return float(np.mean([bool((m > p).any()) for p, m in known])) if known else 0.0


def entropies(positive: Sequence[float], mined: Sequence[Scores]) -> dict[float, float]:
    """Return the mean entropy of the soft labels over temperatures; 1 is uniform."""
    rows = [np.array([p, *m[~np.isnan(m)]]) for p, m in zip(positive, mined, strict=True)]
    rows = [row for row in rows if len(row) > 1 and not np.isnan(row).any()]
    return {t: float(np.mean([_entropy(row / t) for row in rows])) for t in TEMPERATURES if rows}


def agreement(first: Scores, second: Scores) -> dict[str, float]:
    """Return Cohen's kappa at 0.5 and Spearman's rank correlation of two judges."""
    known = ~(np.isnan(first) | np.isnan(second))
    first, second = first[known], second[known]
    if len(first) < 2:
        return {"pairs": float(len(first))}
    a, b = first > 0.5, second > 0.5
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    kappa = 1.0 if chance == 1 else (float((a == b).mean()) - chance) / (1 - chance)
    return {
        "pairs": float(len(first)),
        "kappa": float(kappa),
        "rank_correlation": _spearman(first, second),
        "mean_difference": float(np.abs(first - second).mean()),
    }


def _not_apart(seen: Mapping[str, Scores], scores: Mapping[str, Scores], kind: str) -> float | None:
    """Return the AUC of positives over their changed pairs when it is too low, else None."""
    if len(scores[kind]) < ENOUGH:
        return None
    apart = separation(seen[kind], scores[kind])
    return apart if apart is not None and apart < BLIND else None


def _entropy(logits: Any) -> float:
    weights = np.exp(logits - logits.max())
    shares = weights / weights.sum()
    return float(-(shares * np.log(np.maximum(shares, 1e-300))).sum() / np.log(len(shares)))


def _spearman(first: Scores, second: Scores) -> float:
    one, other = _ranks(first), _ranks(second)
    if one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _ranks(values: Scores) -> Scores:
    """Return ranks from 1, ties sharing the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return ((ends - counts + 1 + ends) / 2)[place]
