"""Build the offline world: data sets in real layouts, and the truth about them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from research.world import (
    classification,
    composing,
    compositional,
    grounding,
    layout,
    retrieval,
    vqa,
)
from research.world.candidates import candidate_lists
from research.world.examples import GenerationPlan, ScenePicture, WorldTask
from research.world.planting import FALSE_NEGATIVE_KINDS
from unime.core import console, files
from unime.core.config import Recipe
from unime.core.provenance import Output
from unime.data import tables

TASKS: dict[str, WorldTask] = {
    task.name: task
    for module in (classification, vqa, retrieval, composing, grounding)
    for task in module.TASKS
}


class WorldRecipe(Recipe):
    """What to build."""

    stage: str = "world"
    seed: int = 0
    train_pairs: int = Field(default=2500, gt=0)
    """Training pairs of each task that has any."""
    queries: int = Field(default=1000, gt=0)
    """Queries of each evaluation set."""
    candidates: int = Field(default=200, ge=2)
    """Candidates a query, unless the task lists all its classes."""
    compositional: int = Field(default=500, gt=0)
    """Items of each of the seven compositional categories."""
    false_negative_rate: float = Field(default=0.2, ge=0, le=0.5)
    """Share of training queries for which another pair's positive is right as well."""
    false_negative_kinds: tuple[
        Literal["paraphrase", "under_specified", "synonym", "near_duplicate"], ...
    ] = FALSE_NEGATIVE_KINDS
    workers: int = Field(default=2, gt=0)
    """Processes; the result is the same for any number."""


RECIPE = WorldRecipe


class WorldPart(NamedTuple):
    """One folder's worth of work."""

    split: str
    """"train", "eval" or "compositional"."""
    name: str


def inputs(recipe: WorldRecipe) -> dict[str, Path]:
    """Nothing but the sprites is read."""
    return {"sprites": Path("assets/sprites/atlas.npz")}


def run(recipe: WorldRecipe, out: Output) -> None:
    """Build every part that is not there yet, then join their truth."""
    parts = list(_parts())
    missing = [part for part in parts if not _mark(out.path, part).exists()]
    for part in console.progress(_build(missing, recipe, out.path), len(missing), "world", "sets"):
        assert _mark(out.path, part).exists(), part
    layout.write_truth(
        out.path, [_work(out.path, part) for part in parts if part.split != "compositional"]
    )
    table = _instructions(recipe)
    for folder in (out.path, out.path / "train", out.path / "eval"):
        files.write_json(folder / "instructions.json", table)
    out.facts(train=recipe.train_pairs, eval=recipe.queries, tasks=sorted(TASKS))


def _parts() -> Iterator[WorldPart]:
    """Yield the parts, the longest first so that no worker idles at the end."""
    yield from (WorldPart("eval", task.name) for task in TASKS.values())
    yield from (WorldPart("train", task.name) for task in TASKS.values() if task.trained)
    yield from (WorldPart("compositional", name) for name in compositional.CATEGORIES)


def _build(parts: list[WorldPart], recipe: WorldRecipe, folder: Path) -> Iterator[WorldPart]:
    """Build parts in this process or in several."""
    if recipe.workers == 1 or len(parts) < 2:
        for part in parts:
            yield build_part(part, recipe, folder)
        return
    with ProcessPoolExecutor(recipe.workers, get_context("spawn")) as pool:
        futures = [pool.submit(build_part, part, recipe, folder) for part in parts]
        try:
            for future in futures:
                yield future.result()
        finally:
            # After SIGTERM the parts that have not begun are left for the next run.
            pool.shutdown(wait=False, cancel_futures=True)


def build_part(part: WorldPart, recipe: WorldRecipe, folder: Path) -> WorldPart:
    """Build one part: its pictures, then its truth, and last the table that marks it done."""
    seed = zlib.crc32(f"{part.split}/{part.name}".encode())
    rng = np.random.default_rng([recipe.seed, seed])
    location = f"images/{part.split}/{part.name}"
    with files.atomic_folder(folder / location) as temporary:
        pictures = layout.PictureWriter(temporary, location)
        if part.split == "compositional":
            result: dict[str, Any] | Tables = _compositional(part.name, recipe, rng, pictures)
        else:
            generate = _train if part.split == "train" else _eval
            result = generate(TASKS[part.name], recipe, rng, pictures)
    if isinstance(result, Tables):
        work = _work(folder, part)
        tables.write_table(work / "truth.parquet", result.truth)
        tables.write_table(work / "planted.parquet", result.planted)
        tables.write_table(_mark(folder, part), result.rows)
    else:
        files.write_json(_mark(folder, part), result)
    return part


class Tables(NamedTuple):
    """What a part of training or evaluation writes."""

    rows: pa.Table
    truth: pa.Table
    planted: pa.Table


def _train(
    task: WorldTask, recipe: WorldRecipe, rng: np.random.Generator, pictures: layout.PictureWriter
) -> Tables:
    """Generate a training set."""
    plan = GenerationPlan(
        rng,
        recipe.train_pairs,
        "train",
        recipe.false_negative_rate,
        recipe.false_negative_kinds,
        corpus=True,
    )
    examples = [example for family in task.generate(plan) for example in family]
    contents = [content for e in examples for content in (e.query, e.target)]
    return Tables(
        layout.train_table(task, examples, pictures),
        layout.truth_table(task.name, "train", contents, pictures),
        layout.planted_table(task.name, plan.planted, pictures),
    )


def _eval(
    task: WorldTask, recipe: WorldRecipe, rng: np.random.Generator, pictures: layout.PictureWriter
) -> Tables:
    """Generate an evaluation set."""
    families = task.generate(GenerationPlan(rng, recipe.queries, "eval"))
    listed = candidate_lists(task, families, recipe.candidates, rng)
    contents = [row.query for row in listed]
    contents += [content for row in listed for _, content in row.candidates]
    return Tables(
        layout.eval_table(task, listed, pictures),
        layout.truth_table(task.name, "eval", list(dict.fromkeys(contents)), pictures),
        layout.planted_table(task.name, [], pictures),
    )


def _compositional(
    category: str, recipe: WorldRecipe, rng: np.random.Generator, pictures: layout.PictureWriter
) -> dict[str, Any]:
    """Generate a compositional category."""
    drawn = compositional.items(category, recipe.compositional, "eval", rng)
    return {
        str(number): {
            "filename": pictures.name(ScenePicture(item.scene)),
            "caption": item.caption,
            "negative_caption": item.negative,
        }
        for number, item in enumerate(drawn)
    }


def _mark(folder: Path, part: WorldPart) -> Path:
    """Return the file that is written last."""
    if part.split == "compositional":
        return folder / "compositional" / f"{part.name}.json"
    table = "train.parquet" if part.split == "train" else "test.parquet"
    return folder / part.split / part.name / table


def _work(folder: Path, part: WorldPart) -> Path:
    return folder / "parts" / part.split / part.name


def _instructions(recipe: WorldRecipe) -> dict[str, dict[str, Any]]:
    """Return what readers and evaluation must know of every task."""
    return {
        task.name: {
            "query_instruction": task.query_instruction,
            "target_instruction": task.target_instruction,
            "meta_task": task.meta_task,
            "split": "ind" if task.trained else "ood",
            "in_batch": task.in_batch,
            "queries": recipe.queries,
        }
        for task in TASKS.values()
    }
