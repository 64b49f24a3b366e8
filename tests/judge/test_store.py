"""The score store: a key's score is kept for ever, whoever wrote it, whatever was killed."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judge.store import ScoreStore
from judge.store import shards as shards_module
from judge.store import store as store_module
from judge.store.log import PATTERN, WriterLog
from judge.store.rows import Rows, split_keys
from judge.store.shards import Shards, table_of
from unime import files
from unime.errors import DataError
from unime.records import Score


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


@pytest.fixture(scope="module")
def small_store(tmp_path_factory) -> tuple[Path, dict[bytes, Score]]:
    """Two indexed shards and a newer one, two judges, failures, and the log of a killed writer."""
    path = tmp_path_factory.mktemp("store") / "scores"
    written: dict[bytes, Score] = {}

    def add(store: ScoreStore, judge: str, numbers: range) -> None:
        part = [*scores(numbers), Score(key(numbers.start + 5000), math.nan, "no answer")]
        store.add(judge, part)
        written.update({score.key: score for score in part})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "ROWS_WORTH_AN_INDEX", 60)
        for start in (0, 40):
            with ScoreStore(path) as store:
                add(store, "judge a", range(start, start + 40))
        ScoreStore(path)  # makes the index
    with ScoreStore(path) as store:
        add(store, "judge b", range(80, 90))
    with contextlib.suppress(Killed), ScoreStore(path) as store:
        add(store, "judge b", range(90, 100))
        add(store, "judge b", range(100, 110))
        raise Killed
    names = {file.suffix for file in path.rglob("*") if file.stat().st_size and file.is_file()}
    assert names == {".parquet", ".json", ".npy", ".jsonl"}
    return path, written


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_flipped_byte_gives_no_other_score(small_store, data):
    """Whichever byte of whichever file: the same scores, pairs asked again, or one sentence."""
    whole, written = small_store
    wanted = list(written)
    expected = np.array([written[k].value for k in wanted], dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "ROWS_WORTH_AN_INDEX", 60)
        path = Path(folder) / "scores"
        shutil.copytree(whole, path)
        kinds: dict[str, list[Path]] = {}
        for file in sorted(path.rglob("*")):
            if file.is_file() and file.stat().st_size:
                kinds.setdefault(file.name if "index" in str(file) else file.suffix, []).append(
                    file
                )
        file = data.draw(st.sampled_from(kinds[data.draw(st.sampled_from(sorted(kinds)))]))
        content = bytearray(file.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
        file.write_bytes(content)
        try:
            store = ScoreStore(path)
            found = store.find(wanted)
            reasons = store.reasons(wanted)
            with store:
                store.add("judge a", scores(range(1)))
            store.compact()
        except DataError as error:
            assert "is damaged" in str(error) and "scored again" in str(error)
            assert file.suffix in (".parquet", ".jsonl")
            return
        again = ScoreStore(path).find(wanted)
        for one in (found, again):
            np.testing.assert_array_equal(one.values[one.known], expected[one.known])
            # Only the last line of a log may be taken for one that was cut off by a kill.
            assert one.known.all() or (file.suffix == ".jsonl" and place == len(content) - 1)
        assert set(reasons.values()) == {"no answer"}


def test_a_damaged_shard_is_named_and_moving_it_aside_helps(tmp_path):
    path = tmp_path / "scores"
    with ScoreStore(path) as store:
        store.add("judge", scores(range(10)))
    with ScoreStore(path) as store:
        store.add("judge", scores(range(10, 20)))
    shard = sorted((path / "shards").iterdir())[0]
    table = pq.read_table(shard)
    # A whole, readable file with other scores.
    pq.write_table(table.set_column(1, table.schema.field(1), [table["score"][::-1]]), shard)
    with pytest.raises(DataError, match=f"{shard} is damaged .its bytes .* move it aside"):
        ScoreStore(path)
    shard.rename(tmp_path / "aside.parquet")
    assert ScoreStore(path).find([key(n) for n in range(20)]).known.sum() == 10


def test_a_damaged_index_is_built_anew_and_an_older_one_as_well(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(store_module, "ROWS_WORTH_AN_INDEX", 10)
    monkeypatch.setattr(logging.getLogger("unime"), "propagate", True)
    caplog.set_level(logging.INFO)
    path = tmp_path / "scores"
    with ScoreStore(path) as store:
        store.add("judge", scores(range(50)))
    for damage in ("value.npy", "hashes.json"):
        ScoreStore(path)
        (index,) = (path / ".local").glob("index-*")
        if damage == "hashes.json":
            (index / damage).unlink()
        else:
            data = bytearray((index / damage).read_bytes())
            data[-2] ^= 1
            (index / damage).write_bytes(data)
        caplog.clear()
        values = ScoreStore(path).find([key(n) for n in range(50)]).values
        assert values.tolist() == [s.value for s in scores(range(50))]
        assert caplog.text.count("the index cannot be used") == 1
        caplog.clear()
        ScoreStore(path)
        assert not caplog.records


def test_a_log_of_an_older_version_is_read(tmp_path):
    """Its lines have no checksum; a line that has one can't pass as one that has none."""
    log = WriterLog.create(tmp_path)
    log.append("judge", [Score(key(0), 0.25), Score(key(1), math.nan, "no \ud800 answer")])
    line = log.path.read_text()
    fields = json.loads(line)
    assert fields.pop("xxh3")
    log.path.write_text(json.dumps(fields) + "\n")
    ((_, (first, second)),) = log.read()
    assert (first.value, second.reason) == (0.25, "no ? answer")
    log.path.write_text(line.replace("xxh3", "xxh4"))
    with pytest.raises(DataError, match="line 1 is damaged"):
        log.read()


