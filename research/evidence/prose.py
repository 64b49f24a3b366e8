"""Sections of the page that are written by hand, with numbers that are not: `{SOURCE: WHAT | FORMAT}`.

    {negatives: mined}                     a row's overall, the mean over its test seeds
    {negatives: mined, pointing}           another measure of it, or one of its figures
    {negatives: mined - in-batch}          a difference with its 95 % interval; of a measure as above
    {chance: bound}                        what repeats of one training say: `deviation` or `bound`
    {assets/judge/figures.json: auc.pairs} a number of a committed file, by dotted key

FORMAT is one of Python's, such as .0%, and has a default. What such a text says cannot go stale, and
a number that no file has stops the page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from research.evidence.compare import Found, said
from research.evidence.grid import Grid
from research.evidence.repeats import groups_of, noise_of
from research.evidence.result import Result, number_at
from unime.core.errors import DataError, UnimeError, lookup

FIGURE = re.compile(r"\{([^{}:]+):\s+([^{}|]+?)(?:\s+\|\s+([^{}]+))?\}")

RUN = "row (of those that are run at all test seeds):"


def filled_texts(grid: Grid, found: Found) -> list[str]:
    """Return the grid's texts with their numbers.

    Raises:
        DataError: for a text that is missing, or a number that no result has.
    """
    return [filled_text(grid, found, Path(path)) for path in grid.texts]


def filled_text(grid: Grid, found: Found, path: Path) -> str:
    """Return one text with its numbers; raises as `filled_texts` does."""
    if not path.is_file():
        raise DataError(f"{path} is missing; the grid names it as a section of {grid.readme}")

    def number(match: re.Match[str]) -> str:
        source, what, form = match[1], " ".join(match[2].split()), match[3]
        try:
            if source.endswith(".json"):
                return _shown([number_at(Path(source), what)], form or ".3g")
            if source == "chance":
                groups = groups_of(grid, found)
                if not groups:
                    raise DataError("no repeated rows are run at all test seeds")
                own, bound = noise_of([*groups.values()])
                known = {"deviation": own, "bound": bound}
                return _shown([lookup(known, what, "figure of chance:")], form or ".2g")
            whole = {
                name: row
                for name, row in lookup(found, source, "table:").items()
                if [result.seed for result in row] == grid.test_seeds(source)
            }
            return _of_table(whole, what, form)
        except (UnimeError, ValueError) as error:
            raise DataError(f"{path} asks for {match[0]}: {error}") from error

    return FIGURE.sub(number, path.read_text(encoding="utf-8"))


def _of_table(table: Mapping[str, Sequence[Result]], what: str, form: str | None) -> str:
    rows, _, measure = what.partition(", ")
    name, _, other = rows.partition(" - ")
    row = lookup(table, name, RUN)
    if other:
        return said(row, lookup(table, other, RUN), measure or "overall")
    if measure in row[0].figures:
        return _shown([result.figures[measure] for result in row], form or ".3g")
    return _shown([result.score(measure or "overall") for result in row], form or ".1f")


def _shown(values: Sequence[float | None], form: str) -> str:
    """Return the mean of numbers in its format; 59 %, not 59%."""
    there = [value for value in values if value is not None]
    if not there:
        raise ValueError("that is null in every file")
    return format(fmean(there), form).replace("%", " %")
