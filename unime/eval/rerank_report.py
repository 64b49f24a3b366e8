"""`unime eval rerank`: what a reranker does to an embedder's first candidates, on the dev split.

For each depth k: the embedder's hit@1 and recall@k (no reranker can do better), and hit@1 and
nDCG@10 after reranking pointwise, fused and listwise, with their cost a query. Beside that what an
average hides: accuracy by the place of the gold candidate in a list, and whether P(yes) is true.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer
from pydantic import Field

from unime.core import console, files
from unime.core.config import Recipe
from unime.core.errors import DataError
from unime.core.provenance import Output
from unime.data.data_folder import DataFolder
from unime.data.known_positives import KnownPositives, content_numbers
from unime.data.training_rows import PairColumns
from unime.eval.intervals import RESAMPLES, bootstrap_means, interval
from unime.models.model_config import ModelConfig
from unime.rerank.dev import DevList, RerankDev
from unime.rerank.reranker import Reranker, fuse, shuffled

BINS = 10
"""Of the reliability table."""


class RerankEvalRecipe(Recipe):
    """A reranker, the embedder before it, and how deep it reaches."""

    model: ModelConfig
    """The output model of `unime rerank`."""
    retriever: ModelConfig
    data: str
    """The output of `unime data`; its dev split is reranked."""
    queries: int = Field(default=100, gt=0)
    """Dev rows a task."""
    depths: list[int] = Field(default=[5, 10, 50, 100], min_length=1)
    permutations: int = Field(default=3, gt=0)
    """Cyclic orders of a list, averaged."""
    window: int | None = Field(default=None, gt=1)
    """Candidates in one list; longer ones are sorted by sliding windows. As many as the model has
    labels unless said otherwise; lists of pictures may need less to fit in `max_length`."""
    slots: int = Field(default=5, gt=1)
    """Length of the lists in which the gold candidate is put in every place."""
    slot_queries: int | None = Field(default=None, gt=0)
    """Dev rows a task for these; as many as `queries` unless said otherwise."""


RECIPE = RerankEvalRecipe


def inputs(recipe: RerankEvalRecipe) -> dict[str, Path]:
    """Return what the stage reads."""
    places = {"model": recipe.model.id, "retriever": recipe.retriever.id, "data": recipe.data}
    return {name: Path(place) for name, place in places.items()}


def run(recipe: RerankEvalRecipe, out: Output) -> None:
    """Measure, and write `reranking.json`."""
    data = DataFolder.open(recipe.data)
    columns = PairColumns.of(data)
    known = KnownPositives(data, content_numbers(data.items))
    depth, slot_queries = max(recipe.depths), recipe.slot_queries or recipe.queries
    most = max(recipe.queries, slot_queries)
    dev = RerankDev(data, columns, known, most, depth, recipe.retriever)
    lists, slot_lists = (
        [one for some in dev.lists.values() for one in some[:count]]
        for count in (recipe.queries, slot_queries)
    )
    if not lists:
        raise DataError(f"{recipe.data} has no dev row; set dev_count where it is made")
    reranker = Reranker.load(recipe.model)
    started = time.monotonic()
    probabilities = [
        dev.pointwise(reranker, one)
        for one in console.progress(lists, label="pointwise", unit="queries")
    ]
    seconds = (time.monotonic() - started) / sum(len(one.items) for one in lists)
    report = {
        "queries": len(lists),
        "depths": {
            str(k): _at_depth(recipe, dev, reranker, lists, probabilities, k, seconds)
            for k in recipe.depths
        },
        "by_slot": accuracy_by_slot(dev, reranker, slot_lists, recipe.slots, recipe.permutations),
        "calibration": calibration(
            np.concatenate(probabilities), np.concatenate([one.gold for one in lists])
        ),
    }
    files.write_json(out.file("reranking.json"), report)
    typer.echo(_table(report))


def _at_depth(
    recipe: RerankEvalRecipe,
    dev: RerankDev,
    reranker: Reranker,
    lists: Sequence[DevList],
    probabilities: Sequence[np.ndarray],
    k: int,
    seconds: float,
) -> dict[str, Any]:
    cut = [one._replace(items=one.items[:k], gold=one.gold[:k]) for one in lists]
    orders = {"embedder": [np.arange(len(one.items)) for one in cut]}
    orders["pointwise"] = [_order(values[:k]) for values in probabilities]
    if (weight := reranker.model.fusion) is not None:
        orders["fused"] = [
            _order(fuse(values[:k], one.similarities[:k], weight))
            for values, one in zip(probabilities, lists, strict=True)
        ]
    started = time.monotonic()
    label = f"listwise, first {k}"
    orders["listwise"] = [
        _listwise(dev, reranker, one, recipe)
        for one in console.progress(cut, label=label, unit="queries")
    ]
    costs = {"pointwise": seconds * k, "listwise": (time.monotonic() - started) / len(cut)}
    rows: dict[str, Any] = {"recall": _mean([one.gold.any() for one in cut], f"recall {k}")}
    for name, found in orders.items():
        golds = [one.gold[order] for one, order in zip(cut, found, strict=True)]
        rows[name] = {
            "hit@1": _mean([gold[0] for gold in golds], f"{name} {k}"),
            "ndcg@10": _mean([ndcg(gold) for gold in golds], f"{name} {k}"),
        }
        if name in costs:
            rows[name]["seconds_a_query"] = round(costs[name], 4)
    return rows


def accuracy_by_slot(
    dev: RerankDev,
    reranker: Reranker,
    lists: Sequence[DevList],
    length: int,
    permutations: int,
) -> dict[str, Any]:
    """Put the gold candidate in every place of one and the same list, of the embedder's first wrong ones.

    Places are those of the prompt, where the others stand as `Reranker.listwise` shuffles them.
    Measured in one order, which shows the model's own preference for places, and averaged over
    `permutations` cyclic ones, which shows what is left of it in a ranking.
    """
    usable = [one for one in lists if one.gold.any() and (~one.gold).sum() >= length - 1]
    hits = {m: np.zeros((len(usable), length)) for m in sorted({1, permutations})}
    for number, one in enumerate(console.progress(usable, label="gold slots", unit="queries")):
        gold = one.items[np.flatnonzero(one.gold)[0]]
        wrong = one.items[~one.gold][: length - 1]
        others = dev.question(one, wrong)
        wrong = wrong[shuffled(others.query, others.candidates)]
        for slot in range(length):
            asked = dev.question(one, np.insert(wrong, slot, gold))
            scores = reranker.by_order(
                asked.query, asked.candidates, asked.instruction, permutations
            )
            for m, of_m in hits.items():
                of_m[number, slot] = scores[:m].mean(axis=0).argmax() == slot
    report: dict[str, Any] = {"queries": len(usable)}
    if usable:
        report["orders"] = {str(m): _slots(of_m) for m, of_m in hits.items()}
    return report


def _slots(hits: np.ndarray) -> dict[str, Any]:
    return {
        "accuracy": float(hits.mean()),
        "slots": {str(s + 1): _mean(hits[:, s], f"slot {s}") for s in range(hits.shape[1])},
        "spread": _spread(hits),
    }


def calibration(probabilities: np.ndarray, gold: np.ndarray) -> dict[str, Any]:
    """Return the expected calibration error, and the table behind it: bins of equal width."""
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    rows = [
        {
            "pairs": int((bins == number).sum()),
            "said": float(probabilities[bins == number].mean()),
            "true": float(gold[bins == number].mean()),
        }
        for number in range(BINS)
        if (bins == number).any()
    ]
    error = sum(row["pairs"] * abs(row["said"] - row["true"]) for row in rows) / len(gold)
    return {"error": float(error), "bins": rows}


def ndcg(gold: np.ndarray, at: int = 10) -> float:
    """Return nDCG of binary relevance in ranked order."""
    gains = 1 / np.log2(np.arange(2, at + 2))
    best = gains[: int(gold.sum())].sum()
    return float((gold[:at] * gains[: len(gold[:at])]).sum() / best) if best else 0.0


def _listwise(
    dev: RerankDev, reranker: Reranker, one: DevList, recipe: RerankEvalRecipe
) -> np.ndarray:
    question = dev.question(one, one.items)
    return reranker.rank(
        question.query,
        question.candidates,
        question.instruction,
        method="listwise",
        permutations=recipe.permutations,
        window=recipe.window,
    ).order


def _order(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, kind="stable")


def _mean(values: Sequence[Any] | np.ndarray, name: str) -> dict[str, float]:
    numbers = np.asarray(values, dtype=np.float64)
    low, high = interval(bootstrap_means(numbers, name))
    return {"mean": float(numbers.mean()), "low": low, "high": high}


def _spread(hits: np.ndarray) -> dict[str, float]:
    """Return the best slot's accuracy less the worst one's; its interval lies above 0 by chance alone."""
    count = len(hits)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    low, high = interval(np.ptp(draws @ hits / count, axis=1))
    return {"mean": float(np.ptp(hits.mean(axis=0))), "low": low, "high": high}


def _table(report: dict[str, Any]) -> str:
    percent: Callable[[dict[str, float]], str] = lambda value: (  # noqa: E731
        f"{100 * value['mean']:.1f} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"
    )
    lines = []
    for depth, rows in report["depths"].items():
        lines.append(f"first {depth}: recall {percent(rows['recall'])}")
        for name, row in rows.items():
            if name != "recall":
                cost = f", {row['seconds_a_query']} s a query" if "seconds_a_query" in row else ""
                lines.append(
                    f"  {name:<10} hit@1 {percent(row['hit@1'])}, nDCG@10 "
                    f"{percent(row['ndcg@10'])}{cost}"
                )
    by_slot = report["by_slot"]
    lines.append(f"listwise by gold slot, {by_slot['queries']} queries")
    for orders, row in by_slot.get("orders", {}).items():
        slots = "; ".join(map(percent, row["slots"].values()))
        lines.append(
            f"  orders averaged: {orders}, best less worst {percent(row['spread'])}: {slots}"
        )
    lines.append(f"calibration error {report['calibration']['error']:.3f}")
    return "\n".join(lines)
