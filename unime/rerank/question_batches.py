"""Layout of reranking batches: batch number -> what is asked, and about whom.

A pure function of data and seed; images are opened when a question is made into features.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from unime.core.config import Section
from unime.data.data_folder import DataFolder
from unime.data.known_positives import KnownPositives
from unime.data.training_rows import PairColumns, TrainingRows
from unime.losses import LossTerm, RerankBatch
from unime.models.image_blocks import KeyedImage
from unime.models.pair_scorer import PairSide
from unime.models.questions import RerankQuestion
from unime.train.batch import Indices, ItemSizes, Layout
from unime.train.chunking import GROUP, PIXELS
from unime.train.sampler import Draw, TaskBatches

LABELS_FROM = 2
"""Outputs are the logits of yes, no, and the labels from here on."""


class ListSection(Section):
    """Lists in which the positive is to be named."""

    shortest: int = Field(default=2, ge=2)
    longest: int = Field(default=6, ge=2)
    """Lengths are drawn uniformly; a row with fewer negatives makes shorter lists."""
    count: int = Field(default=1, ge=1)
    """Lists of a row, each of another length and order; what they begin with is computed once."""

    @model_validator(mode="after")
    def _in_order(self) -> ListSection:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} is above longest {self.longest}")
        return self


class AskSection(Section):
    """What is asked about each training row."""

    hard: int = Field(default=8, ge=0)
    """How many of the row's negatives are asked about, the first ones; 1 is pairwise."""
    drawn: int = Field(default=8, ge=0)
    """How many further negatives are drawn from the task's targets."""
    lists: ListSection | None = None
    """Lists for the loss `choose`, of the positive and the row's negatives."""


@dataclass(frozen=True)
class RerankIndices(Indices):
    """Index tensors into the outputs of a batch's distinct questions."""

    slots: Int[Tensor, "batch slots"]
    """The question about each row's positive and negatives; -1 = absent."""
    scores: Float[Tensor, "batch slots"]
    lists: Int[Tensor, " lists"]
    lengths: Int[Tensor, " lists"]
    gold: Int[Tensor, " lists"]

    def record(self, outputs: Float[Tensor, "questions answers"], /) -> RerankBatch:
        """Return the record for the losses; a view of the outputs, with their gradient."""
        device = outputs.device
        slots = self.slots.to(device)
        asked = outputs[slots.clamp(min=0)]
        choice = outputs[self.lists.to(device), LABELS_FROM:]
        place = torch.arange(choice.shape[1], device=device)
        beyond = place[None, :] >= self.lengths.to(device)[:, None]
        return RerankBatch(
            yes=asked[..., 0],
            no=asked[..., 1],
            present=slots >= 0,
            scores=self.scores.to(device),
            choice=choice.masked_fill(beyond, -torch.inf),
            gold=self.gold.to(device),
        )


class _Asked(NamedTuple):
    """What is asked, by numbers: equal ones are one question."""

    query: int
    instruction: int
    items: tuple[int, ...]
    is_list: bool


