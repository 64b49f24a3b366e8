"""The command `python -m research.evidence`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from research.evidence.grid import GRID, Cell, Grid, load_grid

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The claims of the method over seeds: a grid of small runs, and the tables made of them.",
)

Path_ = Annotated[Path, typer.Option("--grid", help="The grid, a YAML file.")]
TableName = Annotated[str | None, typer.Option("--table", help="Only this table.")]
RowName = Annotated[str | None, typer.Option("--row", help="Only this row of it.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Only this seed.")]
Dev = Annotated[
    bool, typer.Option("--dev", help="The dev seed, for tuning, instead of the test seeds.")
]


@app.command()
def run(
    table: TableName = None,
    row: RowName = None,
    seed: Seed = None,
    dev: Dev = False,
    jobs: Annotated[
        int, typer.Option(min=1, help="Cells side by side, each with its share of the threads.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the commands.")] = False,
    grid: Path_ = GRID,
) -> None:
    """Run the cells that have no result yet; the same command carries on after a stop."""
    from research.evidence.launch import Launcher
    from research.evidence.run import run_cells

    loaded = load_grid(grid)
    cells = _cells(loaded, table, row, seed, dev)
    if dry_run:
        typer.echo(_commands(loaded, cells))
    else:
        start = Launcher(jobs)
        with start.passing_on_sigterm():
            run_cells(loaded, cells, start, jobs)


@app.command("list")
def list_cells(
    table: TableName = None,
    row: RowName = None,
    seed: Seed = None,
    dev: Dev = False,
    grid: Path_ = GRID,
) -> None:
    """List the cells: done or not, and the minutes of what is to do."""
    from research.evidence.run import left, pace_of, states

    loaded = load_grid(grid)
    found = states(loaded, _cells(loaded, table, row, seed, dev))
    pace = pace_of([step for one in found for step in one.chain])
    # What an earlier cell will have run is not counted again.
    for number, one in enumerate(found):
        minutes = pace * (left(found[: number + 1]) - left(found[:number])) / 60
        typer.echo(f"{one.state:5}  {minutes:5.1f} min  {one.cell.name}")
    done = sum(one.state == "done" for one in found)
    typer.echo(
        f"{done} of {len(found)} cells done; {pace * left(found) / 3600:.1f} h left, a cell at a time, "
        f"at {pace:.2f} times the planned time"
    )


@app.command()
def tables(grid: Path_ = GRID) -> None:
    """Write the page of all tables from the result files."""
    from research.evidence.tables import write_page

    typer.echo(write_page(load_grid(grid)).as_posix())


@app.command()
def check(
    table: Annotated[str, typer.Option(help="Which table.")],
    row: Annotated[str, typer.Option(help="Which row of it.")],
    seed: Annotated[int, typer.Option(help="Which seed.")],
    runs: Annotated[Path, typer.Option(help="Where everything is made anew.")] = Path(
        "runs/evidence-check"
    ),
    grid: Path_ = GRID,
) -> None:
    """Make one cell again from nothing; fail unless it lands in the committed one's interval."""
    from research.evidence.launch import Launcher
    from research.evidence.run import check_cell

    loaded = load_grid(grid)
    (cell,) = loaded.cells(table, row, [seed])
    start = Launcher()
    with start.passing_on_sigterm():
        typer.echo(check_cell(loaded, cell, runs, start))


def _cells(
    grid: Grid, table: str | None, row: str | None, seed: int | None, dev: bool
) -> list[Cell]:
    from unime.core.errors import RecipeError

    if dev and seed not in (None, grid.dev):
        raise RecipeError(f"--dev means seed {grid.dev}, and --seed says {seed}; give one of them")
    seeds = [grid.dev] if dev else None if seed is None else [seed]
    return grid.cells(table, row, seeds)


def _commands(grid: Grid, cells: list[Cell]) -> str:
    """Return every distinct command in the order they run, under the cell that needs it first."""
    from research.evidence.chain import chain_of

    seen: set[Path] = set()
    lines = []
    for cell in cells:
        lines.append(f"# {cell.name}")
        for step in chain_of(grid, cell):
            if step.folder not in seen:
                lines.append(step.command + ("  # done" if step.done else ""))
            seen.add(step.folder)
    return "\n".join(lines)
