"""`unime mine`: each query's nearest candidates in the whole corpus of its task.

The corpus of a task are the distinct targets of its pairs. A candidate is never a known positive
of the query's content within the task, nor the query's own content. The miner must already be a
contrastively trained embedder: the warm-up checkpoint, or any other.

Every distinct encode is computed once, in parts of `PART` that are saved as they come: a killed
run continues with the first missing part, in the same batches, so the bytes are the same. Several
processes (accelerate launch) share the parts, and then the queries of each task.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from pydantic import Field

from unime.core import console, files, processes
from unime.core.config import Recipe
from unime.core.errors import DataError
from unime.core.provenance import Output
from unime.data.data_folder import DataFolder
from unime.data.tables import MINED, write_table
from unime.models.model_config import ModelConfig

if TYPE_CHECKING:
    from unime.models.embedder import Embedder
    from unime.models.rendering import Encode

PART = 1024
"""Encodes in one saved part; also how many decoded images are in memory at once."""

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
        share = search(plan.share(), queries, targets, recipe)
        results.append(TaskResult.joined(processes.gather(share)))
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


class ItemEncode(NamedTuple):
    """One distinct encode: an item on one side, under an instruction."""

    item: int
    side: str
    instruction: str


@dataclass(frozen=True)
class TaskPlan:
    """What is to be encoded and searched for one task."""

    task: str
    pairs: Int[np.ndarray, " pairs"]
    """Rows of the pair table."""
    queries: list[ItemEncode]
    """The distinct query encodes."""
    query_of: Int[np.ndarray, " pairs"]
    """Which query encode a pair has."""
    corpus: list[ItemEncode]
    """The distinct targets; each with the instruction of the first pair that names it."""
    positive_of: Int[np.ndarray, " pairs"]
    """Where in the corpus a pair's first positive is."""
    excluded: list[list[int]]
    """Per pair, where in the corpus its query's known positives and its own content are."""

    def share(self) -> TaskPlan:
        """Return the pairs that this process searches for, in the whole corpus."""
        rank, world = processes.ranks()
        part = slice(len(self.pairs) * rank // world, len(self.pairs) * (rank + 1) // world)
        return replace(
            self,
            pairs=self.pairs[part],
            query_of=self.query_of[part],
            positive_of=self.positive_of[part],
            excluded=self.excluded[part],
        )


@dataclass(frozen=True)
class TaskResult:
    """What was found for one task; rows of the item table."""

    candidates: Int[np.ndarray, "pairs k"]
    """-1 where the corpus has fewer."""
    similarities: Float[np.ndarray, "pairs k"]
    positive_similarities: Float[np.ndarray, " pairs"]
    ranks: Int[np.ndarray, " pairs"]

    @classmethod
    def joined(cls, shares: Sequence[TaskResult]) -> TaskResult:
        """Put the processes' shares together."""
        return cls(
            np.concatenate([share.candidates for share in shares]),
            np.concatenate([share.similarities for share in shares]),
            np.concatenate([share.positive_similarities for share in shares]),
            np.concatenate([share.ranks for share in shares]),
        )


def plan_task(
    data: DataFolder, task: str, splits: Sequence[str], limit: int | None = None
) -> TaskPlan:
    """Return what to encode and search for one task, for all queries or a sample of `limit`.

    Known positives count from every split, so that a dev answer is no negative either. Rows of
    the item table are distinct contents: equal row and equal content are the same.
    """
    known: defaultdict[int, set[int]] = defaultdict(set)
    corpus: dict[int, ItemEncode] = {}
    found: list[tuple[int, ItemEncode, int]] = []
    for row, name in enumerate(data.pairs["task"].to_pylist()):
        if name != task:
            continue
        pair = data.pair(row)
        known[pair.query].update(pair.positives)
        if pair.split not in splits:
            continue
        query = ItemEncode(pair.query, "query", pair.query_instruction)
        for item in (*pair.positives, *pair.negatives):
            target = ItemEncode(item, "target", pair.target_instruction)
            corpus.setdefault(item, target)
        found.append((row, query, pair.positives[0]))
    # Content ids are hashes: their order is a random one that depends on nothing else.
    distinct = dict.fromkeys(query.item for _, query, _ in found)
    asking = set(sorted(distinct, key=data.items.content_id)[:limit])
    chosen = [one for one in found if one[1].item in asking]
    queries = {query: number for number, query in enumerate(dict.fromkeys(q for _, q, _ in chosen))}
    place = {item: number for number, item in enumerate(corpus)}
    return TaskPlan(
        task,
        np.array([row for row, *_ in chosen], dtype=np.int32),
        list(queries),
        np.array([queries[query] for _, query, _ in chosen], dtype=np.int64),
        list(corpus.values()),
        np.array([place[positive] for *_, positive in chosen], dtype=np.int64),
        [
            sorted(place[item] for item in known[query.item] | {query.item} if item in place)
            for _, query, _ in chosen
        ],
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
    items = np.array([encode.item for encode in plan.corpus], dtype=np.int32)
    candidates = np.where(places >= 0, items[places], np.int32(-1))
    return TaskResult(candidates, similarities, own, ranks)


class StoredEmbeddings:
    """The embeddings of a list of distinct encodes: fp16, on disk, in parts of `PART`."""

    def __init__(self, folder: Path, encodes: Sequence[ItemEncode]) -> None:
        self._folder = folder
        self._encodes = encodes
        self._number = {encode: number for number, encode in enumerate(encodes)}

    def fill(self, data: DataFolder, embedder: Embedder, batch_size: int) -> None:
        """Compute the parts that are missing, each process its own."""
        rank, world = processes.ranks()
        starts = range(0, len(self._encodes), PART)
        label = f"mine: encoding {len(self._encodes)} distinct inputs"
        with ThreadPoolExecutor() as pool:
            for part, start in enumerate(console.progress(starts, label=label, unit="parts")):
                path = self._path(part)
                if part % world != rank or path.exists():
                    continue
                chosen = self._encodes[start : start + PART]
                inputs = list(pool.map(lambda encode: _load(data, encode), chosen))
                label_part = f"mine: encoding part {part + 1}/{len(starts)}"
                values = embedder.encode(inputs, batch_size=batch_size, label=label_part)
                with files.atomic_path(path) as temporary:
                    np.save(temporary, values.astype(np.float16))

    def read(self, encodes: Sequence[ItemEncode]) -> Float[np.ndarray, "encodes dim"]:
        """Return the embeddings of some of the encodes, as they are on disk."""
        numbers = np.array([self._number[encode] for encode in encodes], dtype=np.int64)
        parts, rows = np.divmod(numbers, PART)
        pieces = {
            part: np.load(self._path(part), mmap_mode="r") for part in np.unique(parts).tolist()
        }
        dim = next(iter(pieces.values())).shape[1]
        values = np.empty((len(numbers), dim), dtype=np.float16)
        for part, piece in pieces.items():
            values[parts == part] = piece[rows[parts == part]]
        return values

    def _path(self, part: int) -> Path:
        return self._folder / f"{part:05d}.npy"


def _load(data: DataFolder, encode: ItemEncode) -> Encode:
    from unime.models.rendering import Encode

    text = data.items.item(encode.item).text
    return Encode(text, data.load_image(encode.item), encode.side, encode.instruction)


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
