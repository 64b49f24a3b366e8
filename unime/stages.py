"""The table of stages, and `unime run FOLDER`: a folder's recipes in order, each in a process of its own.

Another package adds stages by an entry point in the group "unime.stages" that names such a table.
"""

from __future__ import annotations

import importlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from unime.core import console
from unime.core.config import load_recipe
from unime.core.errors import TERMINATED, RecipeError, Terminated, UnimeError, lookup
from unime.core.stage import StageEntry, entry_of, stage_of, stages

STAGES = {
    "data": StageEntry(
        "unime.data.stage",
        ("unime", "data"),
        "Read pairs, check every image, write the item and pair tables.",
        order=-1,
    ),
    "distill": StageEntry(
        "unime.train.distill",
        ("unime", "distill"),
        "Stage 1: teach a VLM's language model the similarities of a text embedder.",
        parallel=True,
    ),
    "contrast": StageEntry(
        "unime.train.contrast",
        ("unime", "contrast"),
        "Contrastive training: warm-up on pairs, stage 2 on selected negatives.",
        parallel=True,
    ),
    "mine": StageEntry(
        "unime.mine.stage",
        ("unime", "mine"),
        "Find each query's nearest candidates in the whole corpus.",
        parallel=True,
    ),
    "judge": StageEntry(
        "unime.judge.stage",
        ("unime", "judge", "score"),
        "Score a mined table's pairs; what is scored is kept, whatever happens.",
    ),
    "select": StageEntry(
        "unime.select.stage",
        ("unime", "select"),
        "Drop false negatives by the judge's scores; choose hard negatives.",
    ),
    "rerank": StageEntry(
        "unime.rerank.stage",
        ("unime", "rerank"),
        "Train a reranker: pointwise, contrastive, or pairwise and listwise together.",
        parallel=True,
    ),
    "eval": StageEntry(
        "unime.eval.stage",
        ("unime", "eval", "run"),
        "Evaluate models on benchmarks; score files, a result file and a table.",
    ),
    "eval_rerank": StageEntry(
        "unime.eval.rerank_report",
        ("unime", "eval", "rerank"),
        "What a reranker does to an embedder's first candidates, on the dev split.",
    ),
    "export": StageEntry(
        "unime.export.stage",
        ("unime", "export"),
        "Write the model for sentence-transformers, transformers and vLLM.",
    ),
}


def recipes_in(folder: Path | str) -> list[Path]:
    """Return a folder's recipes in the order they run: by number, their stage's order, and name.

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
        RecipeError: when the folder has no recipe, or none that `skip` or an override names, or when
            any is wrong; nothing was started then.
        UnimeError: when a stage fails.
        Terminated: when a stage was stopped by SIGTERM.
    """
    recipes = recipes_in(folder)
    by_stem = {recipe.stem: recipe for recipe in recipes}
    left_out = [lookup(by_stem, stem, f"recipe of {folder}:") for stem in skip]
    recipes = [recipe for recipe in recipes if recipe not in left_out]
    shares = _share_out(recipes, overrides)
    check_recipes(recipes, shares)
    start = time.monotonic()
    for number, recipe in enumerate(recipes, start=1):
        words = entry_of(stage_of(recipe)).words
        command = [sys.executable, "-m", *words, str(recipe), *shares[recipe.stem]]
        console.log(f"[{number}/{len(recipes)}] {recipe.name}")
        code = _run([*command, *(["--dry-run"] if dry_run else [])])
        if code in (TERMINATED, -signal.SIGTERM):
            console.log(f"{recipe.name} was stopped; the same command resumes it")
            raise Terminated
        if code != 0:
            raise UnimeError(
                f"{recipe.name} ended with exit code {code}; the same command carries on from there"
            )
    console.log(f"{folder}: all {len(recipes)} recipes done in {time.monotonic() - start:.0f} s")


def _run(command: Sequence[str]) -> int:
    """Run a command; a SIGTERM to this process goes on to it. Return its exit code."""
    process = subprocess.Popen(command)
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
    # The stage by the file's name: a recipe that cannot be read has its place, too.
    entry = stages().get(name)
    return int(number), 0 if entry is None else entry.order, name


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
    """Do what a stage does with its recipe before it opens the output."""
    module = importlib.import_module(entry_of(stage_of(recipe)).module)
    module.inputs(load_recipe(recipe, module.RECIPE, overrides))
