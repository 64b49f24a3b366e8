"""A damaged store: the same scores, or a sentence; never other scores."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.judge.test_store import Killed, key, scores
from unime.core import files
from unime.core.errors import DataError
from unime.judge.engine import Score
from unime.judge.store import ScoreStore
from unime.judge.store import score_store as store_module
from unime.judge.store import shards as shards_module
from unime.judge.store.shards import Shards, table_of
from unime.judge.store.sorted_rows import Rows
from unime.judge.store.write_ahead_log import WriterLog


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
