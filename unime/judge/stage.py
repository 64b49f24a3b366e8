"""`unime judge score`: scores each distinct pair of a mined table once.

Scores go to a store that outlives the run (see `unime.judge.store`): what was scored before, by this
recipe or any other, is not asked again, and a killed run carries on where it was.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import Field, SerializeAsAny, field_serializer, model_validator

from unime.core import console, files
from unime.core.config import Recipe, Section
from unime.core.errors import RecipeError, lookup
from unime.core.provenance import Output
from unime.data.data_folder import DataFolder
from unime.data.stage_tables import read_mined
from unime.data.tables import write_table
from unime.judge.budget import FREE, UNLIMITED, Prices, SpendingLimit
from unime.judge.can_judge import check_not_embedder
from unime.judge.early_stop import EarlyStop
from unime.judge.engine import (
    ChecksData,
    Engine,
    EngineError,
    EngineOptions,
    KnownTruth,
    StreamingEngine,
)
from unime.judge.job import WHOLE, JudgeJob, Shard
from unime.judge.price import Quote, estimate_pair, known_rate
from unime.judge.scoring import Outcome, score_missing
from unime.judge.store import ScoreStore
from unime.judge.transformers_engine import TransformersOptions
from unime.judge.truth_report import report_truth
from unime.judge.vllm_engine import VllmOptions


class OwnEngines(Section):
    """Options of every engine by name, so that `engine=NAME` alone switches a recipe over.

    Adding an engine is a file and a line here: the section of a recipe that holds its options, and
    knows the engine. A package beside this one adds engines by the entry point group
    "unime.judge_engines": each entry point is such a section, under the name that recipes use.
    """

    transformers: TransformersOptions | None = None
    vllm: VllmOptions | None = None


if TYPE_CHECKING:
    Engines = OwnEngines
else:
    _added = {point.name: point.load() for point in entry_points(group="unime.judge_engines")}
    _defaults = {name: section() for name, section in _added.items()}
    Engines = type(
        "Engines", (OwnEngines,), {"__module__": __name__, "__annotations__": _added, **_defaults}
    )

ENGINES = Engines.model_fields


class ScoreRecipe(Recipe):
    """Score mined candidates, each query's positive first."""

    data: str
    """The output of `unime data`."""
    mined: str
    """The output of `unime mine`."""
    engine: str
    """Which engine scores; its options stand under `engines`."""
    engines: Engines = Engines()
    truth: str | None = None
    """The output of a world, when the true relevance is known: the oracle needs it, and the
    report then says how good the candidates and the judge are."""
    block_queries: int = Field(default=16, gt=0)
    """Queries whose candidates an engine in this process scores and saves together."""
    early_stop: EarlyStop | None = None
    """Ask about no more of a query's candidates once enough are good negatives; biases soft labels."""
    # Where scores are kept and what they cost changes none: both stay out of the manifest.
    store: str = Field(default="runs/scores", exclude=True)
    """The score store: a folder, or any URL that fsspec knows; shared by all recipes."""
    prices: Prices = Field(default=FREE, exclude=True)

    @model_validator(mode="after")
    def _engine_has_what_it_needs(self) -> ScoreRecipe:
        if getattr(_options(self), "NEEDS_TRUTH", False) and self.truth is None:
            raise RecipeError(
                f"engine '{self.engine}' needs the truth of a generated world: set truth=FOLDER to "
                "the output of its stage 'world', or choose engine=transformers"
            )
        return self

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Keep the options of the chosen engine only: others say nothing, and may be unknown today."""
        engines = values.get("engines")
        if isinstance(engines, dict):
            chosen = values.get("engine")
            values = {**values, "engines": {k: v for k, v in engines.items() if k == chosen}}
        return values

    @field_serializer("engines")
    def _chosen(self, engines: SerializeAsAny[Section]) -> dict[str, Any]:
        dumped = engines.model_dump(mode="json")
        return {self.engine: dumped[self.engine]}


RECIPE = ScoreRecipe


def inputs(recipe: ScoreRecipe) -> dict[str, Path]:
    """Return what the stage reads."""
    places = {"data": Path(recipe.data), "mined": Path(recipe.mined)}
    if recipe.truth is not None:
        places["truth"] = Path(recipe.truth)
    model = getattr(_options(recipe), "model", None)
    if model is not None:
        places["model"] = Path(model.id)
    return places


def run(recipe: ScoreRecipe, out: Output) -> None:
    """Score what is not scored yet, then write `judged.parquet` and the report."""
    with ScoreStore(recipe.store) as store:
        work = ScoringWork.of(recipe)
        if isinstance(work.engine, ChecksData):
            work.engine.check_data(work.job.data, out.file("unusable.jsonl"))
        outcome = work.score(store)
        _list_unscored(work.job, store, out)
        work.check(store)
        judged = work.job.judged_table(store)
        write_table(out.file("judged.parquet"), judged)
        _report(work.job, judged, store, out)
    if work.truth is not None:
        report_truth(work.job.data, work.job.mined, judged, work.truth, out)
    out.facts(judge=work.job.fingerprint)
    _note_outcome(outcome, out)


@dataclass(frozen=True)
class ScoringWork:
    """A recipe's job and engine."""

    recipe: ScoreRecipe
    job: JudgeJob
    engine: Engine | StreamingEngine
    truth: KnownTruth | None

    @classmethod
    def of(cls, recipe: ScoreRecipe, shard: Shard = WHOLE) -> ScoringWork:
        """Open what the recipe names."""
        truth = _load_truth(recipe.truth)
        options = _options(recipe)
        if isinstance(options, TransformersOptions):
            check_not_embedder(options.model.id, options.model.revision)
        engine = options.engine(truth)
        data = DataFolder.open(recipe.data)
        mined = read_mined(Path(recipe.mined), data)
        job = JudgeJob(data, mined, engine.fingerprint, shard)
        return cls(recipe, job, engine, truth)

    def score(
        self, store: ScoreStore, budget: SpendingLimit = UNLIMITED, *, retry: bool = False
    ) -> Outcome:
        """Score what the store lacks, and say what was done."""
        recipe = self.recipe
        outcome = score_missing(
            self.job,
            self.engine,
            store,
            block_queries=recipe.block_queries,
            budget=budget,
            retry=retry,
            early=recipe.early_stop,
            quote=self.quote(),
        )
        console.log(f"judge: {describe(outcome, recipe.prices)}")
        return outcome

    def quote(self) -> Quote:
        """Return the price of the job's pairs."""
        recipe, job = self.recipe, self.job
        return Quote(
            estimate_pair(job, getattr(_options(recipe), "model", None)),
            recipe.prices,
            known_rate(Path(recipe.output), job.fingerprint),
            recipe.early_stop is not None,
        )

    def check(self, store: ScoreStore) -> None:
        """Refuse a job without a single score: a fault of all pairs is none of a pair's.

        Raises:
            EngineError: with the most frequent reason.
        """
        if self.job.has_score(store):
            return
        examples: dict[str, str] = {}
        counts: Counter[str] = Counter()
        for group in self.job.groups:
            keys = [key for number in group.tolist() for key in self.job.keys(number)]
            for reason in store.reasons(list(dict.fromkeys(keys))).values():
                # Reasons that differ in their numbers alone are one.
                kind = kind_of_reason(reason)
                counts[kind] += 1
                examples.setdefault(kind, reason)
        if counts:  # else nothing was asked yet
            ((kind, number),) = counts.most_common(1)
            raise EngineError(
                f"not one of {counts.total()} pairs could be scored by the engine "
                f"{self.recipe.engine}; the reason of {number}: {examples[kind]}. The reasons are "
                "kept, and the output stays unfinished; when the cause is gone, the same command "
                "with --retry asks again"
            )


