"""Jobs of real size: killed again and again, with two writers at once, and asked for a second time."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from research.world.fake_engine import FakeEngine
from tests.conftest import ROOT
from tests.judge.misbehaving import MODEL, Server
from tests.mine.folders import write_data, write_mined
from unime.core.stage import execute
from unime.judge.store import ScoreStore

pytestmark = pytest.mark.slow

QUERIES, CANDIDATES, KILLS, CONCURRENCY = 400, 50, 5, 16
TARGETS = 1000


def write_job(folder: Path, queries: int) -> None:
    """Every query has its own positive and fifty other targets."""
    pairs = [{"query": i, "positives": [queries + i % TARGETS]} for i in range(queries)]
    write_data(folder / "data", [f"text {i}" for i in range(queries + TARGETS)], pairs)
    candidates = [
        [queries + (i + 1 + 7 * j) % TARGETS for j in range(CANDIDATES)] for i in range(queries)
    ]
    write_mined(folder / "mined", candidates)


def recipe_for(folder: Path, name: str, engine: str, options: dict, store: str) -> Path:
    values = {
        "stage": "judge", "output": str(folder / name), "store": str(folder / store),
        "data": str(folder / "data"), "mined": str(folder / "mined"),
        "engine": engine, "engines": {engine: options},
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def served_by(server: Server) -> dict:
    return {"model": {"id": MODEL}, "endpoints": [{"url": server.url, "concurrency": CONCURRENCY}]}


def start(recipe: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "judge", "score", str(recipe), *words],
        cwd=ROOT,
        env={**os.environ, "UNIME_JUDGE_API_KEY": "a-secret-key"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()[-3000:]


def test_five_real_kills_lose_nothing_and_pay_twice_only_what_was_in_flight(tmp_path):
    write_job(tmp_path, QUERIES)
    distinct = QUERIES * (CANDIDATES + 1)
    with Server() as server:
        end(start(recipe_for(tmp_path, "alone", "vllm", served_by(server), "scores_alone")))
        assert server.number == distinct
        server.number = 0
        recipe = recipe_for(tmp_path, "killed", "vllm", served_by(server), "scores")
        rng, killed = random.Random(0), 0
        for kill in range(KILLS):
            process, calls = start(recipe), (kill + rng.random()) * distinct / (KILLS + 1)
            while process.poll() is None and server.number < calls:
                time.sleep(0.01)
            killed += process.poll() is None
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        assert killed == KILLS
        end(start(recipe))
        # Calls under way, and at most half as many replies that were not on disk yet.
        assert distinct <= server.number <= distinct + KILLS * (CONCURRENCY + CONCURRENCY // 2)
    tables = [(tmp_path / name / "judged.parquet").read_bytes() for name in ("alone", "killed")]
    assert tables[0] == tables[1]


def test_two_writers_of_one_store_pay_once(tmp_path):
    write_job(tmp_path, QUERIES)
    distinct = QUERIES * (CANDIDATES + 1)
    with Server() as server:
        recipe = recipe_for(tmp_path, "both", "vllm", served_by(server), "scores")
        for process in [start(recipe, "--shard", f"{number}/2") for number in range(2)]:
            end(process)
        assert server.number == distinct
        end(start(recipe))
        assert server.number == distinct
    with ScoreStore(tmp_path / "scores") as store:
        assert len(store) == distinct


def test_a_job_asked_for_again_calls_nobody(tmp_path, monkeypatch):
    write_job(tmp_path, 2000)
    asked = []
    original = FakeEngine.score
    monkeypatch.setattr(
        FakeEngine, "score", lambda self, r: (asked.append(len(r)), original(self, r))[1]
    )
    execute("unime.judge.stage", recipe_for(tmp_path, "first", "fake", {}, "scores"))
    assert sum(asked) == 2000 * (CANDIDATES + 1)
    execute("unime.judge.stage", recipe_for(tmp_path, "second", "fake", {}, "scores"))
    assert sum(asked) == 2000 * (CANDIDATES + 1)
    tables = [(tmp_path / name / "judged.parquet").read_bytes() for name in ("first", "second")]
    assert tables[0] == tables[1]
