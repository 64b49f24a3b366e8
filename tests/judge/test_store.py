"""The score store: a key's score is kept for ever, whoever wrote it, whatever was killed."""

from __future__ import annotations

import math
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unime.core import files
from unime.core.errors import DataError
from unime.judge.engine import Score
from unime.judge.store import ScoreStore
from unime.judge.store import score_store as store_module
from unime.judge.store.shards import Shards, table_of
from unime.judge.store.sorted_rows import Rows, split_keys
from unime.judge.store.write_ahead_log import PATTERN, WriterLog


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def scores(numbers, offset=0.0) -> list[Score]:
    return [Score(key(n), np.float32(n % 97 / 97 + offset).item()) for n in numbers]


def content(store: Path) -> dict[str, bytes]:
    with ScoreStore(store) as opened:
        opened.compact()
    return {path.name: path.read_bytes() for path in (store / "shards").iterdir()}


keys = st.integers(0, 3).flatmap(
    # Few distinct halves, so that keys collide in one half and not in the other.
    lambda high: st.integers(0, 3).map(lambda low: (high << 64 | low).to_bytes(16, "big"))
)
values = st.one_of(st.none(), st.floats(0, 1, width=32))


@settings(max_examples=60)
@given(st.lists(st.tuples(keys, values), max_size=40), st.lists(keys, max_size=20))
def test_sorted_rows_are_a_dictionary(pairs, asked):
    rows = Rows.of([Score(k, math.nan if v is None else v, "broken") for k, v in pairs]).sorted()
    expected: dict[bytes, float] = {}
    for k, v in pairs:
        # A score goes before a failure, then the smaller one: the order of writing means nothing.
        expected[k] = min(expected.get(k, math.inf), math.inf if v is None else v)
    assert rows.keys() == b"".join(sorted(expected))
    places = rows.find(*split_keys(b"".join(asked)))
    for k, place in zip(asked, places, strict=True):
        if k not in expected:
            assert place == -1
        elif expected[k] == math.inf:
            assert math.isnan(rows.value[place]) and rows.reasons[rows.reason[place]] == "broken"
        else:
            assert rows.value[place] == np.float32(expected[k]) and rows.reason[place] == -1


def test_scores_come_back_from_log_shard_and_merged_shard(tmp_path):
    path = tmp_path / "scores"
    failed = Score(key(1000), math.nan, "no answer")
    with ScoreStore(path) as store:
        store.add("judge a", scores(range(10)))
        store.add("judge b", [failed])
        for reader in (store, ScoreStore(path)):  # from memory, and from a living writer's log
            found = reader.find([key(3), key(1000), key(77)])
            assert found.known.tolist() == [True, True, False]
            assert found.values[0] == np.float32(3 / 97) and np.isnan(found.values[1:]).all()
            assert reader.reasons([key(3), key(1000), key(77)]) == {key(1000): "no answer"}
    assert not list((path / ".local").glob(PATTERN))
    with ScoreStore(path) as store:
        store.add("judge a", scores(range(5, 20)))
        assert store.compact() == 2
        assert len(store) == 21
        assert store.find([key(19)]).known.all()
    (shard,) = (path / "shards").iterdir()
    table = pq.read_table(shard)
    assert table["key"].to_pylist() == [key(n) for n in [*range(20), 1000]]
    assert table["reason"].to_pylist() == [None] * 20 + ["no answer"]
    names = {p.stem: files.read_json(p)["fingerprint"] for p in (path / "judges").iterdir()}
    assert [names[judge] for judge in table["judge"].to_pylist()] == ["judge a"] * 20 + ["judge b"]


def test_a_score_replaces_a_failure_whoever_wrote_first(tmp_path):
    for order in ([0, 1], [1, 0]):
        path = tmp_path / f"scores{order[0]}"
        parts = [[Score(key(1), math.nan, "gone")], [Score(key(1), 0.25)]]
        for number in order:
            with ScoreStore(path) as store:
                store.add("judge", parts[number])
        store = ScoreStore(path)
        assert store.find([key(1)]).values.tolist() == [0.25]
        store.compact()
        assert store.find([key(1)]).values.tolist() == [0.25] and len(store) == 1
    assert content(tmp_path / "scores0") == content(tmp_path / "scores1")


def test_equal_scores_become_equal_files(tmp_path):
    for name, cuts in (("one", [100]), ("many", [10, 35, 36, 80, 100])):
        start = 0
        for end in cuts:
            with ScoreStore(tmp_path / name) as store:
                # Overlaps are harmless.
                store.add("judge", scores(range(max(0, start - 3), end)))
            start = end
    assert content(tmp_path / "one") == content(tmp_path / "many")


def test_merging_writes_no_string_a_row(tmp_path):
    """All rows' reasons would be 3 GB here; a column of narrow strings holds 2."""
    reason = "x" * (1 << 20)
    with ScoreStore(tmp_path) as store:
        for number in range(2):
            numbers = range(1500 * number, 1500 * (number + 1))
            rows = Rows.of([Score(key(n), math.nan, reason) for n in numbers])
            judges = pa.array(["judge"] * len(rows)).dictionary_encode()
            Shards(str(tmp_path)).write(table_of(rows, judges))
        assert store.compact() == 2
        assert len(store) == 3000 and store.reasons([key(2999)]) == {key(2999): reason}


