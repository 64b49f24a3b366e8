"""How every stage runs: read its recipe, open its output, work, mark it finished.

A stage is a module with `RECIPE` (its recipe class), `inputs(recipe)` (what it reads, by name)
and `run(recipe, out)` (the work, resumable).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Protocol, cast, runtime_checkable

import typer
import yaml

from unime.core import console, processes
from unime.core.config import Recipe, checked, load_recipe, read_values
from unime.core.errors import RecipeError, Terminated, did_you_mean
from unime.core.provenance import Output, open_output

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="dotted.key=value, each in place of a recipe's value.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check the recipe; say what is read and written.")
]
Restart = Annotated[
    bool, typer.Option("--restart", help="Move an existing output aside and begin anew.")
]


@dataclass(frozen=True)
class StageEntry:
    """What is known of a stage without importing it."""

    module: str
    """Where its recipe class, `inputs` and `run` are."""
    words: tuple[str, ...]
    """What follows `python -m` to run it: ("unime", "mine")."""
    help: str
    """One sentence for `--help`."""
    parallel: bool = False
    """Whether a launcher may start it in several processes."""
    order: int = 0
    """Of recipes with one number, those of lower orders run first."""


@cache
def stages() -> dict[str, StageEntry]:
    """Return every stage by the name that a recipe's `stage` gives.

    Those of `unime.stages`, and of packages that name a table of theirs by the entry point group
    "unime.stages".
    """
    # By its name, since `unime.stages` stands above this room and imports it. Not by an entry point:
    # metadata of an older installation, which stay behind in checkouts, would lack or hide it.
    found = dict(importlib.import_module("unime.stages").STAGES)
    for point in entry_points(group="unime.stages"):
        found |= point.load()
    return found


@runtime_checkable
class StageModule(Protocol):
    """What a stage module offers."""

    RECIPE: type[Recipe]

    def inputs(self, recipe: Any) -> dict[str, Path]:
        """Return what the stage reads."""
        ...

    def run(self, recipe: Any, out: Output) -> None:
        """Fill the output."""
        ...


def stage_command(module: str) -> Callable[..., None]:
    """Return the function that typer makes a command of: it runs the stage in a module."""

    def command(
        recipe: RecipePath,
        overrides: Overrides = None,
        dry_run: DryRun = False,
        restart: Restart = False,
    ) -> None:
        execute(module, recipe, overrides or [], dry_run=dry_run, restart=restart, echo=typer.echo)

    return command


def execute(
    module: str,
    recipe_path: Path | str,
    overrides: Sequence[str] = (),
    *,
    dry_run: bool = False,
    restart: bool = False,
    echo: Callable[[str], None] = console.log,
) -> None:
    """Run one stage.

    Args:
        module: the stage's module, such as "unime.mine.stage".
        recipe_path: its recipe.
        overrides: `dotted.key=value`.
        dry_run: only check the recipe and say what would be read and written.
        restart: move an existing output aside and begin anew.
        echo: where the dry run's description goes.
    """
    _check_stage(module, recipe_path)
    stage = cast("StageModule", importlib.import_module(module))
    recipe = load_recipe(recipe_path, stage.RECIPE, overrides)
    inputs = stage.inputs(recipe)
    if dry_run:
        echo(_description(recipe, inputs))
        return
    with _opened(recipe, inputs, restart=restart) as out:
        if not out.up_to_date:
            stage.run(recipe, out)


def execute_values(module: str, values: Mapping[str, Any], *, restart: bool = False) -> Path:
    """Run one stage on the values of a recipe, with no file: what `execute` does on one.

    Args:
        module: as in `execute`.
        values: what the recipe's file would hold, but `stage`; `${run}` means nothing here.
        restart: as in `execute`.

    Returns:
        The output, finished.

    Raises:
        RecipeError: when the values are no recipe of the stage.
    """
    name = next(name for name, entry in stages().items() if entry.module == module)
    stage = cast("StageModule", importlib.import_module(module))
    recipe = checked({"stage": name, **values}, stage.RECIPE, f"what stage '{name}' was given")
    with _opened(recipe, stage.inputs(recipe), restart=restart) as out:
        if not out.up_to_date:
            stage.run(recipe, out)
    return Path(recipe.output)


@contextmanager
def _opened(recipe: Recipe, inputs: dict[str, Path], *, restart: bool) -> Iterator[Output]:
    """Open a recipe's output for the stage to fill, and mark it finished at the end.

    One that is up to date is handed over as it is: the caller does nothing with it.
    """
    if processes.ranks().world > 1:
        _check_parallel(recipe.stage)
        processes.connect()
    # One process opens the folder; opening it again would sweep away what that one is writing.
    out: Output = processes.main_decides(
        open_output(recipe, inputs, restart=restart) if processes.is_main() else None  # type: ignore[arg-type]
    )
    if out.up_to_date:
        console.log(f"{recipe.stage}: {out.path} is up to date")
        yield out
        return
    if not processes.is_main():
        out.keep_journal()  # the main process does since it opened the folder
    console.log(f"{recipe.stage}: {'resuming' if out.resumed else 'filling'} {out.path}")
    try:
        yield out
        if processes.is_main():
            out.finish()
    except Terminated:
        console.log(
            f"{recipe.stage}: stopped by SIGTERM, {out.path} is unfinished; the same command resumes it"
        )
        raise
    finally:
        out.close()
    console.log(f"{recipe.stage}: finished {out.path}")


def entry_of(stage: str) -> StageEntry:
    """Return a stage's entry.

    Raises:
        RecipeError: when there is no such stage.
    """
    if stage not in stages():
        raise RecipeError(
            f"unknown stage '{stage}'{did_you_mean(stage, [*stages()])} (the stages of research/ are "
            "there in a checkout, after `make setup`)"
        )
    return stages()[stage]


def command_line(stage: str, recipe_path: Path | str) -> str:
    """Return the command a user types for a stage."""
    return f"python -m {' '.join(entry_of(stage).words)} {recipe_path}"


def stage_of(recipe_path: Path | str) -> str:
    """Return which stage a recipe is for.

    Raises:
        RecipeError: when it does not say, or names no known stage.
    """
    stage = read_values(recipe_path).get("stage")
    if not isinstance(stage, str):
        raise RecipeError(f"{recipe_path}: stage: missing; say which stage this recipe is for")
    entry_of(stage)
    return stage


def _check_stage(module: str, recipe_path: Path | str) -> None:
    """Refuse a recipe for another stage before its keys are called wrong."""
    found = stage_of(recipe_path)
    if entry_of(found).module != module:
        expected = next((n for n, entry in stages().items() if entry.module == module), module)
        raise RecipeError(
            f"{recipe_path} is a recipe for stage '{found}', this command runs '{expected}'; "
            f"use {command_line(found, recipe_path)}"
        )


def _check_parallel(stage: str) -> None:
    if not entry_of(stage).parallel:
        parallel = [name for name, entry in stages().items() if entry.parallel]
        raise RecipeError(
            f"stage '{stage}' runs in one process; start it without accelerate launch or torchrun "
            f"(several processes: {', '.join(parallel)})"
        )


def _description(recipe: Recipe, inputs: dict[str, Path]) -> str:
    resolved = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    reads = "\n".join(
        f"  {name}: {place}{'' if place.exists() else '  (not there yet, or a Hub id)'}"
        for name, place in inputs.items()
    )
    return f"{resolved}\nreads\n{reads or '  nothing'}\nwrites\n  {recipe.output}"
