"""Parts of a job: what a budget or a shard allows goes into the store, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unime.core import console
from unime.core.config import load_recipe
from unime.judge.budget import UNLIMITED, SpendingLimit
from unime.judge.job import WHOLE, Shard
from unime.judge.stage import ScoreRecipe, ScoringWork
from unime.judge.store import ScoreStore


def score_part(
    recipe_path: Path | str,
    overrides: Sequence[str],
    *,
    budget: str | None = None,
    shard: str | None = None,
    retry: bool = False,
) -> int:
    """Score a part of a recipe's job; return how many pairs of it are left.

    Args:
        recipe_path: the recipe.
        overrides: `dotted.key=value`.
        budget: such as "1000 calls", "2.5h" or "20 EUR".
        shard: "i/n".
        retry: ask again for pairs that failed.

    Raises:
        EngineError: when no pair of it could be scored.
    """
    recipe = load_recipe(recipe_path, ScoreRecipe, overrides)
    part = Shard.parse(shard) if shard else WHOLE
    limit = SpendingLimit.parse(budget, recipe.prices) if budget else UNLIMITED
    with ScoreStore(recipe.store) as store:
        work = ScoringWork.of(recipe, part)
        outcome = work.score(store, limit, retry=retry)
        work.check(store)
    if outcome.left:
        console.log(
            f"judge: the budget of {budget} is spent, {outcome.left} pairs are left; the same "
            "command carries on"
        )
    return outcome.left


def compact_store(recipe_path: Path | str, overrides: Sequence[str]) -> str:
    """Merge the shards of a recipe's store; return what was done."""
    recipe = load_recipe(recipe_path, ScoreRecipe, overrides)
    with ScoreStore(recipe.store) as store:
        before = store.compact()
        after = store.summary()
    return f"{recipe.store}: {after['rows']} scores, {before} shards became {after['shards']}"
