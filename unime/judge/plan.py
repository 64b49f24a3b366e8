"""`unime judge plan` and `status`: what a job asks for and costs, and how far it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unime.core.config import load_recipe
from unime.core.errors import RecipeError
from unime.judge.budget import SpendingLimit
from unime.judge.price import Quote, note_rate
from unime.judge.scoring import Missing, score_missing
from unime.judge.stage import ScoreRecipe, ScoringWork, kind_of_reason
from unime.judge.store import ScoreStore


def plan_job(
    recipe_path: Path | str, overrides: Sequence[str], *, rate: float | None, measure: int = 0
) -> str:
    """Return what a job would ask for and cost.

    Args:
        recipe_path: the recipe.
        overrides: `dotted.key=value`.
        rate: pairs a second.
        measure: score so many pairs now, to measure the rate; they are kept.
    """
    if rate is not None and not 0 < rate < float("inf"):
        raise RecipeError(f"--rate {rate}: expected pairs a second, more than 0")
    recipe = load_recipe(recipe_path, ScoreRecipe, overrides)
    with ScoreStore(recipe.store) as store:
        work = ScoringWork.of(recipe)
        distinct, missing = work.job.distinct(), Missing(work.job, store).count()
        lines = [
            f"queries         {work.job.mined.num_rows}",
            f"distinct pairs  {distinct}",
            f"already scored  {distinct - missing}",
            f"to be asked     {missing}" + (" at most: early stop" if recipe.early_stop else ""),
        ]
        quote = work.quote()
        if rate is None and measure:
            rate = _measured(work, store, measure)
            work.check(store)
    if rate is not None:
        quote = quote._replace(rate=rate)
    return "\n".join([*lines, *_described(quote, missing)])


def job_status(recipe_path: Path | str, overrides: Sequence[str]) -> str:
    """Return what of a job is scored, failed and missing."""
    recipe = load_recipe(recipe_path, ScoreRecipe, overrides)
    store = ScoreStore(recipe.store)
    job = ScoringWork.of(recipe).job
    needed = Missing(job, store, early=recipe.early_stop).needed()
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for group in job.groups:
        keys = list(dict.fromkeys(key for number in group.tolist() for key in job.keys(number)))
        found = store.find(keys)
        counts["missing"] += int((~found.known).sum())
        counts["scored"] += int((~np.isnan(found.values)).sum())
        reasons.update(kind_of_reason(reason) for reason in store.reasons(keys).values())
    kept = store.summary()
    lines = [
        f"scored     {counts['scored']}",
        f"failed     {reasons.total()}",
        *[f"  {number}: {reason}" for reason, number in reasons.most_common(10)],
        f"missing    {counts['missing']}"
        + (f", {needed} of them needed next: early stop" if recipe.early_stop else ""),
        f"store      {recipe.store}: {kept['rows']} scores, {kept['shards']} shards, "
        f"{kept['logs']} writers at work",
    ]
    return "\n".join(lines)


def _described(quote: Quote, pairs: int) -> list[str]:
    estimate, hours, cost = quote.estimate, quote.hours(pairs), quote.cost(pairs)
    lines = [
        f"tokens          about {estimate.tokens * pairs:.3g}, "
        f"{estimate.computed * pairs:.3g} with the queries' prefixes cached",
        f"images          {estimate.images * pairs:.0f}",
        "hours           unknown: give --rate, or --measure 500"
        if hours is None
        else f"hours           {hours:.2f} at {quote.rate:.1f} pairs a second",
    ]
    if cost is not None:
        lines.append(f"cost            {cost:.2f} {quote.prices.currency}")
    return lines


def _measured(work: ScoringWork, store: ScoreStore, pairs: int) -> float | None:
    recipe = work.recipe
    outcome = score_missing(
        work.job,
        work.engine,
        store,
        block_queries=recipe.block_queries,
        budget=SpendingLimit(calls=float(pairs)),
        early=recipe.early_stop,
    )
    done = outcome.scored + outcome.failed
    if not done:
        return None
    rate = done / outcome.seconds
    note_rate(Path(recipe.output), work.job.fingerprint, rate)
    return rate
