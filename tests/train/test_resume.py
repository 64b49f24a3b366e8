"""A run that is killed and resumed ends in the same bytes as one that is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.families import build_family
from tests.train.folder import drawn_folder
from unime import files
from unime.train import checkpoints

SCRIPT = """
import sys
from unime import files
from unime.provenance import open_output
from unime.train import contrast
from unime.train.contrast import ContrastRecipe

recipe = ContrastRecipe.model_validate_json(sys.argv[1])
count = 0


def die(moment):
    global count
    count += moment == sys.argv[2]
    if count == int(sys.argv[3]):
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)


files.on_commit = die
out = open_output(recipe, contrast.inputs(recipe))
contrast.run(recipe, out)
out.finish()
"""


def recipe_json(folder: Path, output: str, workers: int) -> str:
    from unime.train.contrast import ContrastRecipe

    recipe = ContrastRecipe.model_validate(
        {
            "stage": "contrast",
            "output": str(folder / output),
            "model": {"id": str(folder / "base")},
            "data": str(folder / "d"),
            "tune": {"parts": ["language"], "r": 2, "lora_dropout": 0.2},
            "budget": {"items": 6},
            "training": {
                "per_device_train_batch_size": 6,
                "max_steps": 4,
                "learning_rate": 1e-2,
                "warmup_steps": 2,
                "save_steps": 2,
                "eval_steps": 2,
                "logging_steps": 2,
                "dataloader_num_workers": workers,
            },
        }
    )
    return recipe.model_dump_json()


def run(recipe: str, moment: str = "", count: int = 1) -> int:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, recipe, moment, str(count)]
    return subprocess.run(command, env=environment, check=False).returncode


@pytest.mark.parametrize("workers", [0, 1])
def test_killed_runs_end_like_an_uninterrupted_one(tmp_path, workers):
    """Killed when a checkpoint is half written, when it is whole, and before the model is."""
    build_family("qwen3_vl", tmp_path / "base")
    drawn_folder(tmp_path / "d")
    whole, killed = (recipe_json(tmp_path, name, workers) for name in ("whole", "killed"))
    assert run(whole) == 0
    for moment, count in (
        ("before complete.json", 1),
        ("after complete.json", 1),
        ("before model", 1),
        ("before facts.json", 1),
    ):
        assert run(killed, moment, count) == -signal.SIGKILL
    assert run(killed) == 0
    for name in ("model/model.safetensors", "train.jsonl", "facts.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    for step in (2, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        checkpoints.commit(folder)
    (tmp_path / "checkpoint-12").mkdir()
    assert checkpoints.latest(tmp_path) == tmp_path / "checkpoint-10"
    (tmp_path / "checkpoint-10/model.safetensors").write_bytes(b"weighty")
    assert checkpoints.latest(tmp_path) == tmp_path / "checkpoint-2"
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["checkpoint-2"]
    files.remove_folder(tmp_path / "checkpoint-2")
    assert checkpoints.latest(tmp_path) is None
