"""Batches of questions: batch number -> prepared batch, a pure function of data and seed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from unime.core.config import Section
from unime.data.training_rows import PairColumns
from unime.losses import RerankBatch
from unime.models.image_blocks import KeyedImage
from unime.models.pair_scorer import PairSide
from unime.models.questions import RerankQuestion
from unime.train.batch import Prepared
from unime.train.chunking import Size
from unime.train.row_source import RowSource, SourceParts
from unime.train.sampler import Draw

if TYPE_CHECKING:
    from unime.data.data_folder import DataFolder

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
class RerankIndices:
    """Index tensors into the outputs of a batch's distinct questions."""

    slots: Int[Tensor, "batch slots"]
    """The question about each row's positive and negatives; -1 = absent."""
    scores: Float[Tensor, "batch slots"]
    lists: Int[Tensor, " lists"]
    lengths: Int[Tensor, " lists"]
    gold: Int[Tensor, " lists"]

    def record(self, outputs: Float[Tensor, "questions answers"]) -> RerankBatch:
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


class RerankSource(RowSource):
    """Batches of distinct questions, and which of them is about whose positive and negatives.

    Args:
        ask: what is asked about each row.
        parts: see `SourceParts`; `features` takes questions, as `RerankModel.features` does.
    """

    def __init__(self, *, ask: AskSection, **parts: Unpack[SourceParts]) -> None:
        super().__init__(**parts)
        self._ask = ask
        self._targets = {
            name: np.unique(self.columns.positives[_members(self.columns, self.rows.pair[places])])
            for name, places in self.rows.by_task(self.columns).items()
        }

    def __getitem__(self, number: int) -> Prepared:
        """Return batch `number`."""
        draw = self.batches[number]
        asked, indices = self._lay_out(number, draw)
        return self._prepared(
            number,
            draw,
            asked.sizes(),
            asked.questions.__getitem__,
            indices,
            {
                "questions": len(asked.questions),
                "negatives": float((indices.slots[:, 1:] >= 0).sum()) / len(draw.rows),
                "lists": len(indices.lists),
            },
        )

    def has_negative(self, number: int) -> bool:
        """Tell whether batch `number` asks about anything but positives; nothing is loaded."""
        _, indices = self._lay_out(number, self.batches[number])
        return bool((indices.slots[:, 1:] >= 0).any()) or len(indices.lists) > 0

    def _lay_out(self, number: int, draw: Draw) -> tuple[_Asked, RerankIndices]:
        """Return a batch's distinct questions, and which of them stands where."""
        rng = np.random.default_rng([self.batches.seed, 4, number])
        asked, section = _Asked(self), self._ask.lists
        slots, scores, lists, lengths, gold = [], [], [], [], []
        for row in draw.rows.tolist():
            positive, negatives, row_scores = self._candidates(row, draw, rng)
            slots.append([asked.pair(row, item) for item in (positive, *negatives)])
            scores.append(row_scores)
            own = self._own_negatives(row, draw.task)
            if section is not None and own:
                for _ in range(section.count):
                    items, place = _shuffled(positive, own, section, rng)
                    lists.append(asked.list(row, items))
                    lengths.append(len(items))
                    gold.append(place)
        return asked, RerankIndices(
            _padded(slots, -1).long(),
            _padded(scores, np.nan).float(),
            *(torch.tensor(values, dtype=torch.int64) for values in (lists, lengths, gold)),
        )

    def _candidates(
        self, row: int, draw: Draw, rng: np.random.Generator
    ) -> tuple[int, list[int], list[float]]:
        """Return a row's positive, its negatives, and all their scores."""
        pair = self.rows.pair[row]
        starts = self.columns.starts
        own = self.columns.positives[starts[pair] : starts[pair + 1]]
        judged = self.rows.scores[row]
        # A judged row means its first positive; another one every turn otherwise.
        turn = 0 if not np.isnan(judged[0]) else (draw.turn + int(pair)) % len(own)
        hard = self._own_negatives(row, draw.task)[: self._ask.hard]
        score_of = dict(zip(self.rows.negatives[row].tolist(), judged[1:].tolist(), strict=True))
        targets = self._targets[draw.task]
        drawn = rng.choice(targets, min(self._ask.drawn, len(targets)), replace=False)
        extra = [item for item in self._allowed(row, draw.task, drawn) if item not in hard]
        scores = [float(judged[0]), *(score_of[item] for item in hard), *([np.nan] * len(extra))]
        return int(own[turn]), [*hard, *extra], scores

    def _own_negatives(self, row: int, task: str) -> list[int]:
        """Return the negatives the row names, those left out that are known to be positives."""
        negatives = self.rows.negatives[row]
        return self._allowed(row, task, negatives[negatives >= 0])

    def _allowed(self, row: int, task: str, items: np.ndarray) -> list[int]:
        query = self.contents[self.columns.query[self.rows.pair[row]]]
        allowed = self.known.allowed(task, np.array([query]), self.contents[items])[0]
        return items[allowed].tolist()

    def side(self, item: int) -> PairSide:
        """Return an item as a side of a question, its image opened when it is needed."""
        return side_of(self.data, item)

    def size(self, items: Sequence[int], *, is_list: bool) -> Size:
        """Estimate a question's size; questions about lists go through the model apart."""
        parts = self._sizes.of(items, [""] * len(items), "query")
        tokens, pixels = (
            sum(getattr(part, name) for part in parts) for name in ("tokens", "pixels")
        )
        return Size(tokens, pixels, int(is_list))


class _Asked:
    """The distinct questions of a batch."""

    def __init__(self, source: RerankSource) -> None:
        self._source = source
        self._places: dict[tuple[object, ...], int] = {}
        self.questions: list[RerankQuestion] = []
        self._sizes: list[Size] = []

    def pair(self, row: int, item: int) -> int:
        """Return the number of the question about one candidate."""
        return self._ask(row, (item,), is_list=False)

    def list(self, row: int, items: Sequence[int]) -> int:
        """Return the number of the question about a list."""
        return self._ask(row, tuple(items), is_list=True)

    def sizes(self) -> list[Size]:
        """Return the questions' sizes; those that begin alike have the largest one's.

        They stand next to one another in a plan then, and go through the model together.
        """
        largest: dict[Hashable, Size] = {}
        begins = [
            (question.beginning, size.pixels > 0)
            for question, size in zip(self.questions, self._sizes, strict=True)
        ]
        for begin, size in zip(begins, self._sizes, strict=True):
            largest[begin] = max(size, largest.get(begin, size))
        return [largest[begin] for begin in begins]

    def _ask(self, row: int, items: tuple[int, ...], *, is_list: bool) -> int:
        source = self._source
        pair = source.rows.pair[row]
        query = int(source.columns.query[pair])
        code = int(source.columns.query_instruction[pair])
        key = (query, code, items, is_list)
        if key not in self._places:
            self._places[key] = len(self.questions)
            instruction = source.columns.query_instructions[code]
            sides = tuple(source.side(item) for item in items)
            self.questions.append(RerankQuestion(instruction, source.side(query), sides, is_list))
            self._sizes.append(source.size([query, *items], is_list=is_list))
        return self._places[key]


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
