"""`unime mine`: each query's nearest candidates in the whole corpus of its task.

The corpus of a task are the distinct targets of its pairs. A candidate is never a known positive
of the query's content within the task, nor the query's own content. The miner must already be a
contrastively trained embedder: the warm-up checkpoint, or any other.

Every distinct input is encoded once, in parts of `PART` that are saved as they come: a killed
run continues with the first missing part, in the same batches, so the bytes are the same. Several
processes (accelerate launch) share the parts, and then the queries of each task.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from pydantic import Field

from unime.core import console, processes
from unime.core.config import Recipe
from unime.core.errors import DataError
from unime.core.provenance import Output
from unime.data.data_folder import DataFolder
from unime.data.tables import MINED, write_table
from unime.mine.task_plan import StoredEmbeddings, TaskPlan, TaskResult, plan_task
from unime.models.model_config import ModelConfig

RECALL_AT = (1, 5, 10, 50)


class MineRecipe(Recipe):
    """Find candidates for the pairs of a data folder."""

    data: str
    """The output of `unime data`."""
    model: ModelConfig
    """The miner."""
    candidates: int = Field(default=50, gt=0)
    """How many candidates a query gets; the positive is not among them."""
    splits: tuple[str, ...] = ("train",)
    """Whose pairs are mined; their targets and own negatives are the corpus."""
    queries: int | None = Field(default=None, gt=0)
    """Only so many distinct queries of each task ask, for a first look or a judge with a budget; the
    corpus stays whole. Drawn by content, so they are the same ones for every model."""
    max_similarity_to_positive_margin: float | None = Field(default=None, ge=-2, le=2)
    """Drop candidates more similar than the positive plus this; off, since such a cut hides from
    the judge the false negatives and the hardest negatives alike."""
    batch_size: int = Field(default=64, gt=0)


RECIPE = MineRecipe


def inputs(recipe: MineRecipe) -> dict[str, Path]:
    """Return what the stage reads."""
    return {"data": Path(recipe.data), "model": Path(recipe.model.id)}


def run(recipe: MineRecipe, out: Output) -> None:
    """Mine every task and write `mined.parquet`."""
    from unime.data.image_processor import check_items
    from unime.models.embedder import Embedder

    data = DataFolder.open(recipe.data)
    plans = [
        plan
        for name in data.tasks
        if len((plan := plan_task(data, name, recipe.splits, recipe.queries)).pairs)
    ]
    if not plans:
        raise DataError(f"{recipe.data} has no pairs in the splits {', '.join(recipe.splits)}")
    distinct = list(dict.fromkeys(e for plan in plans for e in (*plan.queries, *plan.corpus)))
    check_items(data, recipe.model, out.file("unusable.jsonl"))
    embedder = Embedder.load(recipe.model)
    stored = StoredEmbeddings(out.file("embeddings"), distinct)
    stored.fill(data, embedder, recipe.batch_size)
    processes.wait()
    results = []
    for number, plan in enumerate(plans, start=1):
        queries, targets = stored.read(plan.queries), stored.read(plan.corpus)
        found = search(plan.own_part(), queries, targets, recipe)
        results.append(TaskResult.joined(processes.gather(found)))
        console.log(
            f"mine {number}/{len(plans)} {plan.task}: {len(plan.pairs)} pairs, "
            f"{len(plan.corpus)} targets, {_sentence(results[-1].ranks)}"
        )
    if not processes.is_main():
        return
    write_table(out.file("mined.parquet"), _mined_table(plans, results))
    _report(out, plans, results, recipe.candidates)
    out.facts(
        encodes=len(distinct),
        fingerprint=embedder.fingerprint,
        preprocessing=embedder.preprocessing,
    )


def search(
    plan: TaskPlan,
    queries: Float[np.ndarray, "queries dim"],
    targets: Float[np.ndarray, "corpus dim"],
    recipe: MineRecipe,
) -> TaskResult:
    """Return the nearest admissible candidates of each pair, and its first positive's rank."""
    import torch

    from unime.mine.exact_search import exact_ranks, exact_topk

    device = "cuda" if torch.cuda.is_available() else "cpu"
    of_pairs = queries[plan.query_of]
    ranks, own = exact_ranks(of_pairs, targets, plan.positive_of, plan.excluded, device=device)
    margin = recipe.max_similarity_to_positive_margin
    ceilings = None if margin is None else own + np.float32(margin)
    places, similarities = exact_topk(
        of_pairs, targets, recipe.candidates, plan.excluded, ceilings, device=device
    )
    items = np.array([one.item for one in plan.corpus], dtype=np.int32)
    candidates = np.where(places >= 0, items[places], np.int32(-1))
    return TaskResult(candidates, similarities, own, ranks)


def _mined_table(plans: Sequence[TaskPlan], results: Sequence[TaskResult]) -> pa.Table:
    candidates = np.concatenate([result.candidates for result in results])
    similarities = np.concatenate([result.similarities for result in results])
    present = candidates >= 0
    offsets = pa.array(np.concatenate([[0], present.sum(axis=1).cumsum()]), pa.int32())

    def numbers(values: Sequence[np.ndarray], kind: type) -> pa.Array:
        return pa.array(np.concatenate(values).astype(kind))

    columns = [
        numbers([plan.pairs for plan in plans], np.int32),
        pa.ListArray.from_arrays(offsets, pa.array(candidates[present])),
        pa.ListArray.from_arrays(offsets, pa.array(similarities[present].astype(np.float16))),
        numbers([result.positive_similarities for result in results], np.float16),
        numbers([result.ranks for result in results], np.int32),
    ]
    return pa.Table.from_arrays(columns, schema=MINED)


def recall_at(ranks: Int[np.ndarray, " pairs"]) -> dict[str, float]:
    """Return the share of positives among the first 1, 5, 10 and 50, in percent."""
    return {f"recall@{k}": round(100 * float((ranks <= k).mean()), 2) for k in RECALL_AT}


def _report(
    out: Output, plans: Sequence[TaskPlan], results: Sequence[TaskResult], wanted: int
) -> None:
    ranks = np.concatenate([result.ranks for result in results])
    short = sum(int((result.candidates < 0).any(axis=1).sum()) for result in results)
    console.log(f"mine: all {len(plans)} tasks, {len(ranks)} pairs: {_sentence(ranks)}")
    if short:
        console.log(f"mine: {short} pairs have fewer than {wanted} admissible candidates")
    out.facts(
        recall=recall_at(ranks),
        recall_by_task={
            plan.task: recall_at(result.ranks) for plan, result in zip(plans, results, strict=True)
        },
        pairs=len(ranks),
        pairs_with_fewer_candidates=short,
    )


def _sentence(ranks: np.ndarray) -> str:
    return "positives' " + ", ".join(
        f"{name} {value:.1f}" for name, value in recall_at(ranks).items()
    )
