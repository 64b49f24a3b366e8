"""The sequence of batches depends on seed and batch size alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from unime.core.errors import OutputError, RecipeError
from unime.train.sampler import TaskBatches

ROWS = {"a": np.arange(100, 117), "b": np.arange(3), "c": np.arange(500, 540)}


def test_batches_are_of_one_task_and_distinct_rows():
    batches = TaskBatches(ROWS, 8, seed=0)
    for number in range(60):
        draw = batches[number]
        assert len(draw.rows) == (3 if draw.task == "b" else 8)
        assert len(set(draw.rows.tolist())) == len(draw.rows)
        assert set(draw.rows.tolist()) <= set(ROWS[draw.task].tolist())


def test_a_round_uses_every_row_at_most_once_and_leaves_fewer_than_a_batch():
    batches = TaskBatches(ROWS, 8, seed=3)
    assert batches.epoch_length == 2 + 1 + 5
    for epoch in range(4):
        numbers = range(epoch * batches.epoch_length, (epoch + 1) * batches.epoch_length)
        draws = [batches[number] for number in numbers]
        used = Counter((d.task, row) for d in draws for row in d.rows.tolist())
        assert set(used.values()) == {1}
        assert all(d.round == epoch for d in draws)
        assert sum(task == "a" for task, _ in used) == 16


def test_turns_differ_and_seeds_differ_and_a_second_object_agrees():
    batches, again = TaskBatches(ROWS, 8, 1), TaskBatches(ROWS, 8, 1)
    other = TaskBatches(ROWS, 8, 2)
    # Asked backwards, because a resumed run begins in the middle.
    sequence = {n: (again[n].task, again[n].rows.tolist()) for n in reversed(range(24))}
    assert sequence == {n: (batches[n].task, batches[n].rows.tolist()) for n in range(24)}
    assert sequence != {n: (other[n].task, other[n].rows.tolist()) for n in range(24)}
    first, second = (sorted(sequence[n] for n in range(start, start + 8)) for start in (0, 8))
    assert first != second


def test_weights_change_the_share_of_batches():
    batches = TaskBatches(ROWS, 8, 0, {"a": 3.0, "c": 0.4})
    tasks = Counter(batches[n].task for n in range(batches.epoch_length))
    assert tasks == {"a": 6, "b": 1, "c": 2}


def test_state_is_refused_for_another_sequence():
    batches = TaskBatches(ROWS, 8, 0)
    assert batches.load_state_dict(batches.state_dict(17)) == 17
    with pytest.raises(OutputError, match="same data, seed and global batch size"):
        TaskBatches(ROWS, 9, 0).load_state_dict(batches.state_dict(17))


def test_a_weight_for_no_task_is_a_sentence():
    with pytest.raises(RecipeError, match="no task 'aa'; did you mean 'a'"):
        TaskBatches(ROWS, 8, 0, {"aa": 1.0})


def test_caps_limit_rows_and_temperature_evens_tasks_out():
    capped = TaskBatches(ROWS, 8, 0, caps={"c": 16})
    assert len(capped.rows["c"]) == 16
    assert set(capped.rows["c"].tolist()) < set(ROWS["c"].tolist())
    large = {"small": np.arange(80), "large": np.arange(80, 8080)}
    shares = []
    for temperature in (1.0, 2.0, 1e9):
        batches = TaskBatches(large, 8, 0, temperature=temperature)
        shares.append(batches.counts[0] / batches.counts.sum())
    assert shares == pytest.approx([10 / 1010, 1 / 11, 0.5], abs=1e-3)


def test_clusters_stay_together_and_a_shared_row_counts_once():
    clusters = {"t": np.array([[0, 1, 2], [3, 4, 5], [6, 7, 0], [8, 9, 10]])}
    batches = TaskBatches(clusters, 6, 0)
    assert batches.epoch_length == 2
    for number in range(8):
        rows = batches[number].rows.tolist()
        assert len(set(rows)) == len(rows)
        together = [c for c in clusters["t"].tolist() if set(c) <= set(rows)]
        assert set(rows) == {row for cluster in together for row in cluster}
        assert len(together) == 2


def test_state_goes_through_json_and_knows_the_mixture():
    import json

    batches = TaskBatches(ROWS, 8, 0)
    state = json.loads(json.dumps(batches.state_dict(3)))
    assert batches.load_state_dict(state) == 3
    with pytest.raises(OutputError):
        TaskBatches(ROWS, 8, 0, weights={"a": 2.0}).load_state_dict(state)