def kind_of_reason(reason: str) -> str:
    """Return a reason without its numbers, so that like ones are counted together."""
    return "".join("#" if sign.isdigit() else sign for sign in reason)[:100]


def describe(outcome: Outcome, prices: Prices) -> str:
    """Return one sentence about what a job did."""
    done = outcome.scored + outcome.failed
    if not done:
        return f"nothing asked, {outcome.left} pairs left" if outcome.left else "all scored before"
    parts = [f"{outcome.scored} pairs scored", f"{outcome.failed} failed"]
    parts += [f"{outcome.left} left"] if outcome.left else []
    parts.append(f"{done / outcome.seconds:.1f}/s")
    parts += [f"{outcome.usage.retries} tried again"] if outcome.usage.retries else []
    parts += [f"{outcome.spent:.2f} {prices.currency}"] if prices.known else []
    return ", ".join(parts)


def _options(recipe: ScoreRecipe) -> EngineOptions:
    lookup(ENGINES, recipe.engine, "engine")
    options = getattr(recipe.engines, recipe.engine)
    if options is None:
        raise RecipeError(
            f"engine '{recipe.engine}' has no options in this recipe; "
            f"give them under engines.{recipe.engine}"
        )
    return options


def _load_truth(folder: str | None) -> KnownTruth | None:
    if folder is None:
        return None
    points = list(entry_points(group="unime.truth"))
    if not points:
        raise RecipeError(
            f"truth: {folder}: nothing here reads the truth of a generated world; it comes with a "
            "checkout (`make setup`); leave `truth` out"
        )
    return points[0].load()(folder)


def _list_unscored(job: JudgeJob, store: ScoreStore, out: Output) -> None:
    lines = [f"{json.dumps(line)}\n" for line in job.unscored(store)]
    files.write_text(out.file("unscored.jsonl"), "".join(lines))


def _report(job: JudgeJob, judged: pa.Table, store: ScoreStore, out: Output) -> None:
    first = next(job.unscored(store), None)
    distinct = job.distinct()
    unscored, spared = job.count_unscored(store)
    console.log(
        f"judge: {distinct} distinct pairs of {judged.num_rows} queries, {unscored} unscored"
        + (f" (see unscored.jsonl; such as: {first['reason']})" if first else "")
        + (f", {spared} not asked about: early stop" if spared else "")
    )
    out.facts(distinct_pairs=distinct, unscored_pairs=unscored, spared_pairs=spared)


def _note_outcome(outcome: Outcome, out: Output) -> None:
    usage = outcome.usage
    out.note(
        judging={
            "scored": outcome.scored,
            "set_aside": outcome.failed,
            "seconds": round(outcome.seconds, 2),
            "spent": round(outcome.spent, 4),
            "calls": usage.calls,
            "tokens": usage.tokens,
            "cached_tokens": usage.cached_tokens,
            "retries": usage.retries,
        }
    )
