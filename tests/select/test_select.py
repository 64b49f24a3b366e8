"""Which candidates survive a rule, and in what order negatives are chosen."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.world.oracle import OracleOptions
from unime.core import files
from unime.core.errors import DataError, RecipeError
from unime.core.files import read_json, write_json
from unime.core.stage import execute
from unime.data.items import content_id, pair_key
from unime.data.tables import JUDGED, MINED, cyclic_order, read_table, write_table
from unime.judge.engine import JudgeInput, Request
from unime.select import stage as select
from unime.select.stage import RULES, SelectRecipe, choose

NAN = float("nan")


def naive_cyclic(values: list, step: int) -> list:
    """Take positions 0, step, 2 step, ..., then 1, 1 + step, ... one by one."""
    taken = []
    for first in range(step):
        place = first
        while place < len(values):
            taken.append(values[place])
            place += step
    return taken


@given(st.integers(0, 60), st.integers(1, 9))
def test_cyclic_order_equals_the_naive_loop(count, step):
    assert cyclic_order(count, step).tolist() == naive_cyclic(list(range(count)), step)


def naive_kept(rule, row, recipe):
    """Which candidates of one row survive, said plainly."""
    positive, cut = row["positive_score"], recipe.absolute_cut
    margin = positive - recipe.relative_margin
    kept = []
    for score, similarity in zip(row["scores"], row["similarities"], strict=True):
        above_positive = math.isnan(positive) or score > margin
        if rule == "none":
            drop = False
        elif rule == "similarity":
            drop = similarity > row["positive_similarity"] + recipe.similarity_margin
        elif rule == "relative":
            drop = math.isnan(score) or above_positive
        elif rule == "absolute":
            drop = math.isnan(score) or score > cut
        else:
            drop = math.isnan(score) or score > (cut if math.isnan(positive) else min(margin, cut))
        kept.append(not drop)
    return kept


score_values = st.sampled_from([0.0, 0.1, 0.45, 0.5, 0.75, 0.9, 1.0, NAN])


@st.composite
def judged_rows(draw):
    rows = []
    for pair in range(draw(st.integers(1, 4))):
        count = draw(st.integers(0, 12))
        values = st.lists(st.sampled_from([0.25, 0.5, 0.75]), min_size=count, max_size=count)
        rows.append(
            {
                "pair": pair * 3,
                "candidates": [100 * pair + place for place in range(count)],
                "similarities": sorted(draw(values), reverse=True),
                "positive_similarity": draw(st.sampled_from([0.25, 0.5])),
                "positive_rank": 1,
                "positive_score": draw(score_values),
                "scores": draw(st.lists(score_values, min_size=count, max_size=count)),
            }
        )
    return rows


def write_folders(folder: Path, rows: list[dict]) -> None:
    for name, schema in (("mined", MINED), ("judged", JUDGED)):
        table = pa.Table.from_pylist(
            [
                {field: _as(row[field], schema.field(field).type) for field in schema.names}
                for row in rows
            ],
            schema=schema,
        )
        write_table(folder / name / f"{name}.parquet", table)
        write_json(folder / name / "manifest.json", {"facts": {}})


def _as(value, kind):
    if pa.types.is_list(kind) and pa.types.is_float16(kind.value_type):
        return [np.float16(one) for one in value]
    return np.float16(value) if pa.types.is_float16(kind) else value


def recipe_for(folder: Path, **values) -> Path:
    lines = {
        "stage": "select",
        "output": str(folder / "out"),
        "mined": str(folder / "mined"),
        "judged": str(folder / "judged"),
        **values,
    }
    path = folder / "5_select.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in lines.items()))
    return path


@settings(max_examples=40, deadline=None)
@given(
    judged_rows(),
    st.sampled_from(sorted(RULES)),
    st.sampled_from(["score", "similarity"]),
    st.integers(1, 7),
    st.integers(1, 6),
)
def test_chosen_negatives_equal_a_plain_reading_of_the_rules(rows, rule, order, negatives, step):
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folders(folder, rows)
        values = {"rule": rule, "order": order, "negatives": negatives, "step": step}
        execute("unime.select.stage", recipe_for(folder, **values))
        table = read_table(folder / "out" / "rows.parquet").to_pylist()
        facts = read_json(folder / "out" / "manifest.json")["facts"]

    recipe = SelectRecipe(stage="select", output="", mined="", judged="", rule=rule)
    dropped = 0
    for row, chosen in zip(rows, table, strict=True):
        kept = naive_kept(rule, {**row, "scores": _halves(row["scores"])}, recipe)
        dropped += kept.count(False)
        survivors = [
            (score, -place, item)
            for place, (item, score, keep) in enumerate(
                zip(row["candidates"], _halves(row["scores"]), kept, strict=True)
            )
            if keep
        ]
        # Similarities fall along the row, so "more similar, then as mined" is the mined order.
        survivors.sort(key=lambda s: (math.isnan(s[0]), -s[0] if s[0] == s[0] else 0, -s[1]))
        if order == "similarity":
            survivors.sort(key=lambda s: -row["similarities"][-s[1]])
        expected = naive_cyclic(survivors, step)[:negatives]
        missing = negatives - len(expected)
        assert chosen["pair"] == row["pair"]
        assert chosen["negatives"] == [item for _, _, item in expected] + [-1] * missing
        np.testing.assert_array_equal(
            np.array(chosen["scores"]),
            np.array(
                [row["positive_score"], *[s for s, _, _ in expected], *[NAN] * missing], np.float32
            ),
        )
    assert facts["dropped"] == dropped
    counts = [sum(item >= 0 for item in chosen["negatives"]) for chosen in table]
    assert facts["queries_with_fewer"] == sum(count < negatives for count in counts)
    assert facts["queries_with_none"] == counts.count(0)


def _halves(scores):
    return [float(np.float16(score)) for score in scores]


def test_without_a_judge_the_nearest_are_chosen(tmp_path):
    rows = [_row(0, [0.9, 0.8, 0.7, 0.6], positive_similarity=0.65)]
    write_folders(tmp_path, rows)
    path = recipe_for(tmp_path, rule="similarity", judged=None, step=1, negatives=3)
    execute("unime.select.stage", path)
    (row,) = read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    # 0.9 and 0.8 lie above 0.65 + 0.1.
    assert row["negatives"] == [2, 3, -1]
    assert np.isnan(row["scores"]).all()


def test_scores_are_required_and_must_belong_to_the_candidates(tmp_path):
    write_folders(tmp_path, [_row(0, [0.9, 0.8])])
    with pytest.raises(RecipeError, match="rule 'either' needs scores"):
        execute("unime.select.stage", recipe_for(tmp_path, judged=None))
    with pytest.raises(RecipeError, match="unknown rule 'eiter'; did you mean 'either'"):
        execute("unime.select.stage", recipe_for(tmp_path, rule="eiter"))
    other = tmp_path / "other"
    write_folders(other, [_row(0, [0.9, 0.8, 0.7])])
    with pytest.raises(DataError, match="does not score the candidates"):
        execute("unime.select.stage", recipe_for(tmp_path, judged=str(other / "judged")))


def _row(pair, similarities, **values):
    return {
        "pair": pair,
        "candidates": list(range(len(similarities))),
        "similarities": similarities,
        "positive_similarity": 0.5,
        "positive_rank": 1,
        "positive_score": 0.9,
        "scores": [0.1] * len(similarities),
        **values,
    }


class Planted:
    """Of each query's fifty candidates the first three are false negatives."""

    def relevant(self, task, query, candidates):
        del task, query
        return np.array([int.from_bytes(one[:8], "big") <= 3 for one in candidates])

    def planted(self, task, query):
        del task, query
        return []