@pytest.mark.parametrize("value", [7.5, -3.0, math.inf, -math.inf, math.nan, 1.0000001])
def test_what_is_no_probability_stays_outside(tmp_path, value):
    """At the border: what an engine says, and a shard that another program wrote."""
    store = ScoreStore(tmp_path / "scores")
    fingerprint = json.dumps({"engine": "vllm", "model": "some/model"})
    got = "NaN without a reason" if math.isnan(value) else f"the score {value}"
    with pytest.raises(
        DataError, match=f"the engine vllm with the model some/model gave {got} for the pair 0.*07;"
    ):
        store.add(fingerprint, [Score(key(6), 0.5), Score(key(7), value)])
    assert not store.find([key(6), key(7)]).known.any()
    columns = Rows.of([Score(key(7), value)])
    columns = Rows(columns.high, columns.low, columns.value, np.array([-1], dtype=np.int32))
    Shards(str(tmp_path / "other")).write(
        table_of(columns, pa.array(["judge"]).dictionary_encode())
    )
    with pytest.raises(DataError, match="it holds the score .*expected a probability from 0 to 1"):
        ScoreStore(tmp_path / "other")


def test_a_damaged_note_of_a_judge_is_written_again(tmp_path):
    with ScoreStore(tmp_path) as store:
        store.add("judge", scores(range(2)))
    (note,) = (tmp_path / "judges").iterdir()
    for damage in (b"", b"{", b'{"fingerprint": "another"}'):
        note.write_bytes(damage)
        with ScoreStore(tmp_path) as store:
            store.add("judge", scores(range(2, 4)))
        assert files.read_json(note) == {"fingerprint": "judge"}


def test_a_large_remote_shard_is_fetched_once_and_checked(tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setattr(shards_module, "IN_MEMORY", 100)
    with ScoreStore("memory://bucket/large", tmp_path / "local") as store:
        store.add("judge", scores(range(1000)))
    memory = fsspec.filesystem("memory")
    (shard,) = memory.ls("/bucket/large/shards", detail=False)
    assert ScoreStore("memory://bucket/large", tmp_path / "b").find([key(999)]).known.all()
    data = bytearray(memory.cat_file(shard))
    data[len(data) // 2] ^= 1
    memory.pipe_file(shard, bytes(data))
    with pytest.raises(DataError, match="memory://bucket/large/shards/.* is damaged"):
        ScoreStore("memory://bucket/large", tmp_path / "c")
