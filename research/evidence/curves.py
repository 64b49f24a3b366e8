"""A curve below a table, as the text that GitHub draws (Mermaid's xychart)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from research.evidence.grid import Curve, Table
from research.evidence.result import Result
from research.evidence.run import interval_of

MEASURE = "overall"


def curve_of(table: Table, curve: Curve, found: Mapping[str, Sequence[Result]]) -> list[str]:
    """Return a curve's lines of text; none while its rows lack a seed that another has.

    Args:
        table: the table it belongs to.
        curve: what is drawn.
        found: the table's results by row.
    """
    # Points of different seeds would show how worlds differ, not rows.
    seeds = {tuple(result.seed for result in found.get(row, [])) for row in curve.needs()}
    if len(seeds) > 1 or () in seeds:
        return []
    means = {row: fmean(r.score(MEASURE) for r in found[row]) for row in curve.needs()}
    if curve.minus is None:
        ends = [interval_of(found[row], MEASURE) for row in curve.rows]
        lines = [
            [low for low, _ in ends],
            [means[row] for row in curve.rows],
            [high for _, high in ends],
        ]
        said = f"{MEASURE}, and the ends of its 95 % interval over seeds and queries"
    else:
        own = table.rows[curve.minus].title
        lines = [[means[row] - means[curve.minus] for row in curve.rows]]
        said = f"{MEASURE}, minus {own}"
        if table.published is not None:
            published = {row: float(table.rows[row].published or "nan") for row in curve.rows}
            lines.append([published[row] - published[curve.minus] for row in curve.rows])
            said += f"; and the same of what was published: {table.published}"
    if curve.figure is None:
        places = [table.rows[row].title for row in curve.rows]
    else:
        figures = {row: [r.figures[curve.figure] for r in found[row]] for row in curve.rows}
        places = [f"{fmean(f for f in figures[row] if f is not None):.3g}" for row in curve.rows]
    title = "" if curve.figure is None else f'"{curve.figure}" '
    axis = ", ".join(f'"{place}"' for place in places)
    return [
        "",
        f"{said[0].upper()}{said[1:]}.",
        "",
        "```mermaid",
        "xychart-beta",
        f"    x-axis {title}[{axis}]",
        f'    y-axis "{MEASURE}"',
        *(f"    line [{', '.join(f'{value:.2f}' for value in line)}]" for line in lines),
        "```",
    ]