def test_the_default_rule_removes_false_negatives_that_relative_leaves():
    """With an oracle that errs on 5 % of pairs, positives included; 300 queries."""
    num_queries, num_candidates = 300, 50
    engine = OracleOptions(flip=0.05).engine(Planted())
    scores = []
    for number in range(num_queries):
        query = JudgeInput(content_id(f"query {number}", None), "")
        ids = [place.to_bytes(8, "big") + bytes(8) for place in range(num_candidates + 1)]
        requests = [
            Request(pair_key(query.id, "", one, "judge"), "task", "", query, JudgeInput(one, ""))
            for one in ids
        ]
        scores.append([score.value for score in engine.score(requests)])
    judged = np.array(scores)
    rows = np.repeat(np.arange(num_queries), num_candidates)
    candidates = select.Candidates(
        rows=rows,
        items=np.tile(np.arange(num_candidates), num_queries),
        similarities=np.zeros(len(rows)),
        scores=judged[:, 1:].ravel(),
        positive_similarities=np.zeros(len(rows)),
        positive_scores=judged[rows, 0],
    )
    false_negative = candidates.items < 3
    recipe = SelectRecipe(stage="select", output="", mined="", judged="")
    removed = {
        rule: (dropped[false_negative].mean(), dropped[~false_negative].mean())
        for rule in ("either", "relative")
        for dropped in [~RULES[rule](candidates, recipe)]
    }
    assert removed["either"][0] > 0.9 and removed["either"][1] < 0.10
    # Exchangeable with the positive: about half of them stand above it.
    assert 0.45 < removed["relative"][0] < 0.65
    kept = RULES["either"](candidates, recipe)
    chosen = choose(candidates, kept, num_queries, recipe)
    assert not false_negative[chosen[chosen >= 0]].sum() > 0.02 * (chosen >= 0).sum()


