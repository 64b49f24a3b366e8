"""One row of data, from reader to gradient: ten records, and no room entered twice.

    Row              a row of a source: its pairs, or why it cannot be used     readers.read
    Pair             a query, its positives and negatives, of Items             a reader's `pairs`
    DataFolder       the tables on disk (with PairColumns, the pairs as arrays) DataFolder.open
    TrainingRows     pairs with the negatives and scores they are trained with  TrainingRows.own, .selected
    Draw             which rows make up batch n                                 TaskBatches[n]
    Layout           its distinct inputs, sizes, index tensors                  ContrastLayout.layout
    ChunkPlan        which inputs go through the model together, and where      plan_chunks
    Encode           one input, its image decoded                               ContrastLayout.load
    Batch            Chunks of features                                         BatchSource[n]
    ContrastBatch    embeddings and index tensors: what a loss is given         ContrastIndices.record

`unime data` lies between Pair and DataFolder: it writes the one and leaves the other's tables.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from itertools import groupby
from typing import Any

import pytest

from unime.data.data_folder import DataFolder, Items
from unime.data.items import Item, Pair
from unime.data.readers import READERS, read
from unime.data.readers.base import ReadRow
from unime.data.training_rows import PairColumns, TrainingRows
from unime.losses import LOSSES, ContrastBatch
from unime.losses.combine import record_of
from unime.models.inputs import ModelInput
from unime.train.batch import Batch, Chunk, ContrastIndices, Indices, Layout
from unime.train.chunking import ChunkPlan, plan_chunks
from unime.train.contrast_batches import ContrastLayout
from unime.train.loader import BatchSource
from unime.train.sampler import Draw, TaskBatches

MOST = 10
PATH: list[tuple[type, list[Callable[..., Any]]]] = [
    (ReadRow, [read]),
    (Pair, [reader.pairs for reader in READERS.values()]),
    (DataFolder, [DataFolder.open]),
    (TrainingRows, [TrainingRows.own, TrainingRows.selected]),
    (Draw, [TaskBatches.__getitem__]),
    (Layout, [ContrastLayout.layout]),
    (ChunkPlan, [plan_chunks]),
    (ModelInput, [ContrastLayout.load]),
    (Batch, [BatchSource.__getitem__]),
    (ContrastBatch, [ContrastIndices.record]),
]
"""Each record, and what makes it, in the order of the way."""
PARTS: dict[type, type] = {
    Item: Pair,
    Items: DataFolder,
    PairColumns: DataFolder,
    Indices: Layout,
    ContrastIndices: Layout,
    Chunk: Batch,
}
"""What is a field of a record, or a view of it, is none of its own."""


def classes_in(hint: Any) -> set[type]:
    """Return every class of ours that an annotation names."""
    found = {hint} if inspect.isclass(hint) and hint.__module__.startswith("unime.") else set()
    for inner in typing.get_args(hint):
        found |= classes_in(inner)
    return found


def room_of(maker: Callable[..., Any]) -> str:
    return maker.__module__.split(".")[1]


@pytest.mark.parametrize(
    ("record", "makers"), PATH, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_makes_a_record_says_so(record: type, makers: list[Callable[..., Any]]):
    for maker in makers:
        assert record in classes_in(typing.get_type_hints(maker)["return"]), maker


def test_there_are_ten_and_no_room_is_entered_twice():
    records = [record for record, _ in PATH]
    assert len(records) == len(set(records)) <= MOST
    rooms = [room for room, _ in groupby(room_of(maker) for _, made in PATH for maker in made)]
    assert rooms == ["data", "train"]


def test_a_record_holds_what_was_listed_and_nothing_else_is_a_record():
    """Fields of the training's records, down to tensors and arrays."""
    known = {record for record, _ in PATH} | PARTS.keys()
    for record in (Draw, Layout, ChunkPlan, Batch, Chunk, ContrastIndices, ContrastBatch):
        for name, hint in typing.get_type_hints(record).items():
            strange = {c for c in classes_in(hint) - known if c.__name__ != "Gather"}
            assert not strange, f"{record.__name__}.{name} holds {strange}"


def test_the_losses_take_the_last_of_them():
    taking = [name for name, loss in LOSSES.items() if record_of(loss) == ContrastBatch.__name__]
    assert {"info_nce", "soft_label"} <= set(taking)
