"""`unime eval run`: evaluate models on benchmarks; score files, a result file and a table.

Output: `pool.parquet` (what each pool row is) and, for each model, one Parquet file a task with
every query's result, `scores.json`, `scores.csv`, TREC runs and `.eval_results`; with a `reference`,
`shares.json`. A task's file marks it done, embeddings are cached by identity: a killed run repeats neither.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer
from pydantic import Field, field_validator, model_validator

from unime.core import console, files
from unime.core.config import Recipe
from unime.core.errors import DataError, RecipeError, lookup
from unime.core.overwrite import check_replaceable, has_keys
from unime.core.provenance import Output
from unime.eval import outputs
from unime.eval.benchmark import (
    Benchmark,
    BenchmarkChoice,
    TaskSpec,
    choose,
    chosen_tasks,
    specify,
)
from unime.eval.encoders.registry import ModelEntry, expand
from unime.eval.metrics import geometry
from unime.eval.pool import Pool
from unime.eval.relative_scores import shares
from unime.eval.result_table import results_table
from unime.eval.runners import RUNNERS
from unime.eval.scores import ParsedTask, TaskScores
from unime.eval.similarity import Similarities, Vectors
from unime.eval.summary import result_row, summarise
from unime.eval.task_file import load_task, save_task
from unime.eval.unusable_images import unusable

SCORES = "scores.json"
CACHE = "embeddings"
ITEMS = "pool.parquet"


class EvalRecipe(Recipe):
    """What to evaluate on what."""

    models: list[ModelEntry] = Field(min_length=1)
    """In the order of the rows of the result file."""
    benchmarks: list[BenchmarkChoice] = Field(min_length=1)
    results: str | None = None
    """Where the result file goes beside the output folder, such as `${run}/results.json`."""
    reference: str | None = None
    """A model of this recipe that the others are measured by: which share of its scores they reach
    (`shares.json`), such as a student's of its teacher's."""
    batch_size: int = Field(default=64, gt=0)
    processes: int = Field(default=1, gt=0)
    """How many encode at once, each with a model (and a GPU) of its own."""
    image_cache_gb: float = Field(default=1.0, ge=0)
    """Decoded pictures kept in memory for the next model."""
    embedding_cache: str | None = None
    """Folder where embeddings stay for later runs; unless given, they go when the run ends."""

    @field_validator("models")
    @classmethod
    def _distinct_models(cls, models: list[ModelEntry]) -> list[ModelEntry]:
        _distinct(expand(models), lambda entry: folder_name(entry.name))
        return models

    @field_validator("benchmarks")
    @classmethod
    def _distinct_benchmarks(cls, benchmarks: list[BenchmarkChoice]) -> list[BenchmarkChoice]:
        return _distinct(benchmarks, lambda choice: choice.name)

    @model_validator(mode="after")
    def _known_reference(self) -> EvalRecipe:
        if self.reference is not None:
            lookup({m.name: m for m in self.models}, self.reference, "model as reference:")
        return self


RECIPE = EvalRecipe


def inputs(recipe: EvalRecipe) -> dict[str, Path]:
    """Return the models and the benchmarks' data."""
    read = {f"model {m.name}": Path(m.source) for m in recipe.models if m.source is not None}
    rerankers = {f"reranker {m.name}": Path(m.reranker.id) for m in recipe.models if m.reranker}
    return read | rerankers | {f"benchmark {c.name}": Path(c.root) for c in recipe.benchmarks}


