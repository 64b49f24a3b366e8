"""What is asked about training rows: true, distinct, and the gold in every place."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from tests.train.folder import drawn_folder
from unime.data.known_positives import KnownPositives, content_numbers
from unime.data.training_rows import PairColumns, TrainingRows
from unime.models.model_config import ModelConfig
from unime.rerank.question_batches import AskSection, ListSection, RerankLayout, side_of
from unime.train.batch import ItemSizes
from unime.train.chunking import ChunkBudget
from unime.train.loader import BatchSource
from unime.train.sampler import TaskBatches


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return drawn_folder(tmp_path_factory.mktemp("drawn") / "d")


def source_of(data, ask: AskSection, batch_size: int = 6) -> BatchSource:
    """Rows with five mined negatives each, some of them known positives."""
    own = TrainingRows.own(data, 0)
    columns = PairColumns.of(data)
    rng = np.random.default_rng(0)
    negatives = np.stack(
        [
            rng.choice(
                columns.positives[columns.task.repeat(np.diff(columns.starts)) == columns.task[p]],
                5,
            )
            for p in own.pair
        ]
    ).astype(np.int32)
    scores = rng.random((len(own.pair), 6)).astype(np.float32)
    rows = TrainingRows(own.pair, negatives, scores)
    layout = RerankLayout(
        data=data,
        columns=columns,
        rows=rows,
        batches=TaskBatches(rows.by_task(columns), batch_size, 0),
        known=KnownPositives(data, content_numbers(data.items)),
        sizes=ItemSizes(data, ModelConfig(id="x")),
        ask=ask,
    )
    # A chunk's questions are its features.
    return BatchSource(
        layout,
        lambda questions: {"questions": list(questions)},  # type: ignore[dict-item]
        ChunkBudget(items=7),
    )


def layout_of(source: BatchSource) -> RerankLayout:
    assert isinstance(source.layout, RerankLayout)
    return source.layout


def batch_of(source: BatchSource, number: int) -> Any:
    """A batch, whose type names the indices of embedders only."""
    return source[number]


def questions_of(batch) -> list[Any]:
    placed: dict[int, Any] = {
        int(place): question
        for chunk in batch.chunks
        for place, question in zip(chunk.places, chunk.features["questions"], strict=True)
    }
    return [placed[number] for number in range(len(placed))]


def key(side) -> tuple[str, bytes]:
    return side.text, b"" if side.picture is None else side.picture.key


def known(data, pair: int) -> set[tuple[str, bytes]]:
    row = data.pair(pair)
    items = [data.items.item(i) for i in row.positives]
    ids = [data.items.content_id(i) for i in row.positives]
    return {
        (item.text, b"" if item.image is None else i) for item, i in zip(items, ids, strict=True)
    }


@pytest.mark.parametrize("drawn", [0, 3])
def test_slots_hold_the_positive_first_and_no_known_positive_after_it(data, drawn):
    source = source_of(data, AskSection(hard=3, drawn=drawn))
    for number in range(6):
        batch, draw = batch_of(source, number), source.batches[number]
        questions, slots = questions_of(batch), batch.indices.slots
        assert len({(q.instruction, *map(key, q.sides)) for q in questions}) == len(questions)
        for row, pair in zip(
            slots.tolist(), layout_of(source).rows.pair[draw.rows].tolist(), strict=True
        ):
            asked = [questions[place] for place in row if place >= 0]
            query = data.items.item(data.pair(pair).query)
            assert all(q.query.text == query.text for q in asked)
            assert all(q.instruction == data.pair(pair).query_instruction for q in asked)
            golds = known(data, pair)
            assert key(asked[0].candidates[0]) in golds
            assert not any(key(q.candidates[0]) in golds for q in asked[1:])


def test_scores_stay_with_their_candidates(data):
    source = source_of(data, AskSection(hard=5, drawn=2))
    batch, draw = batch_of(source, 0), source.batches[0]
    questions = questions_of(batch)
    for line, row in enumerate(draw.rows.tolist()):
        by_item = {
            key(side_of(data, item)): score
            for item, score in zip(
                layout_of(source).rows.negatives[row].tolist(),
                layout_of(source).rows.scores[row, 1:],
                strict=True,
            )
        }
        assert batch.indices.scores[line, 0] == layout_of(source).rows.scores[row, 0]
        for place, score in zip(
            batch.indices.slots[line, 1:].tolist(), batch.indices.scores[line, 1:], strict=True
        ):
            if place >= 0 and not torch.isnan(score):
                assert score == pytest.approx(by_item[key(questions[place].candidates[0])])


def test_the_gold_is_uniform_over_all_places_and_lengths_vary(data):
    source = source_of(data, AskSection(hard=1, drawn=0, lists=ListSection(shortest=2, longest=4)))
    places: dict[int, Counter[int]] = {}
    for number in range(260):
        batch, draw = batch_of(source, number), source.batches[number]
        indices, questions = batch.indices, questions_of(batch)
        rows = [r for r in draw.rows.tolist() if layout_of(source)._own_negatives(r, draw.task)]
        for row, place, length, gold in zip(
            rows,
            indices.lists.tolist(),
            indices.lengths.tolist(),
            indices.gold.tolist(),
            strict=True,
        ):
            question = questions[place]
            assert question.is_list and len(question.candidates) == length
            golds = known(data, int(layout_of(source).rows.pair[row]))
            assert [key(side) in golds for side in question.candidates].index(True) == gold
            assert sum(key(side) in golds for side in question.candidates) == 1
            places.setdefault(length, Counter())[gold] += 1
    assert set(places) == {2, 3, 4}
    for length, counts in places.items():
        assert set(counts) == set(range(length))
        expected = sum(counts.values()) / length
        # Five standard deviations: no seed decides this.
        spread = 5 * (expected * (1 - 1 / length)) ** 0.5
        assert all(abs(count - expected) < spread for count in counts.values()), (length, counts)


def test_a_row_may_have_several_lists(data):
    ask = AskSection(hard=0, drawn=0, lists=ListSection(shortest=3, longest=5, count=4))
    source = source_of(data, ask)
    batch, draw = batch_of(source, 0), source.batches[0]
    rows = [r for r in draw.rows.tolist() if layout_of(source)._own_negatives(r, draw.task)]
    assert len(batch.indices.lists) == 4 * len(rows)
    questions = questions_of(batch)
    for place, row in enumerate(rows):
        four = [questions[n] for n in batch.indices.lists[4 * place : 4 * place + 4].tolist()]
        assert len({question.beginning for question in four}) == 1
        gold = batch.indices.gold[4 * place : 4 * place + 4].tolist()
        named = {key(q.candidates[g]) for q, g in zip(four, gold, strict=True)}
        assert len(named) == 1 and named <= known(data, int(layout_of(source).rows.pair[row]))


def test_a_batch_is_a_function_of_its_number(data):
    ask = AskSection(hard=2, drawn=2, lists=ListSection())
    one, other = (batch_of(source_of(data, ask), 3) for _ in range(2))
    assert [(q.instruction, *map(key, q.sides)) for q in questions_of(one)] == [
        (q.instruction, *map(key, q.sides)) for q in questions_of(other)
    ]
    for name in ("slots", "lists", "lengths", "gold"):
        assert torch.equal(getattr(one.indices, name), getattr(other.indices, name))


def test_the_record_gathers_logits_and_hides_labels_beyond_a_list(data):
    ask = AskSection(hard=2, drawn=1, lists=ListSection(shortest=2, longest=3))
    batch = batch_of(source_of(data, ask), 0)
    count = len(questions_of(batch))
    outputs = torch.arange(count * 6, dtype=torch.float32).reshape(count, 6)
    record = batch.indices.record(outputs)
    slots = batch.indices.slots
    assert torch.equal(record.present, slots >= 0)
    assert torch.equal(record.yes[record.present], outputs[slots[slots >= 0], 0])
    assert torch.equal(record.no[record.present], outputs[slots[slots >= 0], 1])
    for row, length in zip(record.choice, batch.indices.lengths.tolist(), strict=True):
        assert torch.isfinite(row).tolist() == [place < length for place in range(4)]
