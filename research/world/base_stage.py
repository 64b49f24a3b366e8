"""Stage `base`: teach the student from random weights (`python -m research.world base RECIPE`).

Next-token training on lessons made as they are needed; resumable at any moment. `make base` runs
it, `research/recipes/judge` teaches the tiny judge the same way; the results are shipped in assets/student
and assets/judge, so nobody has to.
"""

from __future__ import annotations

from pathlib import Path

from research.world.base_recipe import BaseRecipe
from unime.core.provenance import Output

RECIPE = BaseRecipe


def inputs(recipe: BaseRecipe) -> dict[str, Path]:
    """Return what the stage reads: the words its tokenizer knows, and the sprites."""
    from research.world.base_tokenizer import ENGLISH
    from research.world.sprites import FOLDER

    read = {"english": ENGLISH, "sprites": FOLDER / "atlas.npz"}
    return read if recipe.start is None else {**read, "start": Path(recipe.start)}


def run(recipe: BaseRecipe, out: Output) -> None:
    """Train, or carry on; writes the model's files, figures.json and progress.jsonl."""
    from research.world.base_train import train

    train(recipe, out)
