"""The grid as data: tables, their rows, and what each row changes in one chain of stages.

`research/recipes/evidence/grid.yaml` is such a file and explains itself. A row at one seed is a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, field_validator, model_validator

from unime.core.config import Recipe, Section, load_recipe
from unime.core.errors import RecipeError, lookup

GRID = Path("research/recipes/evidence/grid.yaml")

END = "eval"
"""The step that a cell is run for."""


class StepSpec(Section):
    """One stage of the chain."""

    recipe: str
    set: dict[str, Any] = Field(default_factory=dict)
    """What is changed in the recipe, by dotted key. In texts `${NAME}` stands for the output of
    the step NAME, which makes it one that this step reads, and `${seed}` for the cell's seed."""
    seconds: float = Field(gt=0)
    """Half of what it takes on one thread: two cores, two jobs side by side."""
    of_dev: bool = False
    """Run once, at the dev seed and from the dev seed's steps, for the cells of all seeds."""


class GridChange(Section):
    """What is done to the chain."""

    like: list[str] = Field(default_factory=list)
    """Variants taken over first, in order; a later change of one key wins."""
    set: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By step, what is changed in its recipe."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """By step, how long it takes then."""
    figures: dict[str, str] = Field(default_factory=dict)
    """Further numbers by their names in the table: `STEP/FILE.json:dotted.key`."""


class GridRow(GridChange):
    """One row of a table."""

    title: str
    against: list[str] | None = None
    """The rows it is compared with; the table's unless said otherwise."""
    published: str | None = None
    """What the paper reports for it."""
    missing: str | None = None
    """Why it cannot be run yet; such a row is listed, and nothing else."""
    figures_only: bool = False
    """Its figures are all there is of it: it is not evaluated on the world's sets."""


class Curve(Section):
    """Rows of a table as points of one line, drawn below it."""

    rows: list[str] = Field(min_length=2)
    """From left to right."""
    figure: str | None = None
    """The figure whose mean stands at a point; the row's title by default."""
    minus: str | None = None
    """The row whose own value is taken off, so that a paper's scale and ours can be compared: the
    table's published numbers are drawn as well then. Without it, the 95 % interval is."""

    def needs(self) -> list[str]:
        """Return all rows without which it can't be drawn."""
        return self.rows if self.minus is None else [*self.rows, self.minus]


class Table(Section):
    """One table: rows on the same queries."""

    title: str
    question: str
    minutes: float = Field(gt=0)
    """Its budget: all test seeds, what earlier tables have run already left out."""
    like: list[str] = Field(default_factory=list)
    """Variants that all its rows begin with."""
    against: list[str] = Field(default_factory=list)
    above: bool = False
    """Each row is compared with the one above it instead, in one column."""
    measures: list[str] = Field(default=["overall"])
    """Of which differences are shown: a group of sets, or one set."""
    published: str | None = None
    """What the column of published numbers holds, and where they stand."""
    seeds: list[int] | None = None
    """Test seeds, if not the grid's."""
    curve: Curve | None = None
    repeats: list[str] = Field(default_factory=list)
    """Rows that differ by a training's seed alone: the page says what chance does."""
    rows: dict[str, GridRow] = Field(min_length=1)

    @model_validator(mode="after")
    def _named_rows_exist(self) -> Table:
        for row in [] if self.curve is None else self.curve.needs():
            lookup(self.rows, row, "row of a curve:")
        for row in self.repeats:
            lookup(self.rows, row, "row of repeats:")
        if len(self.repeats) == 1:
            raise RecipeError(f"repeats names '{self.repeats[0]}' alone; chance needs two rows")
        return self

    @model_validator(mode="after")
    def _rows_exist(self) -> Table:
        if self.above and (self.against or any(row.against for row in self.rows.values())):
            raise RecipeError("rows compared with those `above` them take no `against`")
        for name, row in self.rows.items():
            for other in self.references(name):
                found = lookup(self.rows, other, f"row that '{name}' is compared with:")
                if found.missing:
                    raise RecipeError(f"row '{name}' is compared with '{other}', which cannot run")
                if row.figures_only or found.figures_only:
                    raise RecipeError(
                        f"row '{name}' is compared with '{other}', but figures alone have no queries"
                    )
        return self

    def references(self, row: str) -> list[str]:
        """Return the rows that a row is compared with; never itself."""
        if self.above:
            names = list(self.rows)
            return names[: names.index(row)][-1:]
        own = self.rows[row].against
        return [name for name in (self.against if own is None else own) if name != row]


class Preparation(Section):
    """A command that has to run once before all cells."""

    makes: str
    """Run unless this exists."""
    command: list[str]
    """Words after `python -m`."""
    steps: list[str] | None = None
    """Only cells with one of these steps need it; all of them by default."""


