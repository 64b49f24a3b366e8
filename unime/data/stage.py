"""`unime data`: read pairs, check every image once, write the item and pair tables.

Each row read ends either in the tables or, with its reason, in rejected.jsonl.
"""

from __future__ import annotations

import glob
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from unime.core import console, files
from unime.core.config import Recipe
from unime.core.errors import DataError, RecipeError, lookup
from unime.core.provenance import Output
from unime.data import rejected
from unime.data.assemble import Contents, read_contents, write_items, write_pairs
from unime.data.dev_split import choose_dev, groups_of_pairs
from unime.data.image_check import ImageChecker
from unime.data.image_processor import ModelSection, image_processor_of, refusal
from unime.data.images import MAX_PIXELS
from unime.data.parts import count_rows, rejected_rows, write_parts
from unime.data.readers import READERS, DataSource, ResolvedSource, formats
from unime.data.readers.caption_tables import caption_tables
from unime.data.readers.hub import commits_of, hub_name, hub_state, hub_tables, is_hub
from unime.data.readers.instructions import FILE_NAME, Instructions, as_known, known_tasks


class DataRecipe(Recipe):
    """What `unime data` reads and how it splits it."""

    stage: str = "data"
    root: str
    """The data root; images are only ever opened below it, sources are relative to it."""
    sources: list[DataSource] = Field(min_length=1)
    dev_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of each task's pairs that is held out for dev."""
    dev_count: int | None = Field(default=None, ge=0)
    """In place of a share: how many pairs of each task."""
    max_reject_share: float = Field(default=0.01, ge=0, le=1)
    """The command fails when more of the rows read than this are rejected."""
    max_pixels: int = Field(default=MAX_PIXELS, gt=0, le=170_000_000)
    """Images with more pixels are rejected before they are unpacked."""
    model: ModelSection | None = None
    """The model that is to be trained on the data: images of a size that its image processor does
    not take are rejected. Without it, the first stage with a model refuses the data instead."""

    @model_validator(mode="after")
    def _one_way_to_split(self) -> DataRecipe:
        if self.dev_count is not None and self.dev_share:
            raise ValueError("dev_share and dev_count exclude each other; give one")
        return self


RECIPE = DataRecipe


def inputs(recipe: DataRecipe) -> dict[str, Path]:
    """Return the files with the rows, the model, and the root where a stage wrote it; no images.

    A data set of the Hub is named with its commit: where a branch has moved, a finished output is one
    of other inputs, and says so.
    """
    root = Path(recipe.root)
    found: dict[str, Path] = {}
    if any((root / mark).is_file() for mark in ("manifest.json", "plan.json")):
        found["root"] = root
    if recipe.model is not None:
        found["model"] = Path(recipe.model.id)
    for source in recipe.sources:
        lookup(READERS, source.reader, "reader")
        if is_hub(source):
            if hub_name(source) not in found:
                found[hub_name(source)] = hub_state(source, root)
            continue
        paths = _matches(source, root)
        if not paths:
            # Absolute, because a relative path that does not exist could be a Hub id.
            found[source.path] = (root / source.path).absolute()
        for path in paths:
            for file in _files_of(source, path, root):
                found[_name(file, root)] = file
    return found


def run(recipe: DataRecipe, out: Output) -> None:
    """Fill the output folder.

    Raises:
        DataError: when nothing can be read, or too many rows are rejected.
    """
    commits = commits_of(recipe.sources, Path(recipe.root), out.plan["inputs"])
    jobs = open_sources(recipe, commits)
    if commits:
        out.facts(hub=commits)
    cache = out.path.parent / ".cache" / "images.sqlite"
    checker = ImageChecker(recipe.root, recipe.max_pixels, cache, _refusal(recipe.model))
    start = time.monotonic()
    try:
        parts = [
            part
            for number, job in enumerate(jobs)
            for part in write_parts(job, number, checker, out)
        ]
    finally:
        checker.close()
    out.note(images_decoded=checker.decoded, reading_seconds=round(time.monotonic() - start, 2))
    _reject(recipe, parts, out)
    contents = read_contents(parts, lambda part: int(part.name.split("-")[0]))
    dev = _choose_dev(recipe, contents)
    write_items(parts, contents, out.file("items.parquet"))
    removed = write_pairs(parts, contents, dev, out.file("pairs.parquet"))
    files.write_json(out.file("tasks.json"), _tasks(contents, jobs))
    _report(jobs, contents, dev, removed, recipe, out)
    files.remove_folder(out.file("parts"))


