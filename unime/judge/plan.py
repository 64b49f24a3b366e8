"""`unime judge plan` and `status`: what a job asks for and costs, and how far it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unime.core import console, files
from unime.core.config import load_recipe
from unime.core.errors import RecipeError, UnimeError
from unime.judge.budget import SpendingLimit
from unime.judge.engine import Request
from unime.judge.job import JudgeJob
from unime.judge.scoring import Missing, score_missing
from unime.judge.stage import ScoreRecipe, ScoringWork, kind_of_reason
from unime.judge.store import ScoreStore
from unime.models.model_config import ModelConfig

SAMPLE = 200
"""Queries whose texts and images stand for all when tokens are estimated."""

SIGNS_PER_TOKEN = 4.0
PIXELS_PER_TOKEN = 28 * 28
"""Rules of thumb, close to Qwen-VL's; a recipe's own figures come from a measured run."""

PROMPT_TOKENS = 80
"""Of the system text, the question and the template's turns."""


class Estimate(NamedTuple):
    """Tokens a pair, on average."""

    tokens: float
    shared: float
    """Of these, how many belong to the query's prefix, computed once for all its candidates."""
    images: float


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
        estimate = estimate_pair(work.job, store, _model(recipe))
        lines += _described(estimate, missing)
        if rate is None:
            rate = _measured(work, store, measure) if measure else _remembered(recipe)
            if measure:
                work.check(store)
    if rate is None:
        return "\n".join([*lines, "hours           unknown: give --rate, or --measure 500"])
    hours = missing / rate / 3600
    lines.append(f"hours           {hours:.2f} at {rate:.1f} pairs a second")
    if recipe.prices.known:
        cost = recipe.prices.cost(float(missing), estimate.tokens * missing, hours)
        lines.append(f"cost            {cost:.2f} {recipe.prices.currency}")
    return "\n".join(lines)


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


def estimate_pair(job: JudgeJob, store: ScoreStore, model: ModelConfig | None) -> Estimate:
    """Return the tokens of an average missing pair, estimated from some of the queries."""
    del store  # scored or not, the job's queries are alike
    step = max(1, len(job.groups) // SAMPLE)
    tokens = shared = images = pairs = 0.0
    for group in job.groups[::step]:
        for request in job.requests(group):
            query = _tokens(request, "query", model) + PROMPT_TOKENS / 2
            candidate = _tokens(request, "candidate", model) + PROMPT_TOKENS / 2
            tokens += query + candidate
            shared += query
            images += (request.query.image is not None) + (request.candidate.image is not None)
            pairs += 1
    pairs = pairs or 1.0
    return Estimate(tokens / pairs, shared / pairs, images / pairs)


def _tokens(request: Request, side: str, model: ModelConfig | None) -> float:
    content = request.query if side == "query" else request.candidate
    text = content.text + (request.instruction if side == "query" else "")
    pixels = 0.0
    if content.image is not None:
        low, high = (model.min_pixels, model.max_pixels) if model else (0, content.pixels)
        pixels = float(min(max(content.pixels, low), high))
    return len(text) / SIGNS_PER_TOKEN + pixels / PIXELS_PER_TOKEN


def _described(estimate: Estimate, pairs: int) -> list[str]:
    computed = (estimate.tokens - estimate.shared * 0.98) * pairs
    return [
        f"tokens          about {estimate.tokens * pairs:.3g}, "
        f"{computed:.3g} with the queries' prefixes cached",
        f"images          {estimate.images * pairs:.0f}",
    ]


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
    return done / outcome.seconds if done else None


def _remembered(recipe: ScoreRecipe) -> float | None:
    """Return the rate of this output's last run."""
    path = Path(recipe.output) / "run.json"
    if not path.is_file():
        return None
    try:
        judging = files.read_json(path).get("judging", {})
        done = judging.get("scored", 0) + judging.get("set_aside", 0)
        return done / judging["seconds"] if done and judging.get("seconds") else None
    except (OSError, ValueError, UnimeError, AttributeError, KeyError, TypeError) as error:
        console.log(f"judge: {path} is damaged ({error}); its rate is not used")
        return None


def _model(recipe: ScoreRecipe) -> ModelConfig | None:
    return getattr(getattr(recipe.engines, recipe.engine), "model", None)
