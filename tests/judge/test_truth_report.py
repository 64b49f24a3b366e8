"""What a known truth says: AUC, planted false negatives reached, and the sidecar for select."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.judge.test_score import recipe_for
from tests.mine.folders import write_data, write_mined
from unime.core.files import read_json
from unime.core.stage import execute
from unime.data.tables import read_table
from unime.judge import stage as score_module
from unime.judge.truth_report import auc


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_auc_counts_pairs(values):
    scores = np.array([np.nan if score == 5 else score / 4 for score, _ in values], dtype=float)
    relevant = np.array([flag for _, flag in values], dtype=bool)
    above = [
        (a > b) + (a == b) / 2
        for a in scores[relevant & ~np.isnan(scores)]
        for b in scores[~relevant & ~np.isnan(scores)]
    ]
    assert auc(scores, relevant) == (round(float(np.mean(above)), 4) if above else None)


class Truth:
    """The query of pair i has item 10 + i relevant, and 5 planted as well."""

    def __init__(self, data):
        self._ids = data.items.content_id
        self._queries = {self._ids(i): i for i in range(4)}

    def planted(self, task, query):
        assert task == "task"
        number = self._queries[query]
        # Pair 3's planted content is no target of the task: it cannot be reached.
        return [self._ids(19)] if number == 3 else [self._ids(10 + (number + 1) % 4)]

    def relevant(self, task, query, candidates):
        good = {self._ids(10 + self._queries[query]), *self.planted(task, query)}
        return np.array([one in good for one in candidates])


def test_planted_false_negatives_are_counted_and_written(tmp_path, monkeypatch):
    pairs = [{"query": i, "positives": [10 + i]} for i in range(4)]
    data = write_data(tmp_path / "data", [f"text {i}" for i in range(20)], pairs)
    write_mined(tmp_path / "mined", [[11, 12], [13, 10], [10, 13], [10, 11, 12]])
    monkeypatch.setattr(score_module, "_load_truth", lambda folder: Truth(data) if folder else None)
    (tmp_path / "world").mkdir()
    options = {"engine": "oracle", "truth": str(tmp_path / "world")}
    execute("unime.judge.stage", recipe_for(tmp_path, **options))

    facts = read_json(tmp_path / "out" / "manifest.json")["facts"]["truth"]
    assert facts["planted_in_corpus"] == 3
    assert facts["planted_among_candidates"] == facts["relevant_among_candidates"] == 2
    assert facts["candidates"] == 9
    assert facts["auc"] > 0.9 and facts["auc_by_task"] == {"task": facts["auc"]}
    assert facts["positives_above_half"] == 1.0
    rows = read_table(tmp_path / "out" / "truth.parquet").to_pylist()
    assert [row["planted"] for row in rows] == [
        [True, False],
        [False, False],
        [False, True],
        [False, False, False],
    ]

    # A sample of the queries: 11 is another pair's target, and that pair is not in it.
    write_mined(tmp_path / "few", [[11, 12]])
    few = recipe_for(
        tmp_path, mined=str(tmp_path / "few"), output=str(tmp_path / "few_out"), **options
    )
    execute("unime.judge.stage", few)
    facts = read_json(tmp_path / "few_out" / "manifest.json")["facts"]["truth"]
    assert facts["planted_in_corpus"] == facts["planted_among_candidates"] == 1
