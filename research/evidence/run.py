"""Runs cells: each missing step in a process of its own, then the result file.

What is finished is never started again: a step with a manifest is done, a cell with a result of
the grid's present chain is done. A killed run carries on where it was, by the same command.
"""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from research.evidence import looks
from research.evidence.bootstrap import resampled
from research.evidence.chain import Step, chain_of, hash_of
from research.evidence.grid import Cell, Grid
from research.evidence.result import Result, gather, load_result, path_of
from unime.core import console, files
from unime.core.errors import TERMINATED, DataError, Terminated, UnimeError

SAME_FIGURE = 0.05
"""Share by which a figure that has no queries may differ when it is made again."""

Launch = Callable[[Sequence[str]], int]
"""Runs the words after `python -m`; returns the exit code."""


class CellState(NamedTuple):
    """A cell and how far it is."""

    cell: Cell
    chain: list[Step]
    state: str
    """"done", "stale" (made from another chain than the grid's present one, or without a figure
    that the row has got since) or "to do"."""


def states(grid: Grid, cells: Sequence[Cell]) -> list[CellState]:
    """Return each cell with its chain and how far it is."""
    found = []
    for cell in cells:
        chain, path = chain_of(grid, cell), path_of(grid, cell)
        state = "to do"
        if path.is_file():
            result, row = load_result(path), grid.change(cell.table, cell.row)
            same = result.chain == hash_of(chain) and row.figures.keys() <= result.figures.keys()
            state = "done" if same else "stale"
        found.append(CellState(cell, chain, state))
    return found


def run_cells(grid: Grid, cells: Sequence[Cell], start: Launch, jobs: int = 1) -> None:
    """Run the cells that are not done, `jobs` of them side by side.

    Raises:
        UnimeError: when a step fails; cells that have begun are finished first.
    """
    found = states(grid, cells)
    waiting = [one for one in found if one.state != "done"]
    console.log(f"evidence: {len(found) - len(waiting)} of {len(found)} cells are done")
    if not waiting:
        return
    if jobs > 1:
        # Cells of one seed share the beginning of their chains and would wait for one another.
        rows = list(dict.fromkeys((one.cell.table, one.cell.row) for one in waiting))
        waiting.sort(key=lambda one: rows.index((one.cell.table, one.cell.row)))
    _prepare(grid, [step for one in waiting for step in one.chain], start)
    alone = _Alone()

    def run_one(number: int) -> None:
        one = waiting[number]
        pace = pace_of([step for state in found for step in state.chain])
        steps = [step for step in one.chain if not step.done]
        console.log(
            f"[{number + 1}/{len(waiting)}] {one.cell.name}: {len(steps)} of {len(one.chain)} "
            f"steps, about {pace * sum(step.seconds for step in steps) / 60:.0f} min; with this "
            f"one {pace * left(waiting[number:]) / jobs / 3600:.1f} h left"
        )
        result = run_cell(grid, one.cell, one.chain, start, alone)
        console.log(f"{one.cell.name}: {_sentence(result)}")

    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(run_one, number) for number in range(len(waiting))]
        try:
            for one in as_completed(running):
                one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Alone:
    """Locks for what only one of the cells that run side by side may do."""

    def __init__(self) -> None:
        self.results = Lock()
        self._guard = Lock()
        self._folders: dict[Path, Lock] = defaultdict(Lock)

    def making(self, folder: Path) -> Lock:
        """Return the lock of a step that several cells share."""
        with self._guard:
            return self._folders[folder]


def run_cell(
    grid: Grid,
    cell: Cell,
    chain: Sequence[Step],
    start: Launch,
    alone: _Alone | None = None,
) -> Result:
    """Run a cell's missing steps, note the look, write its result.

    Raises:
        UnimeError: when a step fails.
    """
    alone = alone or _Alone()
    for step in chain:
        with alone.making(step.folder):
            _run_step(step, start)
    result = gather(cell, grid.change(cell.table, cell.row), chain)
    with alone.results:
        looks.note(grid, cell)
    files.write_json(path_of(grid, cell), result.model_dump(mode="json"))
    return result