def run(recipe: EvalRecipe, out: Output) -> None:
    """Evaluate every model not yet evaluated here, then write rows and table.

    Raises:
        DataError: naming every file that is missing, before anything is computed.
    """
    if recipe.results is not None:
        check_replaceable(Path(recipe.results), has_keys("rows"), "unime eval run")
    selected = select(recipe.benchmarks)
    models = expand(recipe.models)
    waiting = [m for m in models if not _folder(out, m).joinpath(SCORES).is_file()]
    if waiting:
        pool, tasks = read(selected, recipe.image_cache_gb)
        _check_pictures(waiting, pool, out)
        outputs.write_items(pool, out.file(ITEMS))
        outputs.write_qrels(pool, selected, tasks, out.file("qrels"))
        for number, entry in enumerate(waiting, start=1):
            console.log(f"model {number}/{len(waiting)}: {entry.name}")
            _evaluate(entry, recipe, selected, tasks, pool, out)
    # Only now: a run killed between a model's scores and this line comes here again.
    if (cache := out.file(CACHE)).exists():
        files.remove_folder(cache)
    scores = {m.name: files.read_json(_folder(out, m) / SCORES) for m in models}
    results = {
        "rows": [result_row(m.name, scores[m.name]["benchmarks"], _cost(m.source)) for m in models]
    }
    order = {benchmark.name: [s.name for s in specs] for _, benchmark, specs in selected}
    table = results_table(results["rows"], scores, order)
    files.write_json(out.file("results.json"), results)
    files.write_text(out.file("table.txt"), table)
    files.write_text(out.file("scores.csv"), outputs.scores_csv(scores))
    if recipe.results is not None:
        files.write_json(recipe.results, results)
    if recipe.reference is not None:
        folders = {m.name: _folder(out, m) for m in models}
        files.write_json(out.file("shares.json"), shares(folders, recipe.reference))
    typer.echo(table)


Selected = list[tuple[BenchmarkChoice, Benchmark, list[TaskSpec]]]
"""Benchmarks with the tasks to evaluate."""


def select(choices: Sequence[BenchmarkChoice]) -> Selected:
    """Return the benchmarks and tasks that a recipe names.

    Raises:
        DataError: naming every file that is missing.
        RecipeError: for unknown names, or two benchmarks that would fill the same means.
    """
    benchmarks = [choose(choice) for choice in choices]
    overall = [b.name for b in benchmarks if b.role == "overall"]
    if len(overall) > 1:
        raise RecipeError(
            f"benchmarks {' and '.join(overall)} both give the overall mean of a row; "
            "evaluate them by two recipes"
        )
    selected: Selected = []
    missing: list[str] = []
    for choice, benchmark in zip(choices, benchmarks, strict=True):
        names = chosen_tasks(benchmark, choice)
        specs = [specify(benchmark, choice, name) for name in names]
        for spec in specs:
            _check_metric(spec)
        selected.append((choice, benchmark, specs))
        missing += [
            f"{spec.benchmark}, task {spec.name}: {spec.root / spec.files.format(task=spec.name)}"
            for spec in specs
            if not spec.paths()
        ]
    if missing:
        raise DataError("\n  ".join([f"{len(missing)} files are missing:", *missing]))
    return selected


def read(selected: Selected, image_cache_gb: float) -> tuple[Pool, list[Sequence[ParsedTask]]]:
    """Read all tasks once, for all models: index arrays into one pool of distinct inputs."""
    start = time.monotonic()
    pool = Pool(image_cache_gb)
    tasks = [[RUNNERS[spec.layout].read(spec, pool) for spec in specs] for *_, specs in selected]
    asked = sum(task.encodes_without_sharing for group in tasks for task in group)
    console.log(
        f"{sum(map(len, tasks))} tasks read in {time.monotonic() - start:.1f} s: "
        f"{len(pool)} distinct inputs for {asked} queries and list entries"
    )
    return pool, [list(group) for group in tasks]


def _check_pictures(models: Sequence[ModelEntry], pool: Pool, out: Output) -> None:
    """Refuse pictures that a model does not take before anything is encoded."""
    lines = unusable(models, pool)
    if lines:
        listed = out.file("unusable.txt")
        files.write_text(listed, "".join(f"{line}\n" for line in lines))
        raise DataError(
            f"{len(lines)} pictures cannot be used, all are listed in {listed}: "
            f"{'; '.join(lines[:3])}. An evaluation leaves nothing out: crop or pad them, or take "
            "the model or the benchmark out of the recipe"
        )


