"""Benchmarks as data: one YAML file each in `eval/benchmarks`, read by the runner of its layout.

A new version, or a new benchmark in a known layout, is a new file and no code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from unime import files
from unime.config import Section
from unime.errors import DataError, RecipeError, lookup

FOLDER = Path(__file__).parent / "benchmarks"


class TaskDefinition(Section):
    """One task (data set) of a benchmark."""

    meta_task: str
    """The group whose mean it enters: classification, vqa, retrieval, grounding, swap, ..."""
    split: Literal["ind", "ood"] = "ind"
    """Whether models trained on the benchmark's training sets have seen this kind of data."""
    query_instruction: str = ""
    target_instruction: str = ""
    queries: int | None = None
    """The published number of queries, where known; `check` compares."""


class Benchmark(Section):
    """What a benchmark file says."""

    name: str
    version: str
    """Goes into every score file: scores of two versions are not compared."""
    layout: str
    """How the files are laid out and scored: a key of `eval.runners.RUNNERS`."""
    role: Literal["overall", "compositional", "retrieval"]
    """Where its scores go in a result row: the overall means, or a part of their own."""
    metric: str
    """The main metric, of which means are taken."""
    files: str
    """Each task's file below the root, `{task}` standing for its name; may hold `*`."""
    images: str = ""
    """The folder below the root that image locations are relative to."""
    language: str | None = None
    """Which captions to take where there are several languages."""
    tasks: dict[str, TaskDefinition] = Field(default_factory=dict)
    tasks_file: str | None = None
    """A JSON file below the root that defines the tasks, for generated benchmarks."""
    data: str = ""
    """Where to get it."""
    revision: str = ""
    licence: str
    citation: str

    def paths(self, root: Path, task: str) -> list[Path]:
        """Return the files of a task under a root, in order; empty when there are none."""
        return sorted(root.glob(self.files.format(task=task)))


class BenchmarkChoice(Section):
    """A benchmark as a recipe names it."""

    name: str
    """A file in eval/benchmarks without its ending, or the path of another such file."""
    root: str
    """The folder that holds its data."""
    files: str | None = None
    """In place of the benchmark's own `files`, for data laid out otherwise."""
    language: str | None = None
    """In place of the benchmark's own `language`."""
    tasks: list[str] | None = None
    """Only these tasks; means are then marked incomplete."""
    limit: int | None = None
    """Only the first queries of each task; means are then marked incomplete."""

    @field_validator("name")
    @classmethod
    def _known_name(cls, name: str) -> str:
        if not name.endswith(".yaml"):
            lookup(known_benchmarks(), name, "benchmark")
        return name


def known_benchmarks() -> dict[str, Path]:
    """Return the benchmark files by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def choose(choice: BenchmarkChoice) -> Benchmark:
    """Return the benchmark that a recipe names, with its tasks and the recipe's changes."""
    benchmark = load_benchmark(choice.name, Path(choice.root))
    changes = {"files": choice.files, "language": choice.language}
    return benchmark.model_copy(
        update={key: value for key, value in changes.items() if value is not None}
    )


def load_benchmark(name: str, root: Path | None = None) -> Benchmark:
    """Read a benchmark by its name or its file's path.

    Args:
        name: the benchmark.
        root: where its data lies; needed only for tasks defined by the data (`tasks_file`).

    Raises:
        RecipeError: when there is no such benchmark, or its file is wrong.
    """
    path = Path(name) if name.endswith(".yaml") else lookup(known_benchmarks(), name, "benchmark")
    if not path.is_file():
        raise RecipeError(f"no benchmark file {path} (working directory {Path.cwd()})")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        benchmark = Benchmark.model_validate(values)
        if root is not None and benchmark.tasks_file:
            tasks = _generated_tasks(root / benchmark.tasks_file)
            benchmark = Benchmark.model_validate({**values, "tasks": tasks})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise RecipeError(f"{path} is not a valid benchmark: {problems}") from None
    return benchmark


def chosen_tasks(benchmark: Benchmark, choice: BenchmarkChoice) -> list[str]:
    """Return the names of the tasks to evaluate, in the benchmark's order.

    Raises:
        RecipeError: for a task the benchmark does not have.
    """
    if choice.tasks is None:
        return list(benchmark.tasks)
    for name in choice.tasks:
        lookup(benchmark.tasks, name, f"task of {benchmark.name}")
    return [name for name in benchmark.tasks if name in choice.tasks]


def _generated_tasks(path: Path) -> dict[str, dict[str, Any]]:
    """Return task definitions from a generated file, which says more about a task."""
    if not path.is_file():
        raise DataError(f"{path} is missing; it defines the benchmark's tasks")
    # The instructions in it are split off the texts by the reader, as in training.
    known = {"meta_task", "split", "queries"}
    return {
        name: {key: value for key, value in facts.items() if key in known}
        for name, facts in files.read_json(path).items()
    }
