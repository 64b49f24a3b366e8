"""`research/results/README.md`: every table from the committed result files, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from research.evidence import looks, repeats
from research.evidence.compare import results_of, said
from research.evidence.curves import curve_of
from research.evidence.grid import Grid, Table
from research.evidence.prose import filled_texts
from research.evidence.result import Result
from research.evidence.run import planned_minutes, states
from unime.core import files
from unime.core.errors import DataError

COLUMNS = {
    "overall": "overall",
    "classification": "class.",
    "grounding": "ground.",
    "retrieval": "retr.",
    "vqa": "vqa",
    "ind": "IND",
    "ood": "OOD",
    "compositional": "comp.",
    "swap": "swap",
}
"""Measures of every table, with their headings."""

MARKED = re.compile(r"(<!-- evidence: (\S+)(.*?) -->\n).*?<!-- end -->", re.DOTALL)

INTRODUCTION = """\
# The evidence

Written by `python -m research.evidence tables` from the result files beside this page; do not edit it.
`make evidence` (`python -m research.evidence run`) makes the result files, cell by cell; it carries on after a stop.
[research/recipes/evidence/grid.yaml](../recipes/evidence/grid.yaml) says what every row is.

Hit@1 in percent on the sets of mini-MMEB, pairwise accuracy on the compositional ones ("swap" is their part with
exchanged words); ties count against the model. Each seed is another world *and* another training. A row is the mean
over its test seeds. A difference is taken query by query; its 95 % interval comes from a bootstrap over seeds and,
within them, queries. Three seeds tell little about how much seeds differ, so the intervals are a lower bound on the
doubt. Nothing is corrected for the number of comparisons. Seed {dev} is for tuning and in no table.

A cell is made again from nothing and compared with its file by
`python -m research.evidence check --table TABLE --row ROW --seed SEED`.
"""


def write_page(grid: Grid) -> Path:
    """Write the page, and the tables that the front page shows of it; return the page's path."""
    path = Path(grid.readme)
    files.write_text(path, page(grid))
    if grid.front is not None:
        front = Path(grid.front)
        files.write_text(front, filled(grid, front.read_text(encoding="utf-8")))
    return path


def filled(grid: Grid, text: str) -> str:
    """Return a page with its marked tables made anew.

    A mark names a table, and rows of it to show in short; the first one is what the others are
    compared with:

        <!-- evidence: reranker embedder yes-no -->
        <!-- end -->
    """
    return MARKED.sub(lambda m: f"{m[1]}{_short(grid, m[2], m[3].split())}\n<!-- end -->", text)


def page(grid: Grid) -> str:
    """Return the page.

    Raises:
        DataError: when result files contradict each other or the grid.
    """
    minutes = planned_minutes(grid)
    found = {name: results_of(grid, name) for name in grid.tables}
    chance = repeats.section(grid, found)
    parts = [INTRODUCTION.format(dev=grid.dev), *chance, _budget(grid, minutes)]
    for name in grid.tables:
        parts.append(_section(grid, name, found[name]))
    return "\n".join([*parts, *filled_texts(grid, found)])


def _section(grid: Grid, name: str, found: Mapping[str, list[Result]]) -> str:
    table = grid.tables[name]
    parts = [
        f"## {table.title}",
        "",
        table.question,
        "",
        f"`python -m research.evidence run --table {name}`",
    ]
    parts.append(f"(looks at its test seeds: {looks.count(grid, name)})")
    if found:
        columns = _columns(grid, name, found)
        parts += ["", _rows(grid, table, found, columns)]
        if table.curve is not None:
            parts += curve_of(table, table.curve, found)
        for row in found:
            own = grid.change(name, row).figures
            if rest := [figure for figure in own if figure not in columns]:
                parts += ["", *_by_seed(table.rows[row].title, rest, found[row])]
    return "\n".join([*parts, "", *_not_there(grid, name, found), ""])


def _columns(grid: Grid, name: str, found: Mapping[str, list[Result]]) -> list[str]:
    """Return the figures that most rows have: what most lack would be columns of dashes."""
    names = [list(grid.change(name, row).figures) for row in found]
    every = dict.fromkeys(figure for own in names for figure in own)
    return [figure for figure in every if 2 * sum(figure in own for own in names) >= len(found)]


def _rows(
    grid: Grid,
    table: Table,
    found: Mapping[str, list[Result]],
    figures: Sequence[str] = (),
    brief: bool = False,
) -> str:
    every = [result for results in found.values() for result in results]
    measures = [measure for measure in COLUMNS if any(result.has(measure) for result in every)]
    compared = [
        (title, of, measure) for title, of in _compared(table, found) for measure in table.measures
    ]
    header = [
        "",
        *(COLUMNS[measure] for measure in measures),
        *(_against(title, measure) for title, _, measure in compared),
        *figures,
        *([table.published] if table.published else []),
        "seeds",
    ]
    lines = []
    for name, row in table.rows.items():
        if name not in found:
            continue
        results = found[name]
        lines.append(
            [
                row.title,
                *(_mean([r.score(m) if r.has(m) else None for r in results]) for m in measures),
                *(
                    said(results, found[of[name]], measure) if name in of else ""
                    for _, of, measure in compared
                ),
                *(_figure([r.figures.get(figure) for r in results]) for figure in figures),
                *([row.published or ""] if table.published else []),
                ", ".join(str(r.seed) for r in results),
            ]
        )
    chance = [[r.chance(m) for rows in found.values() for r in rows if r.has(m)] for m in measures]
    # Figures alone have no chance and no floor.
    floor = [["chance", *map(_mean, chance)], *_baselines(grid, measures)] if measures else []
    if brief:
        floor = floor[:1]
    lines += [[*line, *[""] * (len(header) - len(line))] for line in floor]
    return _joined([header, *lines])