def _evaluate(
    entry: ModelEntry,
    recipe: EvalRecipe,
    selected: Selected,
    tasks: Sequence[Sequence[ParsedTask]],
    pool: Pool,
    out: Output,
) -> None:
    """Encode, score, and write one model's files; `scores.json` comes last and marks it done."""
    from unime.eval.encode import encode_pool
    from unime.eval.similarity import compress

    folder, start = _folder(out, entry), time.monotonic()
    cache = Path(recipe.embedding_cache) if recipe.embedding_cache else out.file(CACHE)
    matrix = out.file(CACHE) / "pool.npy"
    embeddings, fresh = encode_pool(entry, pool, cache, matrix, recipe.batch_size, recipe.processes)
    encoded = time.monotonic()
    values = compress(embeddings, entry.dims, entry.precision)
    vectors = Vectors(values, entry.name)
    similarities = _similarities(entry, vectors, pool)
    has_image = np.array([item.image is not None for item in pool.entries])
    benchmarks, shapes = {}, {}
    for (choice, benchmark, _), group in zip(selected, tasks, strict=True):
        scores = score(benchmark.name, group, similarities, folder)
        benchmarks[benchmark.name] = summarise(benchmark, scores, choice.limit)
        shapes[benchmark.name] = {
            name: geometry(vectors.values, *_rows(found), has_image)
            for name, found in scores.items()
        }
    seconds = {
        "encode": round(encoded - start, 2),
        "score": round(time.monotonic() - encoded, 2),
    }
    outputs.write_trec(pool, benchmarks, folder)
    outputs.write_eval_results([b for _, b, _ in selected], benchmarks, folder)
    timing = {"seconds": seconds, "encodes": len(pool), "encoded_now": fresh}
    files.write_json(folder / "timing.json", timing)
    facts = {
        "model": entry.model_dump(mode="json", exclude_none=True),
        "dim": int(values.shape[1]),
        "benchmarks": benchmarks,
        "geometry": shapes,
    }
    report = outputs.leaderboard_report(entry, int(values.shape[1]), benchmarks)
    files.write_json(folder / SCORES, {**report, **facts})
    console.log(f"{entry.name}: encoded in {seconds['encode']} s, scored in {seconds['score']} s")


def _similarities(entry: ModelEntry, vectors: Vectors, pool: Pool) -> Similarities:
    if entry.reranker is None:
        return vectors
    from unime.eval import two_stage

    scorer = two_stage.load_reranker(entry.reranker)
    return two_stage.Reranked(vectors, scorer, pool, entry.reranker)


def score(
    benchmark: str, tasks: Sequence[ParsedTask], similarities: Similarities, folder: Path
) -> dict[str, TaskScores]:
    """Score one benchmark's tasks; a task with a file is done and read back."""
    scores = {}
    for task in tasks:
        path = folder / benchmark / f"{task.name}.parquet"
        if not path.is_file():
            save_task(path, task.score(similarities))
        scores[task.name] = load_task(path)
    return scores


def _rows(scores: TaskScores) -> tuple[np.ndarray, np.ndarray]:
    columns = (scores.per_query[name] for name in ("query_row", "gold_row"))
    first, second = (column.to_numpy() for column in columns)
    return first, second


def _check_metric(spec: TaskSpec) -> None:
    runner = lookup(RUNNERS, spec.layout, f"layout of benchmark {spec.benchmark}:")
    if spec.metric not in runner.METRICS:
        raise RecipeError(
            f"benchmark {spec.benchmark}: layout {spec.layout} computes "
            f"{', '.join(runner.METRICS)}, not '{spec.metric}'"
        )


def _cost(model: str | None) -> dict[str, Any]:
    """Return time and memory of the stage that made a model, where it says so."""
    for folder in (Path(model), Path(model).parent) if model is not None else ():
        if (folder / "run.json").is_file():
            return files.read_json(folder / "run.json")
    return {}


def _folder(out: Output, entry: ModelEntry) -> Path:
    return out.file(folder_name(entry.name))


def folder_name(name: str) -> str:
    """Return the name of a model's folder in the output."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


def _distinct(entries: list[Any], key: Any) -> list[Any]:
    keys = [key(entry) for entry in entries]
    for name in keys:
        if not name or keys.count(name) > 1:
            raise ValueError(f"each needs a name of its own, got '{name}' {keys.count(name)} times")
    return entries