def test_what_a_rule_removed_is_reported_where_the_truth_is_known(tmp_path):
    rows = [_row(0, [0.9, 0.8, 0.7], scores=[0.95, 0.7, 0.1])]
    write_folders(tmp_path, rows)
    truth = pa.table(
        {
            "pair": pa.array([0], pa.int32()),
            "relevant": [[True, True, False]],
            "planted": [[False, True, False]],
        }
    )
    write_table(tmp_path / "judged" / "truth.parquet", truth)
    execute("unime.select.stage", recipe_for(tmp_path))
    facts = read_json(tmp_path / "out" / "manifest.json")["facts"]["truth"]
    assert facts["either"]["planted false negatives"] == {"removed": 1, "of": 1}
    assert facts["relative"]["planted false negatives"] == {"removed": 0, "of": 1}
    assert facts["relative"]["all false negatives"] == {"removed": 1, "of": 2}
    assert facts["either"]["true negatives"] == {"removed": 0, "of": 1}


class Killed(BaseException):
    """Stands for the end of the process."""


def test_stopped_at_any_durable_change_it_ends_the_same(tmp_path, monkeypatch):
    write_folders(tmp_path, [_row(pair, [0.9, 0.8, 0.7]) for pair in range(5)])
    moments = []
    monkeypatch.setattr(files, "on_commit", moments.append)
    execute("unime.select.stage", recipe_for(tmp_path))
    whole = (tmp_path / "out" / "rows.parquet").read_bytes()
    for stop in range(1, len(moments) + 1):
        path = recipe_for(tmp_path, output=str(tmp_path / f"stopped{stop}"))
        seen = []

        def die(moment, stop=stop, seen=seen):
            seen.append(moment)
            if len(seen) == stop:
                raise Killed(moment)

        monkeypatch.setattr(files, "on_commit", die)
        with pytest.raises(Killed):
            execute("unime.select.stage", path)
        monkeypatch.setattr(files, "on_commit", None)
        execute("unime.select.stage", path)
        assert (tmp_path / f"stopped{stop}" / "rows.parquet").read_bytes() == whole
        assert (tmp_path / f"stopped{stop}" / "manifest.json").is_file()