def _compared(table: Table, found: Collection[str]) -> list[tuple[str, dict[str, str]]]:
    """Return the columns of differences: what is taken off, and for which row which other row."""
    pairs = [
        (row, of) for row in table.rows for of in table.references(row) if {row, of} <= {*found}
    ]
    if table.above:
        return [("the row above", dict(pairs))]
    references = [name for name in table.rows if any(of == name for _, of in pairs)]
    return [
        (table.rows[reference].title, {row: of for row, of in pairs if of == reference})
        for reference in references
    ]


def _by_seed(title: str, figures: Sequence[str], results: Sequence[Result]) -> list[str]:
    """Return figures of one row, a line each."""
    lines = [["", "mean", *(f"seed {result.seed}" for result in results)]]
    for figure in figures:
        values = [result.figures[figure] for result in results]
        lines.append([figure, _figure(values), *(_figure([one]) for one in values)])
    return [f'Of the row "{title}":', "", _joined(lines)]


def _short(grid: Grid, name: str, rows: Sequence[str]) -> str:
    """Return some rows of a table and their differences: from the first one, or the row above."""
    table, found = grid.tables[name], results_of(grid, name)
    if not rows:
        return _rows(grid, table, found, _columns(grid, name, found), brief=True)
    if missing := [row for row in rows if row not in found]:
        raise DataError(f"{grid.front} shows rows of table '{name}' that are not run: {missing}")
    if table.above:
        ((title, of),) = _compared(table, rows)
    else:
        title, of = table.rows[rows[0]].title, dict.fromkeys(rows[1:], rows[0])
    measures = ("overall", "compositional")
    against = [_against(title, measure) for measure in measures]
    lines = [["", *(COLUMNS[measure] for measure in measures), *against, "seeds"]]
    for row in rows:
        results = found[row]
        differences = [
            said(results, found[of[row]], measure) if row in of else "" for measure in measures
        ]
        means = [_mean([result.score(measure) for result in results]) for measure in measures]
        lines.append([table.rows[row].title, *means, *differences, str(len(results))])
    return _joined(lines)


def _baselines(grid: Grid, measures: Sequence[str]) -> list[list[str]]:
    """Return the reference models that see little, one line each."""
    lines = []
    for row in files.read_json(grid.baselines)["rows"]:
        if row["name"] == "chance":
            continue
        composed = row["compositional"]
        known = {
            **{name: row[name] for name in ("overall", "ind", "ood")},
            **row["meta_task"],
            "compositional": _average(list(composed.values())),
            "swap": _average([v for k, v in composed.items() if k.startswith("swap")]),
        }
        name = f"floor: {row['name'].replace('_', ' ')} (seed {grid.dev})"
        lines.append([name, *(_mean([known.get(measure)]) for measure in measures)])
    return lines


def _not_there(grid: Grid, name: str, found: Mapping[str, list[Result]]) -> list[str]:
    """Return what the table lacks, in sentences."""
    table, lines = grid.tables[name], []
    have = {(row, result.seed) for row, results in found.items() for result in results}
    for row, facts in table.rows.items():
        lacking = [s for s in grid.test_seeds(name) if (row, s) not in have]
        if facts.missing is not None:
            lines.append(f"- Not built: {facts.title}. {facts.missing}")
        elif lacking:
            lines.append(
                f"- Not run (or by an older grid): {facts.title}, seed {', '.join(map(str, lacking))}"
            )
    return lines


def _budget(grid: Grid, minutes: Mapping[str, float]) -> str:
    lines = ["## Budget", "", "| table | cells | done | minutes allowed | minutes planned |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    totals = [0.0] * 4
    for name, table in grid.tables.items():
        cells = grid.cells(name)
        done = sum(one.state == "done" for one in states(grid, cells))
        row = [float(len(cells)), float(done), table.minutes, minutes[name]]
        totals = [total + value for total, value in zip(totals, row, strict=True)]
        lines.append(_budget_line(table.title, row))
    lines.append(_budget_line("all", totals))
    said = "\nPlanned are two cores without a GPU and two jobs (`--jobs 2`); a step that tables share counts in the first of them.\n"
    return "\n".join([*lines, said])


def _budget_line(title: str, row: Sequence[float]) -> str:
    cells, done, allowed, planned = row
    return f"| {title} | {cells:.0f} | {done:.0f} | {allowed:.0f} | {planned:.0f} |"


def _joined(lines: Sequence[Sequence[str]]) -> str:
    """Return a table whose first line is its header."""
    header, *rest = lines
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rest))


def _against(title: str, measure: str) -> str:
    what = "" if measure == "overall" else f"{COLUMNS.get(measure, measure)} "
    return f"{what}minus {title}"


def _average(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _there(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[Any]) -> str:
    mean = _average(_there(values))
    return "-" if mean is None else f"{mean:.1f}"


def _figure(values: Sequence[float | None]) -> str:
    mean = _average(_there(values))
    if mean is None:
        return "-"
    return f"{mean:.0f}" if abs(mean) >= 100 else f"{mean:.3g}"