class Grid(Recipe):
    """All tables; `output` is the folder of the result files."""

    runs: str
    """Where the steps' outputs go."""
    readme: str
    """The page that shows the tables."""
    front: str | None = None
    """A page on which some rows are marked to be shown; see `research.evidence.tables.filled`."""
    texts: list[str]
    """Written sections at the end of that page; see `research.evidence.prose` for their numbers."""
    baselines: str
    """What `python -m research.world baselines` wrote, for the floor of every table."""
    dev: int = 0
    """The seed for tuning."""
    seeds: list[int] = Field(min_length=1)
    """The test seeds."""
    prepare: list[Preparation] = Field(default_factory=list)
    steps: dict[str, StepSpec]
    variants: dict[str, GridChange] = Field(default_factory=dict)
    tables: dict[str, Table] = Field(min_length=1)

    @field_validator("tables")
    @classmethod
    def _plain_names(cls, tables: dict[str, Table]) -> dict[str, Table]:
        for name in [*tables, *(row for table in tables.values() for row in table.rows)]:
            if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
                raise ValueError(f"'{name}' names a file; use letters, digits, '-', '_' and '.'")
        return tables

    @model_validator(mode="after")
    def _names_exist(self) -> Grid:
        lookup(self.steps, END, "step")
        for step in (name for one in self.prepare for name in one.steps or []):
            lookup(self.steps, step, "step that something is prepared for:")
        if self.dev in {seed for name in self.tables for seed in self.test_seeds(name)}:
            raise RecipeError(f"seed {self.dev} is for tuning (dev) and cannot be a test seed")
        for name, table in self.tables.items():
            for row in table.rows:
                change = self.change(name, row)
                for step in [*change.set, *change.seconds, *map(step_of, change.figures.values())]:
                    lookup(self.steps, step, f"step in table '{name}', row '{row}':")
                if table.rows[row].figures_only and not change.figures:
                    raise RecipeError(f"table '{name}', row '{row}': figures_only, and no figures")
        return self

    def test_seeds(self, table: str) -> list[int]:
        """Return a table's test seeds."""
        own = self.tables[table].seeds
        return self.seeds if own is None else own

    def change(self, table: str, row: str) -> GridChange:
        """Return all that a row changes: table's variants, its own variants, then itself."""
        parts = [self._variant(name) for name in self.tables[table].like]
        return _joined([*parts, self._whole(self.tables[table].rows[row])])

    def _variant(self, name: str) -> GridChange:
        return self._whole(lookup(self.variants, name, "variant"))

    def _whole(self, change: GridChange) -> GridChange:
        return _joined([*(self._variant(name) for name in change.like), change])

    def cells(
        self, table: str | None = None, row: str | None = None, seeds: Sequence[int] | None = None
    ) -> list[Cell]:
        """Return the cells that can run: table by table, seed by seed.

        Args:
            table: only this table.
            row: only this row of it.
            seeds: these instead of the test seeds.

        Raises:
            RecipeError: for an unknown table or row, or a row that cannot run yet.
        """
        if table is not None:
            rows = lookup(self.tables, table, "table").rows
            if row is not None and (why := lookup(rows, row, f"row of '{table}':").missing):
                raise RecipeError(f"row '{row}' of table '{table}' cannot run yet: {why}")
        elif row is not None:
            raise RecipeError(f"row '{row}' of which table? Name it with --table")
        return [
            Cell(name, key, seed)
            for name, one in self.tables.items()
            if table in (None, name)
            for seed in (self.test_seeds(name) if seeds is None else seeds)
            for key, found in one.rows.items()
            if row in (None, key) and found.missing is None
        ]


class Cell(NamedTuple):
    """One row of one table at one seed."""

    table: str
    row: str
    seed: int

    @property
    def name(self) -> str:
        """How it is called."""
        return f"{self.table}/{self.row}-seed{self.seed}"

    @property
    def command(self) -> str:
        """What a user types to make it."""
        return f"python -m research.evidence run --table {self.table} --row {self.row} --seed {self.seed}"


def load_grid(path: Path | str = GRID, overrides: Sequence[str] = ()) -> Grid:
    """Read and check a grid.

    Raises:
        RecipeError: one sentence a mistake.
    """
    return load_recipe(path, Grid, overrides)


def step_of(figure: str) -> str:
    """Return the step whose output a figure `STEP/FILE.json:dotted.key` stands in."""
    step, slash, rest = figure.partition("/")
    if not slash or ":" not in rest:
        raise RecipeError(f"figure '{figure}' is not of the form STEP/FILE.json:dotted.key")
    return step


def _joined(changes: Sequence[GridChange]) -> GridChange:
    found: dict[str, dict[str, Any]] = {}
    seconds: dict[str, float] = {}
    figures: dict[str, str] = {}
    for change in changes:
        for step, values in change.set.items():
            found[step] = {**found.get(step, {}), **values}
        seconds |= change.seconds
        figures |= change.figures
    return GridChange(set=found, seconds=seconds, figures=figures)