class RerankLayout:
    """Batches of distinct questions, and which of them is about whose positive and negatives.

    Args:
        data: the data folder.
        columns: its pairs.
        rows: what is trained on.
        batches: which rows make up which batch.
        known: all known positives.
        sizes: estimated size of each item.
        ask: what is asked about each row.
    """

    def __init__(
        self,
        *,
        data: DataFolder,
        columns: PairColumns,
        rows: TrainingRows,
        batches: TaskBatches,
        known: KnownPositives,
        sizes: ItemSizes,
        ask: AskSection,
    ) -> None:
        self.rows, self.batches = rows, batches
        self._data, self._columns, self._sizes = data, columns, sizes
        self._known, self._contents, self._ask = known, known.contents, ask
        self._targets = {
            name: np.unique(columns.positives[_members(columns, rows.pair[places])])
            for name, places in rows.by_task(columns).items()
        }

    def layout(self, number: int) -> Layout:
        """Return what batch `number` holds; nothing is loaded."""
        draw = self.batches[number]
        asked, indices = self._ask_about(number, draw)
        questions = self._questions(asked)
        return Layout(
            name=f"task {draw.task}, pairs {self.rows.pair[draw.rows].tolist()}",
            inputs=questions,
            sizes=self._question_sizes(asked, questions),
            indices=indices,
            counts={
                "rows": len(draw.rows),
                "questions": len(questions),
                "negatives": float((indices.slots[:, 1:] >= 0).sum()) / len(draw.rows),
                "lists": len(indices.lists),
            },
        )

    def load(self, entry: RerankQuestion) -> RerankQuestion:
        """Return a question as it is: its images open themselves when they are needed."""
        return entry

    def has_negative(self, number: int, losses: Sequence[LossTerm]) -> bool:
        """Tell whether batch `number` asks about anything but positives, whatever the losses."""
        del losses
        _, indices = self._ask_about(number, self.batches[number])
        return bool((indices.slots[:, 1:] >= 0).any()) or len(indices.lists) > 0

    def _ask_about(self, number: int, draw: Draw) -> tuple[dict[_Asked, int], RerankIndices]:
        """Return a batch's distinct questions with their places, and which stands where."""
        rng = np.random.default_rng([self.batches.seed, 4, number])
        asked: dict[_Asked, int] = {}
        section = self._ask.lists
        slots, scores, lists, lengths, gold = [], [], [], [], []
        for row in draw.rows.tolist():
            pair = int(self.rows.pair[row])
            query, code = int(self._columns.query[pair]), self._columns.query_instruction[pair]
            positive, negatives, row_scores = self._candidates(row, draw, rng)
            about = [_Asked(query, int(code), (item,), False) for item in (positive, *negatives)]
            slots.append([asked.setdefault(one, len(asked)) for one in about])
            scores.append(row_scores)
            own = self._own_negatives(row, draw.task)
            if section is not None and own:
                for _ in range(section.count):
                    items, place = _shuffled(positive, own, section, rng)
                    one = _Asked(query, int(code), tuple(items), True)
                    lists.append(asked.setdefault(one, len(asked)))
                    lengths.append(len(items))
                    gold.append(place)
        return asked, RerankIndices(
            _padded(slots, -1).long(),
            _padded(scores, np.nan).float(),
            *(torch.tensor(values, dtype=torch.int64) for values in (lists, lengths, gold)),
        )

    def _questions(self, asked: Iterable[_Asked]) -> list[RerankQuestion]:
        names = self._columns.query_instructions
        return [
            RerankQuestion(
                names[one.instruction],
                side_of(self._data, one.query),
                tuple(side_of(self._data, item) for item in one.items),
                one.is_list,
            )
            for one in asked
        ]

    def _question_sizes(
        self, asked: Mapping[_Asked, int], questions: Sequence[RerankQuestion]
    ) -> Int[np.ndarray, "questions 3"]:
        """Return the questions' sizes; those that begin alike have the largest one's.

        They stand next to one another in a plan then, and go through the model together. Lists
        go through it apart.
        """
        items = [[one.query, *one.items] for one in asked]
        starts = np.cumsum([0, *map(len, items[:-1])])
        joined = np.concatenate([np.array(some) for some in items])
        sizes = np.add.reduceat(self._sizes.of(joined, [""] * len(joined), "query"), starts, axis=0)
        sizes[:, GROUP] = [one.is_list for one in asked]
        begins = [
            (question.beginning, pixels > 0)
            for question, pixels in zip(questions, sizes[:, PIXELS].tolist(), strict=True)
        ]
        own = [tuple(row) for row in sizes.tolist()]
        largest: dict[Hashable, tuple[int, ...]] = {}
        for begin, size in zip(begins, own, strict=True):
            largest[begin] = max(size, largest.get(begin, size))
        return np.array([largest[begin] for begin in begins], dtype=np.int64)

    def _candidates(
        self, row: int, draw: Draw, rng: np.random.Generator
    ) -> tuple[int, list[int], list[float]]:
        """Return a row's positive, its negatives, and all their scores."""
        pair = self.rows.pair[row]
        starts = self._columns.starts
        own = self._columns.positives[starts[pair] : starts[pair + 1]]
        judged = self.rows.scores[row]
        # A judged row means its first positive; another one every round otherwise.
        place = 0 if not np.isnan(judged[0]) else (draw.round + int(pair)) % len(own)
        hard = self._own_negatives(row, draw.task)[: self._ask.hard]
        score_of = dict(zip(self.rows.negatives[row].tolist(), judged[1:].tolist(), strict=True))
        targets = self._targets[draw.task]
        drawn = rng.choice(targets, min(self._ask.drawn, len(targets)), replace=False)
        extra = [item for item in self._allowed(row, draw.task, drawn) if item not in hard]
        scores = [float(judged[0]), *(score_of[item] for item in hard), *([np.nan] * len(extra))]
        return int(own[place]), [*hard, *extra], scores

    def _own_negatives(self, row: int, task: str) -> list[int]:
        """Return the negatives the row names, those left out that are known to be positives."""
        negatives = self.rows.negatives[row]
        return self._allowed(row, task, negatives[negatives >= 0])

    def _allowed(self, row: int, task: str, items: np.ndarray) -> list[int]:
        query = self._contents[self._columns.query[self.rows.pair[row]]]
        allowed = self._known.allowed(task, np.array([query]), self._contents[items])[0]
        return items[allowed].tolist()


def side_of(data: DataFolder, item: int) -> PairSide:
    """Return an item of a data folder as a side of a question."""
    content = data.items.item(item)
    if content.image is None:
        return PairSide(content.text)

    def load() -> object:
        return data.load_image(item)

    return PairSide(content.text, KeyedImage(data.items.content_id(item), load))  # type: ignore[arg-type]


def _shuffled(
    positive: int, negatives: Sequence[int], section: ListSection, rng: np.random.Generator
) -> tuple[list[int], int]:
    """Return a list and the positive's place in it, uniform over all places.

    UniME-V2's lists never had the positive last, and its model learnt just that.
    """
    length = int(rng.integers(section.shortest, section.longest + 1))
    others = rng.permutation(negatives)[: length - 1].tolist()
    place = int(rng.integers(0, len(others) + 1))
    return [*others[:place], positive, *others[place:]], place


def _padded(rows: Sequence[Sequence[int | float]], value: int | float) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *([value] * (width - len(row)))] for row in rows])


def _members(columns: PairColumns, pairs: np.ndarray) -> np.ndarray:
    """Return the places of some pairs' positives."""
    starts = columns.starts.tolist()
    return np.concatenate([np.arange(starts[pair], starts[pair + 1]) for pair in pairs.tolist()])
