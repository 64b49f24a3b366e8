"""Checks a folder's recipes before the first of them costs hours."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from unime.core.config import load_recipe
from unime.core.errors import RecipeError, UnimeError
from unime.core.stage import PROGRAMS, STAGES, stage_of


def check_recipes(recipes: Sequence[Path], overrides: Mapping[str, Sequence[str]]) -> None:
    """Read every recipe with its overrides, as its stage will.

    Args:
        recipes: in the order they run.
        overrides: each recipe's own, by its stem.

    Raises:
        RecipeError: with all that is wrong, recipe by recipe.
    """
    problems = []
    for recipe in recipes:
        try:
            _check(recipe, overrides[recipe.stem])
        except UnimeError as error:
            problems.append(str(error))
    if problems:
        raise RecipeError("\n".join([*problems, "nothing was started"]))


def _check(recipe: Path, overrides: Sequence[str]) -> None:
    stage = stage_of(recipe)
    if stage in PROGRAMS and importlib.util.find_spec(PROGRAMS[stage][0]) is None:
        raise RecipeError(
            f"{recipe} needs the program '{PROGRAMS[stage][0]}', which runs from a checkout; "
            "change to the checkout's root"
        )
    module = importlib.import_module(STAGES[stage] if stage in STAGES else PROGRAMS[stage][2])
    module.inputs(load_recipe(recipe, module.RECIPE, overrides))
