"""The scoring job: each distinct pair once, resumable anywhere, nothing unscored becomes zero."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from research.world.fake_engine import FakeEngine, FakeOptions
from tests.conftest import ROOT
from tests.mine.folders import write_data, write_mined
from unime.core import files
from unime.core.errors import DataError, RecipeError
from unime.core.files import read_json
from unime.core.stage import execute
from unime.data.items import pair_key
from unime.data.tables import read_table
from unime.judge import stage as score_module
from unime.judge.engine import EngineError, Score
from unime.judge.partial import score_part
from unime.judge.store import ScoreStore
from unime.judge.store.write_ahead_log import PATTERN, read_log

NUM_QUERIES = 12


@pytest.fixture
def folders(tmp_path):
    """Twelve pairs; the last three repeat the first three queries, so their pairs repeat."""
    pairs = [{"query": i % 9, "positives": [20 + i % 9]} for i in range(NUM_QUERIES)]
    write_data(tmp_path / "data", [f"text {i}" for i in range(40)], pairs)
    candidates = [[29 + (i % 9 + j) % 11 for j in range(5)] for i in range(NUM_QUERIES)]
    write_mined(tmp_path / "mined", candidates)
    return tmp_path


def recipe_for(folder: Path, **values) -> Path:
    lines = {
        "stage": "judge",
        "output": str(folder / "out"),
        "data": str(folder / "data"),
        "mined": str(folder / "mined"),
        "engine": "fake",
        "block_queries": 2,
        "store": str(folder / "scores"),
        **values,
    }
    path = folder / "4_judge.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in lines.items()))
    return path


def judged(folder: Path) -> list[dict]:
    return read_table(folder / "judged.parquet").to_pylist()


def count_calls(monkeypatch) -> list:
    asked = []
    original = FakeEngine.score
    monkeypatch.setattr(
        FakeEngine, "score", lambda self, r: (asked.extend(r), original(self, r))[1]
    )
    return asked


def test_scores_are_the_engines_and_each_distinct_pair_is_scored_once(folders, monkeypatch):
    asked = []
    original = FakeEngine.score
    monkeypatch.setattr(
        FakeEngine, "score", lambda self, r: (asked.extend(r), original(self, r))[1]
    )
    execute("unime.judge.stage", recipe_for(folders))

    keys = [request.key for request in asked]
    # Nine distinct queries with a positive and five candidates each.
    assert len(keys) == len(set(keys)) == 9 * 6
    engine = FakeEngine(FakeOptions())
    expected = {s.key: np.float32(s.value) for s in original(engine, asked)}
    data = score_module.DataFolder.open(folders / "data")
    for row in judged(folders / "out"):
        pair = data.pair(row["pair"])
        items = [*pair.positives, *[29 + (row["pair"] % 9 + j) % 11 for j in range(5)]]
        ids = [data.items.content_id(item) for item in items]
        query = data.items.content_id(pair.query)
        values = [
            expected[pair_key(query, pair.query_instruction, one, engine.fingerprint)]
            for one in ids
        ]
        assert row["positive_score"] == values[0]
        assert row["scores"] == [np.float16(value) for value in values[1:]]


def test_the_positive_of_a_query_is_asked_first(folders, monkeypatch):
    asked = count_calls(monkeypatch)
    execute("unime.judge.stage", recipe_for(folders))
    first = {}
    for request in asked:
        first.setdefault(request.query.text, request.candidate.text)
    assert first == {f"text {i}": f"text {20 + i}" for i in range(9)}


def test_unscored_is_nan_counted_and_listed(folders):
    execute("unime.judge.stage", recipe_for(folders, engines={"fake": {"unscored": 0.3}}))
    rows = judged(folders / "out")
    values = np.array([[row["positive_score"], *row["scores"]] for row in rows], dtype=float)
    lines = [json.loads(line) for line in (folders / "out/unscored.jsonl").open()]
    assert 0 < np.isnan(values).sum() == len(lines)
    assert not (values == 0).any()
    assert {line["reason"] for line in lines} == {"the fake engine has no answer"}
    missing = {(line["pair"], line["item"]) for line in lines}
    positives = {(row["pair"], 20 + row["pair"] % 9) for row in rows}
    expected = {
        p for p, row in zip(sorted(positives), rows, strict=True) if np.isnan(row["positive_score"])
    }
    assert missing & positives == expected
    assert 0 < read_json(folders / "out/manifest.json")["facts"]["unscored_pairs"] <= len(lines)


class Killed(BaseException):
    """Stands for the end of the process."""


def contents(folder: Path) -> dict[str, bytes]:
    found = {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name not in ("run.json", "plan.json")
    }
    manifest = read_json(folder / "manifest.json")
    # The places differ, and with them the checksum of the manifest.
    del manifest["recipe"]["output"], manifest["checksum"]
    return {**found, "manifest.json": str(manifest).encode()}


def merged(store: Path) -> dict[str, bytes]:
    """The shards of a store after merging: equal for equal scores."""
    with ScoreStore(store) as opened:
        opened.compact()
    return {path.name: path.read_bytes() for path in (store / "shards").iterdir()}


def test_stopped_at_any_durable_change_it_ends_the_same(folders, monkeypatch):
    moments = []
    monkeypatch.setattr(files, "on_commit", moments.append)
    options = {"engines": {"fake": {"unscored": 0.2}}, "block_queries": 4}
    execute("unime.judge.stage", recipe_for(folders, **options))
    whole, scores = contents(folders / "out"), merged(folders / "scores")
    # Nine distinct queries are three blocks.
    assert sum(moment.startswith("after log-") for moment in moments) == 3
    assert any(moment.endswith(".parquet") for moment in moments)

    asked = count_calls(monkeypatch)
    for stop in range(1, len(moments) + 1):
        output, store = folders / f"stopped{stop}", folders / f"scores{stop}"
        path = recipe_for(folders, output=str(output), store=str(store), **options)
        left = stop
        asked.clear()

        def die(moment):
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed(moment)

        monkeypatch.setattr(files, "on_commit", die)
        with pytest.raises(Killed):
            execute("unime.judge.stage", path)
        monkeypatch.setattr(files, "on_commit", None)
        execute("unime.judge.stage", path)
        assert contents(output) == whole, moments[stop - 1]
        assert merged(store) == scores, moments[stop - 1]
        # Paid twice is at most the block that was under way.
        assert len(asked) <= 9 * 6 + 4 * 6, moments[stop - 1]


@pytest.mark.slow
def test_three_real_kills_change_nothing(folders):
    options = {"engines": {"fake": {"unscored": 0.2, "seconds_per_request": 0.04}}}
    whole = recipe_for(
        folders, output=str(folders / "whole"), store=str(folders / "whole_scores"), **options
    )
    execute("unime.judge.stage", whole)
    path = recipe_for(folders, **options)
    words = [sys.executable, "-m", "judge", "score", str(path)]

    def blocks() -> int:
        logs = (folders / "scores" / ".local").glob(PATTERN)
        return sum(len(read_log(log)) for log in logs)

    for _ in range(3):
        process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE)
        # Killed in the middle of scoring: when its own first block has reached its log.
        while process.poll() is None and not blocks():
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        ScoreStore(folders / "scores")  # seals what the killed writer left
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert contents(folders / "out") == contents(folders / "whole")
    assert merged(folders / "scores") == merged(folders / "whole_scores")


def test_what_the_store_knows_is_never_asked_again(folders, monkeypatch):
    asked = count_calls(monkeypatch)
    execute("unime.judge.stage", recipe_for(folders))
    first = len(asked)
    again = recipe_for(folders, output=str(folders / "again"), block_queries=5)
    execute("unime.judge.stage", again)
    assert len(asked) == first == 9 * 6
    assert judged(folders / "again") == judged(folders / "out")
    # Another judge's scores are others.
    other = {"engines": {"fake": {"unscored": 0.1}}, "output": str(folders / "other")}
    execute("unime.judge.stage", recipe_for(folders, **other))
    assert len(asked) == 2 * first


def test_a_budget_stops_in_time_and_the_same_command_carries_on(folders, monkeypatch):
    asked = count_calls(monkeypatch)
    path = recipe_for(folders)
    assert score_part(path, [], budget="20 calls") == 9 * 6 - 20
    assert len(asked) == 20
    # Whole queries first: the positive of every query that was begun is scored.
    assert [r.candidate.text for r in asked[::6]] == ["text 20", "text 21", "text 22", "text 23"]
    assert not (folders / "out").exists()
    assert score_part(path, [], budget="0h") == 9 * 6 - 20
    execute("unime.judge.stage", path)
    assert len(asked) == len({r.key for r in asked}) == 9 * 6


def test_money_needs_a_price(folders):
    path = recipe_for(folders)
    with pytest.raises(RecipeError, match="has no prices"):
        score_part(path, [], budget="5 EUR")
    with pytest.raises(RecipeError, match="expected such as '1000 calls'"):
        score_part(path, [], budget="many")
    assert score_part(path, ["prices.per_call=0.1"], budget="1.0 EUR") == 9 * 6 - 12


def test_shards_share_the_work_and_the_whole_needs_no_call(folders, monkeypatch):
    asked = count_calls(monkeypatch)
    path = recipe_for(folders)
    for number in range(3):
        assert score_part(path, [], shard=f"{number}/3") == 0
    assert len(asked) == len({r.key for r in asked}) == 9 * 6
    execute("unime.judge.stage", path)
    assert len(asked) == 9 * 6
    whole = recipe_for(folders, output=str(folders / "whole"), store=str(folders / "other_scores"))
    execute("unime.judge.stage", whole)
    assert judged(folders / "out") == judged(folders / "whole")
    with pytest.raises(RecipeError, match="expected i/n with i from 0 to n - 1"):
        score_part(path, [], shard="3/3")


def test_pairs_set_aside_are_asked_again_only_on_request(folders, monkeypatch):
    path = recipe_for(folders, engines={"fake": {"unscored": 0.3}})
    asked = count_calls(monkeypatch)
    execute("unime.judge.stage", path)
    unscored = read_json(folders / "out/manifest.json")["facts"]["unscored_pairs"]
    assert unscored > 0
    assert score_part(path, []) == 0
    assert len(asked) == 9 * 6
    score_part(path, [], retry=True)
    assert len(asked) == 9 * 6 + unscored


def test_mistakes_are_one_sentence(folders):
    with pytest.raises(RecipeError, match="unknown engine 'orcale'; did you mean 'oracle'"):
        execute("unime.judge.stage", recipe_for(folders, engine="orcale"))
    with pytest.raises(RecipeError, match="under engines.transformers"):
        execute("unime.judge.stage", recipe_for(folders, engine="transformers"))
    with pytest.raises(RecipeError, match="set truth=FOLDER"):
        execute("unime.judge.stage", recipe_for(folders, engine="oracle"))
    with pytest.raises(RecipeError, match="engines.oracle.filp: no such key; did you mean 'flip'"):
        execute("unime.judge.stage", recipe_for(folders, engines={"oracle": {"filp": 0.1}}))
    # A mistake leaves no half-begun output in the way of the corrected recipe.
    assert not (folders / "out").exists()


def test_reading_a_recipe_needs_no_torch(folders):
    code = "import sys, unime.judge.stage; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )


def test_an_early_stop_asks_until_enough_negatives_survive_and_says_so(folders, monkeypatch):
    """In `select`'s cyclic order, the positive first, and `select` finds what it needs."""
    from unime.data.tables import cyclic_order

    asked = count_calls(monkeypatch)
    stop = {"negatives": 2, "step": 3, "absolute_cut": 0.7}
    path = recipe_for(folders, early_stop=stop)
    execute("unime.judge.stage", path)
    every = folders / "all"
    every.mkdir()
    whole = recipe_for(folders, output=str(every / "out"), store=str(every / "scores"))
    asked_early = len(asked)
    execute("unime.judge.stage", whole)
    spared = read_json(folders / "out/manifest.json")["facts"]["spared_pairs"]
    assert (
        0 < spared == 9 * 6 - asked_early
        and len({r.key for r in asked[:asked_early]}) == asked_early
    )
    for early, complete in zip(judged(folders / "out"), judged(every / "out"), strict=True):
        assert early["positive_score"] == complete["positive_score"]
        cut = min(complete["positive_score"] - 0.01, 0.7)
        survivors, expected = 0, set()
        for place in cyclic_order(5, 3).tolist():
            if survivors < 2:
                expected.add(place)
                survivors += complete["scores"][place] <= cut
        known = {i for i, value in enumerate(early["scores"]) if not np.isnan(value)}
        # A round asks for what is lacking at once: never more than that beyond the last needed.
        assert expected <= known and len(known) <= len(expected) + 1
        assert all(early["scores"][i] == complete["scores"][i] for i in known)
    assert (folders / "out/unscored.jsonl").read_text() == ""
    asked.clear()
    recipe_for(folders, early_stop=stop)
    execute("unime.judge.stage", path, ["output=" + str(folders / "again")])
    assert not asked


