"""Killed at any moment, the same command ends with the output of a run that was left alone."""

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

from tests.families import build_family
from tests.kill_everywhere import contents
from unime.core import files
from unime.core.stage import entry_of, stage_of, stages
from unime.stages import recipes_in

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ROOT / "recipes" / "smoke"
KILLS = int(os.environ.get("UNIME_TEST_KILLS", "3"))
DAMAGES = int(os.environ.get("UNIME_TEST_DAMAGES", "2"))
PAIRS = int(os.environ.get("UNIME_TEST_PAIRS", "2"))
"""Of each stage; by hand with 20."""


@pytest.mark.slow
def test_three_real_kills_of_every_stage_change_nothing(tmp_path: Path) -> None:
    run_program("research.world", "teacher", "runs/teacher")
    rng = random.Random(0)
    for recipe in recipes_in(SMOKE):
        words = [*entry_of(stage_of(recipe)).words, str(recipe), f"run={tmp_path / 'run'}"]
        run_program(*words)
        out, alone = tmp_path / "run" / recipe.stem, tmp_path / "alone" / recipe.stem
        # Both runs write to the same place: cards and manifests name it.
        alone.parent.mkdir(exist_ok=True)
        out.rename(alone)
        seconds = files.read_json(alone / "run.json")["seconds"]
        for _ in range(KILLS):
            kill_within(words, out, rng.uniform(0, seconds))
        run_program(*words)
        expected, found = contents(alone), contents(out)
        assert found.keys() == expected.keys(), recipe.name
        for name, value in expected.items():
            assert found[name] == value, f"{recipe.stem}/{name}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "times"), [("damage_everywhere", DAMAGES), ("two_writers", PAIRS)]
)
def test_every_stage_damaged_and_started_twice(program: str, times: int, tmp_path: Path):
    """A flipped byte is an error or changes nothing; of two writers one is told who the other is."""
    run_program("research.world", "teacher", "runs/teacher")
    modules = {name: entry.module for name, entry in stages().items()}
    refused = 0
    for recipe in recipes_in(SMOKE):
        out = tmp_path / "run" / recipe.stem
        words = [modules[stage_of(recipe)], str(recipe), str(out), str(times)]
        done = subprocess.run(
            [sys.executable, "-m", f"tests.{program}", *words, f"run={tmp_path / 'run'}"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{recipe.name}: {done.stderr[-4000:]}"
        print(program, recipe.stem, done.stdout.splitlines()[-1], flush=True)  # noqa: T201
        refused += int(done.stdout.splitlines()[-1])
    assert refused > 0


def run_program(*words: str) -> None:
    """Run `python -m WORDS` from the checkout."""
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr[-4000:]}"


def kill_within(words: list[str], out: Path, seconds: float) -> None:
    """Start a stage and kill it, with its workers, so long after it opened its output."""
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (out / "plan.json").exists():
        time.sleep(0.02)
    time.sleep(seconds)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["world", "export", "eval"])
def test_stopped_at_every_durable_change(stage: str, tmp_path: Path) -> None:
    """The other stages have this test in their own rooms."""
    build_family("qwen3_vl", tmp_path / "base")
    world = {
        "stage": "world", "train_pairs": 4, "queries": 2, "candidates": 4, "compositional": 2,
        "workers": 1, "output": str(tmp_path / "world"),
    }  # fmt: skip
    model = {
        "id": str(tmp_path / "base"), "dtype": "float32",
        "min_pixels": 784, "max_pixels": 3136, "max_length": 512,
    }  # fmt: skip
    export = {"stage": "export", "model": model, "output": str(tmp_path / "export")}
    root = str(tmp_path / "read")
    evaluation = {
        "stage": "eval",
        "models": [{"name": name, "model": {**model, "prompt": f"embed/{name}.v1"}} for name in ("plain", "one_word")],
        "benchmarks": [{"name": "mini_mmeb", "root": root}, {"name": "mini_compositional", "root": root}],
        "output": str(tmp_path / "eval"),
    }  # fmt: skip
    recipes = {"world": world, "export": export, "eval": evaluation}
    modules = {
        "world": "research.world.build",
        "export": "unime.export.stage",
        "eval": "unime.eval.stage",
    }
    for name, recipe in recipes.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    if stage == "eval":
        run_program("research.world", "build", str(tmp_path / "world.yaml"), f"output={root}")
    # The same changes are made for each of many parts: every so many meet all kinds.
    stride = {"world": "23", "export": "3", "eval": "29"}[stage]
    words = [modules[stage], str(tmp_path / f"{stage}.yaml"), str(tmp_path / stage), stride]
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_everywhere", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) >= 4
