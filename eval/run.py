"""`python -m eval run`: evaluate models on benchmarks; score files, a result file and a table."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import typer
from pydantic import Field, field_validator

from eval.benchmark import Benchmark, BenchmarkChoice, choose, chosen_tasks
from eval.pool import Pool
from eval.runners import RUNNERS
from eval.score import ParsedTask, TaskScores
from eval.similarity import Vectors
from eval.summary import result_row, summarise
from eval.table import results_table
from unime import console, files
from unime.config import ModelConfig, Recipe, Section
from unime.errors import DataError, RecipeError, lookup
from unime.provenance import Output
from unime.tables import write_table

SCORES = "scores.json"
BLOCKS = "embeddings"


class ModelEntry(Section):
    """A model under evaluation."""

    name: str
    """How it is called in tables."""
    model: ModelConfig


class EvalRecipe(Recipe):
    """What to evaluate on what."""

    models: list[ModelEntry] = Field(min_length=1)
    """In the order of the rows of the result file."""
    benchmarks: list[BenchmarkChoice] = Field(min_length=1)
    results: str | None = None
    """Where the result file goes beside the output folder, such as `${run}/results.json`."""
    batch_size: int = Field(default=64, gt=0)
    image_cache_gb: float = Field(default=1.0, ge=0)
    """Decoded pictures kept in memory for the next model."""

    @field_validator("models")
    @classmethod
    def _distinct_models(cls, models: list[ModelEntry]) -> list[ModelEntry]:
        return _distinct(models, lambda entry: _folder_name(entry.name))

    @field_validator("benchmarks")
    @classmethod
    def _distinct_benchmarks(cls, benchmarks: list[BenchmarkChoice]) -> list[BenchmarkChoice]:
        return _distinct(benchmarks, lambda choice: choice.name)


RECIPE = EvalRecipe


def inputs(recipe: EvalRecipe) -> dict[str, Path]:
    """Return the models and the benchmarks' data."""
    models = {f"model {entry.name}": Path(entry.model.id) for entry in recipe.models}
    return models | {f"benchmark {c.name}": Path(c.root) for c in recipe.benchmarks}


def run(recipe: EvalRecipe, out: Output) -> None:
    """Evaluate every model not yet evaluated here, then write rows and table.

    Raises:
        DataError: naming every file that is missing, before anything is computed.
    """
    selected = select(recipe.benchmarks)
    waiting = [m for m in recipe.models if not _folder(out, m).joinpath(SCORES).is_file()]
    if waiting:
        pool, tasks = read(selected, recipe.image_cache_gb)
        for number, entry in enumerate(waiting, start=1):
            console.log(f"model {number}/{len(waiting)}: {entry.name}")
            _evaluate(entry, selected, tasks, pool, _folder(out, entry), recipe.batch_size)
    for entry in recipe.models:
        # Only now: a run killed between a model's scores and this line comes here again.
        if (blocks := _folder(out, entry) / BLOCKS).exists():
            files.remove_folder(blocks)
    scores = {m.name: files.read_json(_folder(out, m) / SCORES) for m in recipe.models}
    results = {
        "rows": [
            result_row(m.name, scores[m.name]["benchmarks"], _cost(m.model.id))
            for m in recipe.models
        ]
    }
    order = {benchmark.name: names for _, benchmark, names in selected}
    table = results_table(results["rows"], scores, order)
    files.write_json(out.file("results.json"), results)
    files.write_text(out.file("table.txt"), table)
    if recipe.results is not None:
        files.write_json(recipe.results, results)
    typer.echo(table)