def _refusal(model: ModelSection | None) -> Callable[[tuple[int, int]], str | None] | None:
    if model is None:
        return None
    return partial(refusal, image_processor_of(model))


def open_sources(
    recipe: DataRecipe, commits: Mapping[str, str] | None = None
) -> list[ResolvedSource]:
    """Return the recipe's sources made concrete, `*` and Hub names followed.

    Args:
        recipe: what is to be read.
        commits: of data sets of the Hub, where they were found out before.

    Raises:
        DataError: when root or source do not exist.
    """
    root = Path(recipe.root)
    if all(map(is_hub, recipe.sources)):
        root.mkdir(parents=True, exist_ok=True)
    if not root.is_dir():
        raise DataError(f"the data root {root} is no folder (working directory {Path.cwd()})")
    jobs = []
    for source in recipe.sources:
        if is_hub(source):
            for table in hub_tables(source, root, (commits or {}).get(hub_name(source))):
                task = table.source.task or table.task
                jobs.append(_job(table.source, root, table.path, task))
            continue
        paths = _matches(source, root)
        if not paths:
            raise DataError(f"source '{source.path}' matches nothing below {root}")
        jobs += [_job(source, root, path, source.task or path.stem) for path in paths]
    _check_same_task(jobs)
    return jobs


def _check_same_task(jobs: Sequence[ResolvedSource]) -> None:
    """Check that sources of one task agree on what holds for the task."""
    first: dict[str, ResolvedSource] = {}
    for job in jobs:
        other = first.setdefault(job.task, job)
        known, known_there = (j.instructions.of(job.task) for j in (job, other))
        for field in ("in_batch", "meta_task"):
            here, there = getattr(known, field), getattr(known_there, field)
            if here != there:
                raise RecipeError(
                    f"task {job.task}: {field} is {there!r} for {other.path}, {here!r} for "
                    f"{job.path}; make them agree, or give them different tasks"
                )


def _job(source: DataSource, root: Path, path: Path, task: str) -> ResolvedSource:
    places = [path, *path.parents]
    below = [place for place in places if place == root or place.is_relative_to(root)]
    given = as_known(source.model_dump())
    instructions = Instructions(known_tasks(below or places[:2]), given)
    return ResolvedSource(
        source, root, path, task, source.image_root.replace("{task}", task), instructions
    )


def _matches(source: DataSource, root: Path) -> list[Path]:
    pattern = Path(source.path)
    if pattern.is_absolute() and pattern.is_relative_to(root.absolute()):
        pattern = pattern.relative_to(root.absolute())
    if "*" not in source.path:
        path = root / pattern
        return [path] if path.exists() else []
    paths = [Path(path) for path in sorted(glob.glob(str(root / pattern)))]  # noqa: PTH207
    return [path for path in paths if path.name != FILE_NAME]


