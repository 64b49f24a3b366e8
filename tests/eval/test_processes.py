"""Several encoding processes, and a run killed with -9, on a real tiny model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import ROOT
from tests.eval.small import recipe, write_world
from tests.families import build_family
from unime.core import files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    write_world(folder / "world")
    build_family("qwen3_vl", folder / "model")
    return folder


def write_recipe(place: Path, name: str, **changes) -> Path:
    values = recipe(place / "world", place / name, ["first"])
    values["models"][0]["model"] = {"id": str(place / "model"), "dtype": "float32"}
    values |= {"batch_size": 8, "results": str(place / f"{name}.json"), **changes}
    path = place / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def start(path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "eval", "run", str(path)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)


def test_two_processes_give_what_one_gives(place):
    for name, processes in (("one", 1), ("two", 2)):
        cache = str(place / f"cache-{name}")
        path = write_recipe(place, name, processes=processes, embedding_cache=cache)
        assert start(path).wait() == 0
    one, two = ({}, {})
    for name, found in (("one", one), ("two", two)):
        for block in (place / f"cache-{name}").glob("*/*.npz"):
            with np.load(block) as content:
                found |= {
                    i.tobytes(): v for i, v in zip(content["ids"], content["values"], strict=True)
                }
    assert one.keys() == two.keys() and len(one) > 100
    assert max(np.abs(one[key] - two[key]).max() for key in one) < 1e-5
    rows = [files.read_json(place / f"{name}.json")["rows"][0] for name in ("one", "two")]
    assert rows[0]["datasets"] == rows[1]["datasets"]


def test_killed_with_9_a_run_does_not_encode_again_what_it_has(place):
    # Two processes cut the work into several blocks.
    path = write_recipe(place, "killed", processes=2)
    running = start(path)
    blocks = place / "killed/embeddings"
    while not list(blocks.glob("*/[!.]*.npz")):
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (place / "killed.json").exists()
    assert start(path).wait() == 0
    timing = files.read_json(place / "killed/first/timing.json")
    assert 0 < timing["encoded_now"] < timing["encodes"]
    assert files.read_json(place / "killed.json")["rows"][0]["datasets"]