def check_cell(grid: Grid, cell: Cell, runs: Path, start: Launch) -> str:
    """Make a committed cell again from nothing in another folder; return how the two compare.

    Nothing is written to the results and no look is noted: no number comes of it that was not
    there before.

    Raises:
        DataError: when there is no result to compare with, or the new one lies outside of the
            95 % interval of the committed one.
    """
    path = path_of(grid, cell)
    if not path.is_file():
        raise DataError(f"{path} is missing; make it with {cell.command}")
    before = load_result(path)
    again = grid.model_copy(update={"runs": runs.as_posix()})
    chain = chain_of(again, cell)
    _prepare(grid, chain, start)
    for step in chain:
        _run_step(step, start)
    after = gather(cell, again.change(cell.table, cell.row), chain)
    if not before.outcomes:
        return _compare_figures(cell, before, after)
    low, high = interval_of([before], "overall")
    sentence = (
        f"{cell.name}: overall {after.score('overall'):.2f} now, {before.score('overall'):.2f} "
        f"committed, 95 % interval over its queries {low:.2f} to {high:.2f}"
    )
    if not low <= after.score("overall") <= high:
        raise DataError(f"{sentence}; the result is not reproduced")
    return sentence


def _compare_figures(cell: Cell, before: Result, after: Result) -> str:
    """Say how the figures of a row that has nothing else compare."""
    both = {name: (value, after.figures.get(name)) for name, value in before.figures.items()}
    sentence = f"{cell.name}: " + ", ".join(
        f"{name} {now} now, {then} committed" for name, (then, now) in both.items()
    )
    # The rounding of another machine is amplified by hundreds of steps; what is claimed is not.
    if any(
        (then is None) != (now is None)
        or (then is not None and now is not None and abs(now - then) > SAME_FIGURE * abs(then))
        for then, now in both.values()
    ):
        raise DataError(f"{sentence}; a figure differs by more than {100 * SAME_FIGURE:.0f} %")
    return sentence


def interval_of(results: Sequence[Result], measure: str) -> tuple[float, float]:
    """Return the 95 % interval of a row's mean over its seeds, in percent."""
    from unime.eval.intervals import interval

    hits = [{t: r.outcomes[t].hits().astype(float) for t in r.members(measure)} for r in results]
    low, high = interval(resampled(hits))
    return 100 * low, 100 * high


def pace_of(steps: Sequence[Step]) -> float:
    """Return how much longer than planned the finished steps took; 1 before any is."""
    by_folder = {step.folder: step for step in steps if step.done}
    measured = sum((step.measured() or 0.0 for step in by_folder.values()), start=0.0)
    planned = sum(step.seconds for step in by_folder.values())
    return measured / planned if planned else 1.0


def left(found: Sequence[CellState]) -> float:
    """Return the planned seconds of all distinct steps that are not done, of cells that are not."""
    steps = {s.folder: s for one in found if one.state != "done" for s in one.chain}
    return sum((step.seconds for step in steps.values() if not step.done), start=0.0)


def planned_minutes(grid: Grid) -> dict[str, float]:
    """Return what each table takes at its test seeds; a shared step counts where it comes first."""
    counted: set[Path] = set()
    minutes: dict[str, float] = {}
    for table in grid.tables:
        steps = {s.folder: s for cell in grid.cells(table) for s in chain_of(grid, cell)}
        fresh: Mapping[Path, Step] = {f: s for f, s in steps.items() if f not in counted}
        minutes[table] = sum(step.seconds for step in fresh.values()) / 60
        counted |= set(fresh)
    return minutes


def _run_step(step: Step, start: Launch) -> None:
    if step.done:
        return
    console.log(step.command)
    code = start(step.words)
    if code in (TERMINATED, -signal.SIGTERM):
        raise Terminated
    if code != 0:
        raise UnimeError(
            f"step '{step.name}' ended with exit code {code}: {step.command}\n"
            "the same `python -m research.evidence` command carries on from there"
        )
    if not step.done:
        raise UnimeError(
            f"step '{step.name}' stopped before it was finished; the same "
            "`python -m research.evidence` command carries on from there"
        )


def _prepare(grid: Grid, steps: Sequence[Step], start: Launch) -> None:
    names = {step.name for step in steps}
    for preparation in grid.prepare:
        if preparation.steps is not None and names.isdisjoint(preparation.steps):
            continue
        if not Path(preparation.makes).exists() and start(preparation.command) != 0:
            raise UnimeError(
                f"`python -m {' '.join(preparation.command)}` failed; it makes {preparation.makes}, "
                "which these cells need"
            )


def _sentence(result: Result) -> str:
    shown = [
        f"{measure} {result.score(measure):.1f}"
        for measure in ("overall", "compositional")
        if result.has(measure)
    ]
    return ", ".join([*shown, *(f"{n} {v}" for n, v in result.figures.items())])