def _files_of(source: DataSource, path: Path, root: Path) -> list[Path]:
    """Return the files that identify a source; a folder stands for its listing."""
    notes = [place / FILE_NAME for place in (path, path.parent) if (place / FILE_NAME).is_file()]
    job = _job(source, root, path, "")
    if source.reader == "folder":
        tables = caption_tables(path, formats.options_of(job), source.split)
        return [*(tables or [path]), *notes]
    if path.is_dir() and any(path.glob("dataset_*.json")):
        return [path, *notes]
    return [*formats.data_files(job), *notes]


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _reject(recipe: DataRecipe, parts: Sequence[Path], out: Output) -> None:
    """List the rejected rows, and fail if they are too many."""
    read_rows, kinds = count_rows(parts)
    if not read_rows:
        raise DataError("the sources hold no rows")
    path = out.file(rejected.NAME)
    rejected.write_rejected(path, rejected_rows(parts))
    out.facts(rows=read_rows, rejected=dict(kinds.most_common()))
    count = kinds.total()
    reasons = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common(3))
    console.log(
        f"data: {read_rows} rows read, {count} rejected"
        + (f" (most frequent: {reasons}), listed in {path}" if count else "")
    )
    for reason in rejected.first_reasons(rejected_rows(parts)):
        console.log(f"  {reason}")
    if count > recipe.max_reject_share * read_rows or count == read_rows:
        # The parts hold what was found wrong; the next run shall look again.
        files.remove_folder(out.file("parts"))
        raise DataError(
            f"{count} of {read_rows} rows were rejected, more than max_reject_share "
            f"{recipe.max_reject_share:g} allows; most frequent: {reasons}; all are listed in "
            f"{path}. Fix the data or raise max_reject_share, then run this again with --restart"
        )


def _choose_dev(recipe: DataRecipe, contents: Contents) -> np.ndarray:
    pairs = np.bincount(contents.tasks, minlength=len(contents.names))
    if recipe.dev_count is None:
        targets = [math.floor(recipe.dev_share * count + 0.5) for count in pairs.tolist()]
    else:
        targets = [recipe.dev_count] * len(pairs)
    for name, count, target in zip(contents.names, pairs.tolist(), targets, strict=True):
        if target >= count > 0 and target:
            raise RecipeError(
                f"task {name} has {count} pairs, dev would take {target} of them; ask for less"
            )
    dev = choose_dev(groups_of_pairs(contents.slots), contents.tasks, contents.query_ids, targets)
    if any(targets) and not dev.any():
        raise DataError(
            f"no dev pairs can be held out of {len(dev)} pairs: all are connected by shared "
            "queries or pictures; set dev_share: 0, or bring dev data of its own"
        )
    found = np.bincount(contents.tasks[dev], minlength=len(targets)).tolist()
    for name, count, target in zip(contents.names, found, targets, strict=True):
        if count < target:
            console.log(
                f"task {name}: {count} of {target} dev pairs; larger groups of pairs are "
                "connected by shared queries or pictures and stay in train"
            )
    return dev


def _tasks(contents: Contents, jobs: Sequence[ResolvedSource]) -> list[dict[str, Any]]:
    counts = np.bincount(contents.tasks, minlength=len(contents.names)).tolist()
    found = []
    for name, count, source in zip(contents.names, counts, contents.sources, strict=True):
        known = jobs[source].instructions.of(name)
        in_batch = True if known.in_batch is None else known.in_batch
        found.append(
            {"name": name, "in_batch": in_batch, "meta_task": known.meta_task, "pairs": count}
        )
    return found


def _report(
    jobs: Sequence[ResolvedSource],
    contents: Contents,
    dev: np.ndarray,
    removed: int,
    recipe: DataRecipe,
    out: Output,
) -> None:
    unsplit = Counter[str]()
    for job in jobs:
        unsplit.update(job.instructions.unsplit)
    out.facts(
        root=recipe.root,
        items=len(contents.first_slots),
        pairs=len(dev),
        dev=int(dev.sum()),
        negatives_removed=removed,
        texts_without_known_instruction=dict(sorted(unsplit.items())),
    )
    console.log(
        f"data: {len(dev)} pairs ({int(dev.sum())} dev) over {len(contents.names)} tasks, "
        f"{len(contents.first_slots)} distinct items"
    )
    if removed:
        console.log(
            f"data: {removed} negatives show pictures of the other split and were taken out"
        )
