"""A cell as a chain of commands that a user could type, each with an output folder of its own.

The folder is named by what is in it: a hash of the recipe with all changes, in which the folders
of the steps it reads stand by their own hashes. So cells share every step that is the same.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from research.evidence.grid import END, Cell, Grid, GridChange, step_of
from unime.core import files
from unime.core.config import read_values
from unime.core.errors import RecipeError, lookup
from unime.core.stage import entry_of, stage_of

PLACE = re.compile(r"\$\{(\w+)\}")

DIGITS = 10
"""Of the hash in a folder's name."""


@dataclass(frozen=True)
class Step:
    """One command of a chain."""

    name: str
    """With the seed, where it is not the cell's."""
    words: tuple[str, ...]
    """After `python -m`."""
    folder: Path
    reads: tuple[str, ...]
    """Names of the steps whose output it reads."""
    seconds: float
    """How long it should take."""

    @property
    def command(self) -> str:
        """What a user types."""
        return shlex.join(["python", "-m", *self.words])

    @property
    def done(self) -> bool:
        """Whether its output is finished."""
        return (self.folder / "manifest.json").is_file()

    def measured(self) -> float | None:
        """Return how long it took, if it is done."""
        return files.read_json(self.folder / "run.json")["seconds"] if self.done else None


def chain_of(grid: Grid, cell: Cell) -> list[Step]:
    """Return a cell's steps in the order they run, the evaluation (or what its figures need) last.

    Raises:
        RecipeError: for a step that reads an unknown one, or itself.
    """
    change = grid.change(cell.table, cell.row)
    found: dict[str, Step] = {}
    evaluated = [] if grid.tables[cell.table].rows[cell.row].figures_only else [END]
    for name in (*evaluated, *map(step_of, change.figures.values())):
        _resolve(grid, change, (cell.seed, cell.seed), (name,), found)
    return list(found.values())


def hash_of(chain: Sequence[Step]) -> str:
    """Return what identifies a cell's computation: the names of its folders, hashed."""
    names = "\n".join(sorted(step.folder.name for step in chain))
    return hashlib.sha256(names.encode()).hexdigest()[:DIGITS]


def _resolve(
    grid: Grid,
    change: GridChange,
    seeds: tuple[int, int],
    path: tuple[str, ...],
    found: dict[str, Step],
) -> Step:
    """Add the last step of `path` to `found`, and before it what it reads.

    Args:
        grid: has the steps.
        change: what is done to them.
        seeds: the cell's, and that of the step that reads this one.
        path: names from the end of the chain to this step.
        found: by name, in the order they run.
    """
    name = path[-1]
    if name in path[:-1]:
        raise RecipeError(f"step '{name}' reads its own output: {' <- '.join(path)}")
    spec = lookup(grid.steps, name, f"step that '{path[-2]}' reads:" if len(path) > 1 else "step")
    seed = grid.dev if spec.of_dev else seeds[1]
    unique = name if seed == seeds[0] else f"{name}, seed {seed}"
    if unique in found:
        return found[unique]
    values = {**spec.set, **change.set.get(name, {})}
    # Other names, such as `run`, are the recipe's own placeholders.
    places = [place for place in _places(values) if place not in ("seed", "run")]
    reads = {
        place: _resolve(grid, change, (seeds[0], seed), (*path, place), found) for place in places
    }
    known = {"seed": str(seed)} | {place: step.folder.as_posix() for place, step in reads.items()}
    overrides = tuple(f"{key}={_text(value, known)}" for key, value in values.items())
    folder = Path(grid.runs, str(seed), f"{name}-{_hash(spec.recipe, overrides)}")
    stage, resolved = _stage_of(spec.recipe), f"output={folder.as_posix()}"
    found[unique] = Step(
        name=unique,
        words=(*entry_of(stage).words, spec.recipe, resolved, *overrides),
        folder=folder,
        reads=tuple(step.name for step in reads.values()),
        seconds=change.seconds.get(name, spec.seconds),
    )
    return found[unique]


# A recipe is read once, not for each of a thousand steps.
_stage_of = cache(stage_of)


@cache
def _hash(recipe: str, overrides: tuple[str, ...]) -> str:
    values = read_values(recipe, overrides)
    del values["output"]
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _places(value: Any) -> list[str]:
    """Return the names of all placeholders, in order, each once."""
    if isinstance(value, str):
        return PLACE.findall(value)
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping | list):
        return list(dict.fromkeys(name for part in parts for name in _places(part)))
    return []


def _text(value: Any, known: Mapping[str, str]) -> str:
    """Return a value as an override's text, placeholders filled."""
    if not isinstance(value, str):
        value = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
        value = value.removesuffix("\n").removesuffix("\n...")
    return PLACE.sub(lambda match: known.get(match[1], match[0]), value)
