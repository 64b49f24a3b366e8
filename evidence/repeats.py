"""What chance alone does: rows that differ by the seed of a training and by nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, variance

from evidence.grid import Table
from evidence.result import Result

MEASURE = "overall"


def sentence_of(table: Table, found: Mapping[str, Sequence[Result]]) -> str | None:
    """Return what a table's repeated rows say; None while a row lacks a seed of another.

    A world's own level is no noise, since rows are compared within worlds; so the variance of one
    training is that within worlds, pooled over them (one-way analysis of variance). From it follows
    how far the means of two rows lie apart when nothing differs but the seed.

    Args:
        table: names the rows that are repeats of one another.
        found: the table's results by row, seeds in order.
    """
    rows = [found.get(row, []) for row in table.repeats]
    worlds = {tuple(result.seed for result in results) for results in rows}
    if len(worlds) != 1 or worlds <= {()}:
        return None
    scores = [[result.score(MEASURE) for result in results] for results in rows]
    own, bound = noise_of(scores)
    means = [fmean(row) for row in scores]
    titles = "; ".join(table.rows[row].title for row in table.repeats)
    return (
        f"Table {table.title}: {titles}. {MEASURE.capitalize()} lies up to "
        f"{max(means) - min(means):.1f} apart. One training varies within its world with a "
        f"standard deviation of {own:.2f}, so two rows differ by up to {bound:.1f} (95 %) by chance."
    )


def noise_of(scores: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return what chance does to one training, and to a difference of two rows.

    Args:
        scores: a list for each repeat, in it a score for each world; at least two repeats.

    Returns:
        The standard deviation of one score within its world, and the half-width of the 95 %
        interval (Student's t) of the difference of two rows' means over these worlds.
    """
    from scipy.stats import t

    worlds = list(zip(*scores, strict=True))
    own = fmean(variance(world) for world in worlds)
    freedom = len(worlds) * (len(scores) - 1)
    return own**0.5, float(t.ppf(0.975, freedom)) * (2 * own / len(worlds)) ** 0.5
