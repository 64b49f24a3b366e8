"""`unime eval check`: all data verified, every picture decoded, before any compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from unime.core import console
from unime.core.config import load_recipe
from unime.core.errors import DataError
from unime.eval.benchmark import (
    Benchmark,
    BenchmarkChoice,
    known_benchmarks,
    load_benchmark,
)
from unime.eval.encoders.registry import ModelEntry, expand
from unime.eval.published import published_text
from unime.eval.result_table import grid
from unime.eval.scores import ParsedTask
from unime.eval.stage import EvalRecipe, read, select
from unime.eval.unusable_images import unusable

SHOWN = 20
"""How many problems are listed."""


def check_recipe(recipe_path: Path, overrides: Sequence[str]) -> str:
    """Return what was verified.

    Raises:
        DataError: listing what is missing, damaged, of an unexpected size or refused by a model.
    """
    recipe = load_recipe(recipe_path, EvalRecipe, overrides)
    return check_benchmarks(recipe.benchmarks, recipe.models)


def check_benchmarks(choices: Sequence[BenchmarkChoice], models: Sequence[ModelEntry] = ()) -> str:
    """Return what was verified of benchmarks, for models that are to see them.

    Raises:
        DataError: listing what is missing, damaged, of an unexpected size or refused by a model.
    """
    selected = select(choices)
    pool, tasks = read(selected, image_cache_gb=0.0)
    problems = [
        problem
        for (choice, benchmark, _), group in zip(selected, tasks, strict=True)
        if choice.limit is None
        for problem in _wrong_sizes(benchmark, group)
    ]
    problems += unusable(expand(models), pool)
    pictures = pool.pictures()
    for picture in console.progress(pictures, len(pictures), "checking pictures", "picture"):
        try:
            picture.load()
        except DataError as error:
            problems.append(str(error))
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        lines = [f"{len(problems)} problems:", *problems[:SHOWN], *more]
        raise DataError("\n  ".join(lines))
    count = sum(len(task.queries) for group in tasks for task in group)
    return (
        f"{sum(map(len, tasks))} tasks, {count} queries, {len(pool)} distinct inputs, "
        f"{len(pictures)} distinct pictures: all good"
    )


def _wrong_sizes(benchmark: Benchmark, tasks: Sequence[ParsedTask]) -> list[str]:
    return [
        f"{benchmark.name}, task {task.name}: {len(task.queries)} queries, published with {known}"
        for task in tasks
        if (known := benchmark.tasks[task.name].queries) not in (None, len(task.queries))
    ]


def all_benchmarks() -> str:
    """Return one line a benchmark."""
    lines = []
    for name in known_benchmarks():
        benchmark = load_benchmark(name)
        tasks = (
            f"from {benchmark.tasks_file}" if benchmark.tasks_file else str(len(benchmark.tasks))
        )
        lines.append(
            [name, benchmark.version, benchmark.layout, benchmark.metric, tasks, benchmark.licence]
        )
    return grid(["benchmark", "version", "layout", "metric", "tasks", "licence"], lines)


def one_benchmark(name: str) -> str:
    """Return a benchmark's facts, tasks and published numbers."""
    benchmark = load_benchmark(name)
    facts = "\n".join(
        f"{key}: {value}"
        for key, value in benchmark.model_dump(exclude={"tasks", "fetch"}).items()
        if value not in (None, "")
    )
    lines = [
        [task, definition.meta_task, definition.split or "", str(definition.queries or "")]
        for task, definition in benchmark.tasks.items()
    ]
    if not lines:
        return f"{facts}\n\nThe tasks are defined by the data ({benchmark.tasks_file})."
    counts = Counter(definition.meta_task for definition in benchmark.tasks.values())
    groups = ", ".join(f"{count} {group}" for group, count in counts.items())
    table = grid(["task", "meta-task", "split", "queries"], lines)
    parts = [facts, table, f"{len(lines)} tasks: {groups}", published_text(benchmark.name)]
    return "\n\n".join(part for part in parts if part)