def test_any_fsspec_path(tmp_path):
    import fsspec

    with ScoreStore("memory://bucket/scores", tmp_path / "local") as store:
        store.add("judge", scores(range(10)))
    with ScoreStore("memory://bucket/scores", tmp_path / "other machine") as store:
        assert store.find([key(9)]).known.all()
        store.add("judge", scores(range(10, 12)))
        store.compact()
    assert len(fsspec.filesystem("memory").ls("/bucket/scores/shards")) == 1
    with pytest.raises(DataError, match="cannot be used"):
        ScoreStore("nosuch://bucket/scores", tmp_path / "local")


def test_many_rows_are_mapped_and_the_index_can_be_rebuilt(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "ROWS_WORTH_AN_INDEX", 100)
    monkeypatch.setattr(store_module, "ROWS_IN_MEMORY", 40)
    monkeypatch.setattr(store_module, "PARTS", 2)
    path = tmp_path / "scores"
    with ScoreStore(path) as store:
        for start in range(0, 400, 20):
            store.add("judge", scores(range(start, start + 20)))
            assert store.find([key(n) for n in range(start + 20)]).known.all()
    assert len(list((path / "shards").iterdir())) == 10

    def check(rows: int) -> None:
        store = ScoreStore(path)
        assert len(store) == rows
        assert store.find([key(n) for n in range(rows)]).known.all()
        assert not store.find([key(rows)]).known.any()

    check(400)
    (index,) = (path / ".local").glob("index-*")
    # A little more is read beside the index; the index stays.
    with ScoreStore(path) as store:
        store.add("judge", scores(range(400, 410)))
    check(410)
    assert index.is_dir()
    (index / "low.npy").write_bytes((index / "low.npy").read_bytes()[:-8])
    check(410)
    for file in index.parent.glob("index-*/*"):
        file.unlink()
    check(410)


def test_a_torn_line_is_lost_and_a_damaged_one_is_an_error(tmp_path):
    log = WriterLog.create(tmp_path)
    log.append("judge", [Score(key(0), 0.25), Score(key(1), math.nan, "no answer")])
    log.append("judge", [Score(key(2), 0.1)])
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:-5])
    assert [score.key for line in log.read() for score in line.scores] == [key(0), key(1)]
    log.append("judge", [Score(key(2), 0.1)])
    assert log.path.read_bytes() == whole
    log.path.write_bytes(whole.replace(b'"keys": "', b'"keys": "!'))
    with pytest.raises(DataError, match="line 1 is damaged"):
        log.read()


def write(path: Path, numbers: range, die: bool) -> None:
    store = ScoreStore(path)
    for start in range(numbers.start, numbers.stop, 100):
        store.add("judge", scores(range(start, start + 100)))
    if die:
        os._exit(9)
    store.close()


@pytest.mark.parametrize("die", [False, True])
def test_writers_at_once_lose_nothing(tmp_path, die):
    context = multiprocessing.get_context("fork")
    # Their ranges overlap.
    ranges = [range(1000), range(500, 1500), range(1000, 2000)]
    workers = [context.Process(target=write, args=(tmp_path / "s", r, die)) for r in ranges]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    with ScoreStore(tmp_path / "alone") as store:
        store.add("judge", scores(range(2000)))
    assert content(tmp_path / "s") == content(tmp_path / "alone")


class Killed(BaseException):
    pass


def test_stopped_at_any_durable_change_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "ROWS_WORTH_AN_INDEX", 15)
    monkeypatch.setattr(store_module, "ROWS_IN_MEMORY", 20)

    def work(path: Path) -> list[Score]:
        """Write, merge, open; what was begun before is done again."""
        safe = []
        with ScoreStore(path) as store:
            for start in range(0, 30, 10):
                part = scores(range(start, start + 10))
                store.add("judge", part)
                safe += part
            store.compact()
        return safe

    moments = []
    monkeypatch.setattr(files, "on_commit", moments.append)
    work(tmp_path / "whole")
    monkeypatch.setattr(files, "on_commit", None)
    whole = content(tmp_path / "whole")
    assert len(moments) >= 16
    for stop in range(1, len(moments) + 1):
        left = stop
        logged = 0

        def die(moment):
            nonlocal left, logged
            left -= 1
            logged += moment.startswith("after log-")
            if left == 0:
                raise Killed(moment)

        path = tmp_path / f"stopped{stop}"
        monkeypatch.setattr(files, "on_commit", die)
        with pytest.raises(Killed):
            work(path)
        monkeypatch.setattr(files, "on_commit", None)
        assert ScoreStore(path).find([key(n) for n in range(10 * logged)]).known.all()
        work(path)
        assert content(path) == whole, moments[stop - 1]
