"""`ContrastBatch.related`: every further known positive of a query, masked or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.folder import FolderBuilder
from tests.train.test_contrast import make_source
from unime.data.data_folder import DataFolder
from unime.train.batch import ContrastIndices, Layout
from unime.train.contrast_batches import ContrastLayout

BATCH = 8


def build(folder: Path, in_batch: bool) -> DataFolder:
    """Queries with several positives over several rows, splits, tasks and instructions."""
    builder = FolderBuilder(folder)
    for number in range(16):
        # Four contents, each of them the query of four rows.
        text, twin = f"query {number % 4}", f"answer {(number + 4) % 8}"
        positives = [builder.item(f"answer {number % 8}")]
        if number % 3 == 0:
            positives.append(builder.item(text))  # its own content
        negatives = [builder.item(twin), builder.item(f"query {(number + 1) % 4}")]
        way = f"way {number % 2}"
        split = "dev" if number in (5, 6) else "train"
        builder.pair(
            "t", builder.item(text), positives, negatives=negatives, split=split,
            target_instruction=way,
        )  # fmt: skip
    for number in range(8):
        # What is known in another task says nothing about this one.
        builder.pair("u", builder.item(f"query {number % 4}"), [builder.item(f"answer {number}")])
    return builder.write({"t": in_batch})


def expected(data: DataFolder, layout: Layout, pairs: list[int]) -> list[list[bool]]:
    """The definition as loops over the tables."""
    assert isinstance(layout.indices, ContrastIndices)
    width = layout.indices.related.shape[1]
    candidates = [data.items.content_id(one.item) for one in layout.inputs[-width:]]
    everything = [data.pair(number) for number in range(len(data.pairs))]
    table = []
    for line, number in enumerate(pairs):
        asked = data.items.content_id(data.pair(number).query)
        known = {
            data.items.content_id(item)
            for other in everything
            if other.task == data.pair(number).task and data.items.content_id(other.query) == asked
            for item in other.positives
        }
        own = candidates[int(layout.indices.positive[line])]
        table.append([one in known and one not in (asked, own) for one in candidates])
    return table


@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_it_equals_the_definition(masked: bool, in_batch: bool, tmp_path: Path):
    data = build(tmp_path / "d", in_batch)
    layouts = make_source(data, BATCH, masked=masked).layout
    assert isinstance(layouts, ContrastLayout)
    tasks, found = set(), 0
    for number in range(2 * layouts.batches.epoch_length):
        layout, draw = layouts.layout(number), layouts.batches[number]
        indices = layout.indices
        assert isinstance(indices, ContrastIndices)
        pairs = layouts.rows.pair[draw.rows].tolist()
        assert indices.related.tolist() == expected(data, layout, pairs)
        if masked:
            assert not (indices.related & indices.allowed).any()
        else:
            # Told all the same, where the losses take them for negatives.
            found += int((indices.related & indices.allowed).sum())
        tasks.add(draw.task)
        found += int(indices.related.sum())
        record = indices.record(torch.zeros(len(layout.inputs), 3))
        assert torch.equal(record.related, indices.related)
    assert tasks == {"t", "u"} and found > 2 * BATCH


def test_it_is_no_matter_of_allowed(tmp_path: Path):
    """The same candidates are related with and without masks, where both have the same columns."""
    data = build(tmp_path / "d", in_batch=False)
    with_masks, without = (
        make_source(data, BATCH, masked=masked).layout for masked in (True, False)
    )
    numbers = [n for n in range(12) if with_masks.batches[n].task == "t"]
    assert len(numbers) > 2
    for number in numbers:
        one, other = with_masks.layout(number), without.layout(number)
        assert one.inputs == other.inputs
        assert isinstance(one.indices, ContrastIndices) and isinstance(
            other.indices, ContrastIndices
        )
        np.testing.assert_array_equal(one.indices.related, other.indices.related)
