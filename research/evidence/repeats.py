"""What chance alone does: rows that differ by the seed of a training and by nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, variance

from research.evidence.compare import Found
from research.evidence.grid import Grid

MEASURE = "overall"

Scores = Sequence[Sequence[float]]
"""Repeats of one training: a list for each, in it a score for each world."""

SECTION = """\
## What chance does

Rows of a table share their worlds, and each is one training in every world, with batches and negatives of its own draw.
These rows are one training with other seeds:

{lines}

One training varies within its world with a standard deviation of {own:.2f} in {measure}, so two rows over {worlds} worlds
differ by up to {bound:.1f} (95 %) by chance. A smaller difference of trained rows says nothing, even where its interval
leaves out 0.
"""


def section(grid: Grid, found: Found) -> list[str]:
    """Return the page's section on repeated rows; nothing while none are there at all test seeds.

    Args:
        grid: its tables name the rows that are repeats of one another.
        found: what there is.
    """
    groups = groups_of(grid, found)
    if not groups:
        return []
    lines = []
    for name, rows in groups.items():
        table, means = grid.tables[name], [fmean(row) for row in rows]
        titles = "; ".join(table.rows[row].title for row in table.repeats)
        lines.append(f"- Table {table.title}: {titles}. Up to {max(means) - min(means):.1f} apart.")
    own, bound = noise_of([*groups.values()])
    facts = {"own": own, "measure": MEASURE, "worlds": len(grid.seeds), "bound": bound}
    return [SECTION.format(lines="\n".join(lines), **facts)]


def groups_of(grid: Grid, found: Found) -> dict[str, Scores]:
    """Return the scores of the rows that are repeats, by table, where all test seeds are there."""
    groups: dict[str, Scores] = {}
    for name, table in grid.tables.items():
        results = [found[name].get(row, []) for row in table.repeats]
        if results and all([r.seed for r in row] == grid.seeds for row in results):
            groups[name] = [[result.score(MEASURE) for result in row] for row in results]
    return groups


def noise_of(groups: Sequence[Scores]) -> tuple[float, float]:
    """Return what chance does to one training, and to a difference of two rows.

    A world's own level is no noise, since rows are compared within worlds: the variance is that
    within worlds, pooled over worlds and groups (one-way analysis of variance).

    Args:
        groups: repeats of one or several trainings, at least two of each, in equally many worlds.

    Returns:
        The standard deviation of one score within its world, and the half-width of the 95 %
        interval (Student's t) of the difference of two rows' means over these worlds.
    """
    from scipy.stats import t

    worlds = [world for group in groups for world in zip(*group, strict=True)]
    freedom = [len(world) - 1 for world in worlds]
    squares = [f * variance(world) for f, world in zip(freedom, worlds, strict=True)]
    own = sum(squares) / sum(freedom)
    bound = float(t.ppf(0.975, sum(freedom))) * (2 * own / len(groups[0][0])) ** 0.5
    return own**0.5, bound
