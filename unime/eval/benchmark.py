"""Benchmarks as data: one YAML file each in `eval/benchmarks`, read by the runner of its layout.

A new version, or a new benchmark in a known layout, is a new file and no code.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, PositiveInt, ValidationError, field_validator

from unime.core import files, inside
from unime.core.config import Section
from unime.core.errors import DataError, RecipeError, lookup
from unime.core.yaml_files import read_yaml

FOLDER = Path(__file__).parent.parent / "_benchmarks"

HUB = "hub"
"""A benchmark's `root` that stands for its data on the Hub."""


class TaskDefinition(Section):
    """One task (data set) of a benchmark; what is None here is as the benchmark says."""

    meta_task: str
    """The group whose mean it enters: classification, vqa, retrieval, grounding, swap, ..."""
    split: Literal["ind", "ood"] | None = None
    """Whether models trained on the benchmark's training sets have seen this kind of data."""
    query_instruction: str = ""
    target_instruction: str = ""
    queries: PositiveInt | None = None
    """The published number of queries, where known; `check` compares."""
    layout: str | None = None
    form: str | None = None
    metric: str | None = None
    modality: Literal["image", "video", "visdoc", "text"] | None = None
    files: str | None = None
    images: str | None = None
    hub: str | None = None
    revision: str | None = None
    side: Literal["query", "target"] = "query"
    """STS: whose prompt both texts of a pair are read under."""
    at_least: PositiveInt = 1
    """Macro accuracy: groups with fewer items are left out (ARO attribution: 25)."""


class FetchStep(Section):
    """One download of `unime eval fetch`: a Hub data set, or files at an address."""

    hub: str | None = None
    """A data set of the Hub."""
    revision: str | None = None
    files: tuple[str, ...] = ()
    """Patterns of the data set's files; all by default."""
    url: str | None = None
    """An address in place of `hub`; `{name}` stands for each of `names`."""
    names: tuple[str, ...] = ()
    into: str = ""
    """The folder below the root where the files go."""
    unpack: str | None = None
    """A pattern of zip archives below `into`, which are unpacked there and removed."""
    flatten: bool = False
    """Leave out the one folder that everything in an archive lies in."""
    tasks: tuple[str, ...] = ()
    """The tasks that are complete with it; all by default."""


class Benchmark(Section):
    """What a benchmark file says."""

    name: str
    version: str
    """Goes into every score file: scores of two versions are not compared."""
    layout: str
    """How the files are laid out and scored: a key of `unime.eval.runners.RUNNERS`."""
    form: str = ""
    """Which of the layout's file forms, where it knows several."""
    role: Literal["overall", "compositional", "retrieval"]
    """Where its scores go in a result row: the overall means, or a part of their own."""
    metric: str
    """The main metric, of which means are taken."""
    modality: Literal["image", "video", "visdoc", "text"] = "image"
    """The part of VLM2Vec's report a task belongs to."""
    files: str
    """Each task's file below the root, `{task}` standing for its name; may hold `*`."""
    images: str = ""
    """The folder below the root that image locations are relative to."""
    captions: PositiveInt | None = None
    """Retrieval: how many captions of each picture count, the first ones; all by default."""
    pictures: PositiveInt | None = None
    """Retrieval: how many pictures belong to the set, the first ones; all by default."""
    language: str | None = None
    """Which captions or queries to take where there are several languages."""
    tasks: dict[str, TaskDefinition] = Field(default_factory=dict)
    tasks_file: str | None = None
    """A JSON file below the root that defines the tasks, for generated benchmarks."""
    data: str = ""
    """Where to get it, in words."""
    hub: str | None = None
    """The Hub data set of `root: hub`; may hold `{task}`."""
    hub_form: str | None = None
    """Its `form`, where the Hub has the data in another one."""
    hub_files: str | None = None
    """Its `files`, likewise."""
    revision: str | None = None
    """The Hub data set's commit."""
    fetch: tuple[FetchStep, ...] = ()
    """How `unime eval fetch` gets the data, where `hub` alone does not say it."""
    licence: str
    citation: str