def test_a_job_without_a_single_score_is_an_error_and_stays_unfinished(folders, monkeypatch):
    broken = {"engines": {"fake": {"unscored": 1.0}}}
    path = recipe_for(folders, **broken)
    reason = (
        "not one of 54 pairs could be scored by the engine fake; the reason of 54: the fake "
        "engine has no answer.*same command with --retry asks again"
    )
    asked = count_calls(monkeypatch)
    for _ in range(2):  # nothing is paid for twice
        with pytest.raises(EngineError, match=reason):
            execute("unime.judge.stage", path)
    assert len(asked) == 54
    assert not (folders / "out/manifest.json").exists()
    assert not (folders / "out/judged.parquet").exists()
    assert len((folders / "out/unscored.jsonl").read_text().splitlines()) == NUM_QUERIES * 6
    parts: list[dict[str, Any]] = [{"shard": "0/2"}, {"budget": "5 calls"}]
    for part in parts:
        with pytest.raises(EngineError, match="not one of .* pairs could be scored"):
            score_part(path, [], **part)
    words = [sys.executable, "-m", "judge", "score", str(path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("error: not one of 54 pairs") == 1
    # Once the cause is gone:
    monkeypatch.setattr(FakeEngine, "_one", lambda self, key: Score(key, 0.5))
    assert score_part(path, [], retry=True) == 0
    execute("unime.judge.stage", path)
    assert read_json(folders / "out/manifest.json")["facts"]["unscored_pairs"] == 0


def test_a_budget_that_reaches_nothing_is_no_failure(folders):
    assert score_part(recipe_for(folders), [], budget="0h") == 54


@pytest.mark.parametrize("value", [7.5, -3.0, math.inf, math.nan])
def test_an_engine_that_gives_no_probability_ends_the_job(folders, monkeypatch, value):
    monkeypatch.setattr(FakeEngine, "_one", lambda self, key: Score(key, value))
    with pytest.raises(DataError, match="the engine fake 0.0 gave .* for the pair .*; expected a"):
        execute("unime.judge.stage", recipe_for(folders))
    assert not ScoreStore(folders / "scores").summary()["rows"]
    monkeypatch.setattr(FakeEngine, "score", lambda self, requests: [])
    with pytest.raises(EngineError, match="FakeEngine answered 12 pairs with 0 scores"):
        execute("unime.judge.stage", recipe_for(folders))
