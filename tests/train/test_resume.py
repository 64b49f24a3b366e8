"""A run that is killed and resumed ends in the same bytes as one that is not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.families import build_family
from tests.train.folder import drawn_folder
from unime.core import files
from unime.core.provenance import open_output
from unime.train import checkpoints, contrast
from unime.train.contrast import ContrastRecipe

SCRIPT = """
import sys
from unime.core import files
from unime.core.provenance import open_output
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


def recipe_json(output: Path, workers: int) -> str:
    folder = output.parent
    recipe = ContrastRecipe.model_validate(
        {
            "stage": "contrast",
            "output": str(output),
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


class Killed(BaseException):
    """Not an Exception, so that nothing on the way handles it."""


def test_stopped_at_every_kind_of_commit_it_ends_in_the_same_bytes(tmp_path, monkeypatch):
    prepare(tmp_path)
    moments: list[str] = []
    monkeypatch.setattr(files, "on_commit", moments.append)
    fill(tmp_path / "whole")
    kinds = list(dict.fromkeys(m for m in moments if "plan.json" not in m and "manifest" not in m))
    assert {"before complete.json", "after model", "before facts.json"} <= set(kinds)

    for number, kind in enumerate(kinds):
        # Every third one at its second occurrence, where there is one.
        left = [1 + (number % 3 == 2 and moments.count(kind) > 1)]

        def stop(moment: str, kind: str = kind, left: list[int] = left) -> None:
            left[0] -= moment == kind
            if left[0] == 0:
                left[0] = -1
                raise Killed

        monkeypatch.setattr(files, "on_commit", stop)
        # What an earlier stop has completed is not done again, and then not stopped at.
        with contextlib.suppress(Killed):
            fill(tmp_path / "killed")
    monkeypatch.setattr(files, "on_commit", None)
    fill(tmp_path / "killed")
    assert_same(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_killed_runs_end_like_an_uninterrupted_one(tmp_path, workers):
    """SIGKILL when a checkpoint is half written, when it is whole, and before the model is."""
    prepare(tmp_path)
    whole, killed = (recipe_json(tmp_path / name, workers) for name in ("whole", "killed"))
    assert run(whole) == 0
    for moment, count in (
        ("before complete.json", 1),
        ("after complete.json", 1),
        ("before model", 1),
    ):
        assert run(killed, moment, count) == -signal.SIGKILL
    assert run(killed) == 0
    assert_same(tmp_path)


def prepare(folder: Path) -> None:
    build_family("qwen3_vl", folder / "base")
    drawn_folder(folder / "d")


def fill(output: Path) -> None:
    recipe = ContrastRecipe.model_validate_json(recipe_json(output, 0))
    out = open_output(recipe, contrast.inputs(recipe))
    if not out.up_to_date:
        contrast.run(recipe, out)
        out.finish()


def assert_same(folder: Path) -> None:
    whole, killed = folder / "whole", folder / "killed"
    files_of = (path for path in sorted((whole / "model").rglob("*")) if path.is_file())
    model = [path.relative_to(whole).as_posix() for path in files_of]
    for name in (*model, "train.jsonl", "facts.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert sorted(p.name for p in killed.iterdir()) == sorted(p.name for p in whole.iterdir())


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