class BenchmarkChoice(Section):
    """A benchmark as a recipe names it."""

    name: str
    """A file in eval/benchmarks without its ending, or the path of another such file."""
    root: str
    """The folder that holds its data, or `hub` for the data set that the benchmark names."""
    files: str | None = None
    """In place of the benchmark's own `files`, for data laid out otherwise."""
    images: str | None = None
    """In place of the benchmark's own `images`."""
    form: str | None = None
    """In place of the benchmark's own `form`."""
    language: str | None = None
    """In place of the benchmark's own `language`."""
    tasks: list[str] | None = None
    """Only these: names, patterns (`ViDoRe_*`), meta-tasks or modalities; means of groups that
    miss a task are then marked incomplete."""
    limit: PositiveInt | None = None
    """Only the first queries of each task; means are then marked incomplete."""

    @field_validator("name")
    @classmethod
    def _known_name(cls, name: str) -> str:
        if not name.endswith(".yaml"):
            lookup(known_benchmarks(), name, "benchmark")
        return name


class TaskSpec(NamedTuple):
    """One task with everything its runner needs to know, and where its data lies."""

    name: str
    benchmark: str
    root: Path
    layout: str
    form: str
    metric: str
    files: str
    images: str
    language: str | None
    captions: int | None
    pictures: int | None
    """How many pictures belong to the set."""
    definition: TaskDefinition
    limit: int | None
    """Only so many queries are wanted."""

    def paths(self) -> list[Path]:
        """Return its files, in order; empty when there are none.

        Raises:
            DataError: for one that leads out of the root, or is no regular file.
        """
        pattern = self.files.format(task=self.name)
        if pattern in ("", "."):
            return [self.root] if self.root.is_dir() else []
        found = sorted(self.root.glob(pattern))
        for path in found:
            if not path.is_dir():
                inside.check_file(path, self.root)
        return found


def known_benchmarks() -> dict[str, Path]:
    """Return the benchmark files by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def choose(choice: BenchmarkChoice) -> Benchmark:
    """Return the benchmark that a recipe names, with its tasks and the recipe's changes."""
    root = None if choice.root == HUB else Path(choice.root)
    benchmark = load_benchmark(choice.name, root)
    changes = {key: getattr(choice, key) for key in ("files", "images", "form", "language")}
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
    values = read_yaml(path)
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
        RecipeError: for a name or pattern that fits no task.
    """
    if choice.tasks is None:
        return list(benchmark.tasks)
    chosen: set[str] = set()
    for pattern in choice.tasks:
        found = {
            name
            for name, task in benchmark.tasks.items()
            if fnmatchcase(name, pattern)
            or pattern in (task.meta_task, task.modality or benchmark.modality)
        }
        if not found:
            lookup(benchmark.tasks, pattern, f"task of {benchmark.name}")
        chosen |= found
    return [name for name in benchmark.tasks if name in chosen]


def specify(benchmark: Benchmark, choice: BenchmarkChoice, name: str) -> TaskSpec:
    """Return a task's specification; its data is fetched from the Hub where the recipe says so.

    Raises:
        DataError: when the Hub does not give the data.
        RecipeError: when the benchmark names no data set there.
    """
    task = benchmark.tasks[name]
    root = _from_hub(benchmark, name) if choice.root == HUB else Path(choice.root)
    hub = choice.root == HUB
    files_ = task.files or benchmark.files
    if hub:
        # A task with a data set of its own has the whole of it as its root.
        files_ = "" if task.hub else benchmark.hub_files or files_
    return TaskSpec(
        name=name,
        benchmark=benchmark.name,
        root=root,
        layout=task.layout or benchmark.layout,
        form=(hub and benchmark.hub_form) or task.form or benchmark.form,
        metric=task.metric or benchmark.metric,
        files=files_,
        images="" if hub else task.images if task.images is not None else benchmark.images,
        language=benchmark.language,
        captions=benchmark.captions,
        pictures=benchmark.pictures,
        definition=task,
        limit=choice.limit,
    )


def _from_hub(benchmark: Benchmark, name: str) -> Path:
    from huggingface_hub import snapshot_download

    task = benchmark.tasks[name]
    repo = task.hub or benchmark.hub
    if repo is None:
        raise RecipeError(
            f"benchmark {benchmark.name} is on no hub; give a folder as its root. {benchmark.data}"
        )
    revision = task.revision if task.hub else benchmark.revision
    repo = repo.format(task=name)
    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision))
    # The client raises connection, HTTP, authorisation and local-entry errors alike.
    except Exception as error:
        raise DataError(
            f"{benchmark.name}, task {name}: cannot fetch {repo} (revision {revision}): "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from None


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