Selected = list[tuple[BenchmarkChoice, Benchmark, list[str]]]
"""Benchmarks with the names of the tasks to evaluate."""


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
        runner = lookup(RUNNERS, benchmark.layout, f"layout of benchmark {benchmark.name}:")
        if benchmark.metric not in runner.METRICS:
            raise RecipeError(
                f"benchmark {benchmark.name}: layout {benchmark.layout} computes "
                f"{', '.join(runner.METRICS)}, not '{benchmark.metric}'"
            )
        names = chosen_tasks(benchmark, choice)
        selected.append((choice, benchmark, names))
        missing += [
            f"{benchmark.name}, task {name}: {Path(choice.root) / benchmark.files}".replace(
                "{task}", name
            )
            for name in names
            if not benchmark.paths(Path(choice.root), name)
        ]
    if missing:
        raise DataError("\n  ".join([f"{len(missing)} files are missing:", *missing]))
    return selected


def read(selected: Selected, image_cache_gb: float) -> tuple[Pool, list[Sequence[ParsedTask]]]:
    """Read all tasks once, for all models: index arrays into one pool of distinct encodes."""
    start = time.monotonic()
    pool = Pool(image_cache_gb)
    tasks = [
        RUNNERS[benchmark.layout].read(benchmark, Path(choice.root), names, choice.limit, pool)
        for choice, benchmark, names in selected
    ]
    asked = sum(task.encodes_without_sharing for group in tasks for task in group)
    console.log(
        f"{sum(map(len, tasks))} tasks read in {time.monotonic() - start:.1f} s: "
        f"{len(pool)} distinct encodes for {asked} queries and list entries"
    )
    return pool, tasks


def _evaluate(
    entry: ModelEntry,
    selected: Selected,
    tasks: Sequence[Sequence[ParsedTask]],
    pool: Pool,
    folder: Path,
    batch_size: int,
) -> None:
    """Encode, score, and write one model's files; `scores.json` comes last and marks it done."""
    from eval import encode

    start = time.monotonic()
    encoder = encode.load_encoder(entry.model)
    loaded = time.monotonic()
    embeddings = encode.encode_pool(encoder, pool, entry.name, folder / BLOCKS, batch_size)
    del encoder
    encoded = time.monotonic()
    vectors = Vectors(embeddings, entry.name)
    benchmarks = {}
    for (choice, benchmark, _), group in zip(selected, tasks, strict=True):
        scores = score(benchmark, group, vectors, folder)
        benchmarks[benchmark.name] = summarise(benchmark, scores, choice.limit)
    seconds = {
        "load": round(loaded - start, 2),
        "encode": round(encoded - loaded, 2),
        "score": round(time.monotonic() - encoded, 2),
    }
    files.write_json(folder / "timing.json", {"seconds": seconds, "encodes": len(pool)})
    facts = {"model": entry.model_dump(mode="json"), "benchmarks": benchmarks}
    files.write_json(folder / SCORES, facts)
    console.log(f"{entry.name}: encoded in {seconds['encode']} s, scored in {seconds['score']} s")


def score(
    benchmark: Benchmark, tasks: Sequence[ParsedTask], vectors: Vectors, folder: Path
) -> dict[str, TaskScores]:
    """Score one benchmark's tasks and write the per-query table."""
    scores = {task.name: task.score(vectors) for task in tasks}
    tables = []
    for name, result in scores.items():
        column = pa.DictionaryArray.from_arrays(
            pa.array([0] * result.per_query.num_rows, pa.int32()), pa.array([name])
        )
        tables.append(result.per_query.add_column(0, "task", column))
    table = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
    write_table(folder / f"{benchmark.name}.parquet", table)
    return scores


def _cost(model: str) -> dict[str, Any]:
    """Return time and memory of the stage that made a model, where it says so."""
    for folder in (Path(model), Path(model).parent):
        if (folder / "run.json").is_file():
            return files.read_json(folder / "run.json")
    return {}


def _folder(out: Output, entry: ModelEntry) -> Path:
    return out.file(_folder_name(entry.name))


def _folder_name(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


def _distinct(entries: list[Any], key: Any) -> list[Any]:
    keys = [key(entry) for entry in entries]
    for name in keys:
        if not name or keys.count(name) > 1:
            raise ValueError(f"each needs a name of its own, got '{name}' {keys.count(name)} times")
    return entries
