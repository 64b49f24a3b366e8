"""How every stage runs: read its recipe, open its output, work, mark it finished.

A stage is a module with `RECIPE` (its recipe class), `inputs(recipe)` (what it reads, by name)
and `run(recipe, out)` (the work, resumable).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import yaml

from unime.core import console, processes
from unime.core.config import Recipe, load_recipe, read_values
from unime.core.errors import RecipeError, Terminated, did_you_mean
from unime.core.provenance import Output, open_output

STAGES = {
    "data": "unime.data.stage",
    "distill": "unime.train.distill",
    "contrast": "unime.train.contrast",
    "mine": "unime.mine.stage",
    "select": "unime.select.stage",
    "rerank": "unime.rerank.stage",
    "export": "unime.export.stage",
}
"""Stages of the library: `unime VERB RECIPE`."""

PARALLEL = ("distill", "contrast", "mine", "rerank")
"""Stages that a launcher may start in several processes."""

PROGRAMS = {
    "world": ("world", "build", "research.world.build"),
    "base": ("world", "base", "research.world.base"),
    "smolvlm": ("world", "smolvlm", "research.world.smolvlm"),
    "pairs": ("world", "pairs", "research.world.pairs"),
    "judge": ("judge", "score", "unime.judge.stage"),
    "eval": ("eval", "run", "unime.eval.stage"),
    "eval_rerank": ("eval", "rerank", "unime.eval.rerank_report"),
}
"""Stages of the programs beside the library: `python -m PROGRAM VERB RECIPE`, from a checkout."""


class Stage(Protocol):
    """What a stage module offers."""

    RECIPE: type[Recipe]

    def inputs(self, recipe: Any) -> dict[str, Path]:
        """Return what the stage reads."""
        ...

    def run(self, recipe: Any, out: Output) -> None:
        """Fill the output."""
        ...


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
    stage = cast("Stage", importlib.import_module(module))
    recipe = load_recipe(recipe_path, stage.RECIPE, overrides)
    inputs = stage.inputs(recipe)
    if dry_run:
        echo(_description(recipe, inputs))
        return
    if processes.ranks().world > 1:
        _check_parallel(recipe.stage)
        processes.connect()
    # One process opens the folder; opening it again would sweep away what that one is writing.
    out: Output = processes.main_decides(
        open_output(recipe, inputs, restart=restart) if processes.is_main() else None  # type: ignore[arg-type]
    )
    if out.up_to_date:
        console.log(f"{recipe.stage}: {out.path} is up to date")
        return
    if not processes.is_main():
        out.keep_journal()
    console.log(f"{recipe.stage}: {'resuming' if out.resumed else 'filling'} {out.path}")
    try:
        stage.run(recipe, out)
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


def command_of(stage: str) -> list[str]:
    """Return the words after `python -m` that run a stage.

    Raises:
        RecipeError: when there is no such stage.
    """
    if stage in STAGES:
        return ["unime", stage]
    if stage in PROGRAMS:
        return list(PROGRAMS[stage][:2])
    raise RecipeError(f"unknown stage '{stage}'{did_you_mean(stage, [*STAGES, *PROGRAMS])}")


def command_line(stage: str, recipe_path: Path | str) -> str:
    """Return the command a user types for a stage."""
    return f"python -m {' '.join(command_of(stage))} {recipe_path}"


def stage_of(recipe_path: Path | str) -> str:
    """Return which stage a recipe is for.

    Raises:
        RecipeError: when it does not say, or names no known stage.
    """
    stage = read_values(recipe_path).get("stage")
    if not isinstance(stage, str):
        raise RecipeError(f"{recipe_path}: stage: missing; say which stage this recipe is for")
    command_of(stage)
    return stage


def _check_stage(module: str, recipe_path: Path | str) -> None:
    """Refuse a recipe for another stage before its keys are called wrong."""
    stages = {**STAGES, **{name: module for name, (_, _, module) in PROGRAMS.items()}}
    found = stage_of(recipe_path)
    if stages[found] != module:
        expected = next((name for name, other in stages.items() if other == module), module)
        raise RecipeError(
            f"{recipe_path} is a recipe for stage '{found}', this command runs '{expected}'; "
            f"use {command_line(found, recipe_path)}"
        )


def _check_parallel(stage: str) -> None:
    if stage not in PARALLEL:
        raise RecipeError(
            f"stage '{stage}' runs in one process; start it without accelerate launch or torchrun "
            f"(several processes: {', '.join(PARALLEL)})"
        )


def _description(recipe: Recipe, inputs: dict[str, Path]) -> str:
    resolved = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    reads = "\n".join(
        f"  {name}: {place}{'' if place.exists() else '  (not there yet, or a Hub id)'}"
        for name, place in inputs.items()
    )
    return f"{resolved}\nreads\n{reads or '  nothing'}\nwrites\n  {recipe.output}"
