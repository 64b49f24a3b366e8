"""Stopped at a durable change, the world and an export end with the same output all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.families import build_family

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["world", "export"])
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
    recipes = {"world": world, "export": export}
    modules = {"world": "world.build", "export": "unime.export"}
    for name, recipe in recipes.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    # The same changes are made for each of many parts: every so many meet all kinds.
    stride = {"world": "23", "export": "3"}[stage]
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
