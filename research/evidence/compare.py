"""A table's results at its test seeds, and the difference of two of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from research.evidence.bootstrap import resampled
from research.evidence.grid import Grid
from research.evidence.result import Result, load_result, path_of
from research.evidence.run import states
from unime.core.errors import DataError
from unime.eval.intervals import interval

Found = Mapping[str, Mapping[str, Sequence[Result]]]
"""By table and row, results at the test seeds in order."""


def results_of(grid: Grid, table: str) -> dict[str, list[Result]]:
    """Return a table's results at its test seeds by row, seeds in order.

    A result that another chain has made than the grid's today is left out: its number would stand
    beside words that say something else.
    """
    found: dict[str, list[Result]] = {}
    for one in states(grid, grid.cells(table)):
        if one.state == "done":
            result = load_result(path_of(grid, one.cell))
            found.setdefault(one.cell.row, []).append(result)
    return found


def difference(
    row: Sequence[Result], other: Sequence[Result], measure: str
) -> tuple[float, float, float] | None:
    """Return the mean difference row - other at the seeds both have, and its 95 % interval.

    In percent; None without a common seed.

    Raises:
        DataError: when the two were not evaluated on the same queries.
    """
    by_seed = {result.seed: result for result in other}
    pairs = [(one, by_seed[one.seed]) for one in row if one.seed in by_seed]
    if not pairs:
        return None
    values = []
    for one, two in pairs:
        sets = one.members(measure)
        counts = [[r.outcomes[s].n for s in r.members(measure)] for r in (one, two)]
        if sets != two.members(measure) or counts[0] != counts[1]:
            raise DataError(
                f"table '{one.table}', seed {one.seed}: rows '{one.row}' and '{two.row}' were not "
                f"evaluated on the same queries of '{measure}'; give both the same limits"
            )
        values.append(
            {s: one.outcomes[s].hits().astype(float) - two.outcomes[s].hits() for s in sets}
        )
    mean = sum(one.score(measure) - two.score(measure) for one, two in pairs) / len(pairs)
    low, high = interval(resampled(values))
    return mean, 100 * low, 100 * high


def said(row: Sequence[Result], other: Sequence[Result], measure: str) -> str:
    """Return their difference as the tables write it, such as "+1.7 (+1.3 to +2.1)"."""
    found = difference(row, other, measure)
    if found is None:
        return "-"
    mean, low, high = found
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
