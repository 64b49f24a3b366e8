"""Dev lists: what training is watched by, and what the fusion weight is fitted on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unime.data.data_folder import DataFolder
from unime.data.known_positives import KnownPositives
from unime.data.training_rows import PairColumns
from unime.models.model_config import ModelConfig
from unime.models.questions import RerankQuestion
from unime.models.rerank_model import RerankModel
from unime.rerank.question_batches import side_of
from unime.rerank.reranker import Reranker, fuse
from unime.train.dev_set import DevInputs

WEIGHTS = np.concatenate([[0.0], 1 / (1 + np.logspace(2, -2, 41)), [1.0]])
"""Candidates for the fusion weight, dense near both ends."""


class DevList(NamedTuple):
    """One dev query with its candidates."""

    pair: int
    items: Int[np.ndarray, " cands"]
    similarities: Float[np.ndarray, " cands"]
    """The embedder's; NaN without one."""
    gold: Bool[np.ndarray, " cands"]
    """May hold none: what the embedder has not found, no reranker can."""


class RerankDev:
    """A fixed sample of each task's dev rows with short candidate lists.

    Args:
        data: the data folder.
        columns: its pairs.
        known: its known positives.
        queries: at most so many rows a task.
        candidates: length of a list.
        retriever: the embedder whose first candidates are reranked; without one a list is the
            positive among targets drawn from the task's dev rows.
    """

    def __init__(
        self,
        data: DataFolder,
        columns: PairColumns,
        known: KnownPositives,
        queries: int,
        candidates: int,
        retriever: ModelConfig | None,
    ) -> None:
        self._data, self._known, self._contents = data, known, known.contents
        self.columns = columns
        self.lists: dict[str, list[DevList]] = {}
        dev = data.split("dev")
        embed = _Embed(data, columns, retriever) if retriever is not None and queries else None
        for number, name in enumerate(columns.tasks):
            rows = dev[columns.task[dev] == number]
            if len(rows) == 0 or queries == 0:
                continue
            rng = np.random.default_rng(number)
            chosen = np.sort(rng.permutation(rows)[:queries])
            self.lists[name] = self._task_lists(name, rows, chosen, candidates, embed, rng)

    @property
    def has_similarities(self) -> bool:
        """Whether an embedder chose the candidates."""
        return any(
            not np.isnan(one.similarities).any() for some in self.lists.values() for one in some
        )

    def probabilities(self, reranker: Reranker) -> dict[str, list[np.ndarray]]:
        """Return P(yes) of every candidate of every list."""
        return {
            name: [self.pointwise(reranker, one) for one in some]
            for name, some in self.lists.items()
        }

    def pointwise(self, reranker: Reranker, one: DevList) -> np.ndarray:
        """Return P(yes) of every candidate of one list."""
        question = self.question(one, one.items)
        return reranker.pointwise(question.query, question.candidates, question.instruction)

    def hits(self, model: RerankModel) -> dict[str, float]:
        """Return hit@1 of each task, and their mean as "hit@1"; ties count against."""
        return self._hits(self.probabilities(Reranker(model)))

    def fit_fusion(
        self, probabilities: dict[str, list[np.ndarray]]
    ) -> tuple[float, dict[str, float]]:
        """Return the weight with the best mean hit@1, and hit@1 of embedder, reranker and both.

        Among equal weights the middle one of the first run of them: the ends of a plateau are the
        likelier to be luck.
        """
        means = np.array([self._fused(probabilities, weight) for weight in WEIGHTS])
        first = int(means.argmax())
        last = first
        while last + 1 < len(means) and means[last + 1] == means[first]:
            last += 1
        middle = (first + last) // 2
        facts = {"embedder": means[0], "reranker": means[-1], "fused": means[middle]}
        return float(WEIGHTS[middle]), {name: float(value) for name, value in facts.items()}

    def question(self, one: DevList, items: np.ndarray) -> RerankQuestion:
        """Return the question in which of some candidates is best."""
        query = side_of(self._data, int(self.columns.query[one.pair]))
        sides = tuple(side_of(self._data, int(item)) for item in items)
        return RerankQuestion(self._instruction(one.pair), query, sides, is_list=True)

    def _fused(self, probabilities: dict[str, list[np.ndarray]], weight: float) -> float:
        scores = {
            name: [
                fuse(values, one.similarities, weight)
                for values, one in zip(probabilities[name], some, strict=True)
            ]
            for name, some in self.lists.items()
        }
        return self._hits(scores)["hit@1"]

    def _hits(self, scores: dict[str, list[np.ndarray]]) -> dict[str, float]:
        hits = {
            f"{name}_hit@1": float(
                np.mean(
                    [_hit(values, one.gold) for values, one in zip(scores[name], some, strict=True)]
                )
            )
            for name, some in self.lists.items()
        }
        return {"hit@1": float(np.mean(list(hits.values()))), **hits}

    def _instruction(self, pair: int) -> str:
        return self.columns.query_instructions[self.columns.query_instruction[pair]]

    def _task_lists(
        self,
        name: str,
        rows: np.ndarray,
        chosen: np.ndarray,
        candidates: int,
        embed: _Embed | None,
        rng: np.random.Generator,
    ) -> list[DevList]:
        starts = self.columns.starts
        members = np.concatenate(
            [np.arange(int(starts[row]), int(starts[row + 1])) for row in rows.tolist()]
        )
        pool = self.columns.positives[members]
        _, first = np.unique(self._contents[pool], return_index=True)
        pool = pool[first]
        similarity = None if embed is None else embed(name, chosen, pool)
        lists = []
        for number, row in enumerate(chosen.tolist()):
            query = self._contents[self.columns.query[row]]
            own = self._contents[self.columns.positives[starts[row] : starts[row + 1]]]
            gold = np.isin(self._contents[pool], own)
            allowed = self._known.allowed(name, np.array([query]), self._contents[pool])[0]
            if similarity is None:
                others = rng.permutation(np.flatnonzero(allowed & ~gold))[: candidates - 1]
                places = np.concatenate([np.flatnonzero(gold)[:1], others])
                found = np.full(len(places), np.nan)
            else:
                usable = np.flatnonzero(allowed | gold)
                order = np.argsort(-similarity[number, usable], kind="stable")
                places = usable[order][:candidates]
                found = similarity[number, places].astype(np.float64)
            lists.append(DevList(row, pool[places], found, gold[places]))
        return lists


class _Embed:
    """Similarities by an embedder."""

    def __init__(self, data: DataFolder, columns: PairColumns, retriever: ModelConfig) -> None:
        from unime.models.embedder import Embedder

        self._data, self._columns = data, columns
        self._embedder = Embedder.load(retriever)

    def __call__(
        self, name: str, rows: np.ndarray, pool: np.ndarray
    ) -> Float[np.ndarray, "queries cands"]:
        """Return cosines of dev queries and a task's targets."""
        columns = self._columns
        instructions = [columns.query_instructions[i] for i in columns.query_instruction[rows]]
        target = columns.target_instructions[columns.target_instruction[rows[0]]]
        queries = DevInputs(self._data, columns.query[rows], "query", instructions)
        targets = DevInputs(self._data, pool, "target", [target] * len(pool))
        embedded = self._embedder.encode(queries, label=f"dev {name}")
        return embedded @ self._embedder.encode(targets, label=f"dev {name}").T


def _hit(scores: np.ndarray, gold: np.ndarray) -> bool:
    best = np.where(gold, scores, -np.inf).max()
    rival = np.where(gold, -np.inf, scores).max()
    return bool(best > rival)
