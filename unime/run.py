"""`unime run FOLDER`: a folder's numbered recipes in order, each in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from unime.core import console
from unime.core.errors import TERMINATED, RecipeError, Terminated, UnimeError, lookup
from unime.core.stage import command_of, stage_of
from unime.recipe_check import check_recipes

ORDER_WITHIN_A_NUMBER = ["world", "base", "data"]
"""Recipes with one number run in this order, then by name."""


def recipes_in(folder: Path | str) -> list[Path]:
    """Return a folder's recipes in the order they run.

    Raises:
        RecipeError: when there are none.
    """
    folder = Path(folder)
    found = [path for path in folder.glob("*.yaml") if re.match(r"\d+_", path.name)]
    if not found:
        raise RecipeError(f"{folder} holds no recipe named like 2_contrast.yaml")
    return sorted(found, key=_order)


def run_folder(
    folder: Path | str,
    overrides: Sequence[str] = (),
    *,
    skip: Sequence[str] = (),
    dry_run: bool = False,
) -> None:
    """Run a folder's recipes; what is up to date is skipped, what is unfinished is resumed.

    Args:
        folder: the recipe folder.
        overrides: `run=FOLDER` for all, or `STEM.dotted.key=value` for the recipe STEM.yaml.
        skip: stems of recipes to leave out.
        dry_run: only check the recipes.

    Raises:
        RecipeError: when the folder has no recipe, or none of a name that is to be left out.
        UnimeError: when a stage fails.
    """
    recipes = recipes_in(folder)
    by_stem = {recipe.stem: recipe for recipe in recipes}
    left_out = [lookup(by_stem, stem, f"recipe of {folder}:") for stem in skip]
    recipes = [recipe for recipe in recipes if recipe not in left_out]
    shares = _share_out(recipes, overrides)
    check_recipes(recipes, shares)
    start = time.monotonic()
    for number, recipe in enumerate(recipes, start=1):
        command = command_of(stage_of(recipe))
        words = [sys.executable, "-m", *command, str(recipe), *shares[recipe.stem]]
        console.log(f"[{number}/{len(recipes)}] {recipe.name}")
        code = _run([*words, *(["--dry-run"] if dry_run else [])])
        if code in (TERMINATED, -signal.SIGTERM):
            console.log(f"{recipe.name} was stopped; the same command resumes it")
            raise Terminated
        if code != 0:
            raise UnimeError(
                f"{recipe.name} ended with exit code {code}; the same command carries on from there"
            )
    console.log(f"{folder}: all {len(recipes)} recipes done in {time.monotonic() - start:.0f} s")


def _run(words: Sequence[str]) -> int:
    """Run a command; a SIGTERM to this process goes on to it. Return its exit code."""
    process = subprocess.Popen(words)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()  # The terminal has sent it the same.
        raise
    except Terminated:
        process.terminate()
        process.wait()
        raise


def _order(path: Path) -> tuple[int, int, str]:
    number, _, name = path.stem.partition("_")
    known = ORDER_WITHIN_A_NUMBER
    return int(number), known.index(name) if name in known else len(known), name


def _share_out(recipes: Sequence[Path], overrides: Sequence[str]) -> dict[str, list[str]]:
    """Return each recipe's own overrides."""
    shares: dict[str, list[str]] = {path.stem: [] for path in recipes}
    for override in overrides:
        key = override.partition("=")[0]
        if key == "run":
            for share in shares.values():
                share.append(override)
            continue
        stem, dot, _ = key.partition(".")
        if not dot or stem not in shares:
            raise RecipeError(
                f"override '{override}': expected run=FOLDER or STEM.key=value with STEM one of "
                f"{', '.join(sorted(shares))}"
            )
        shares[stem].append(override[len(stem) + 1 :])
    return shares
