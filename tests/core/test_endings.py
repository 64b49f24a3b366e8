"""How a command ends: told to stop, out of space, with a damaged file; and two of one kind at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.families import build_family
from tests.train.folder import drawn_folder
from unime.core import files

ROOT = Path(__file__).resolve().parents[2]

TOY = """
import sys, types, time
from pathlib import Path
import typer
from unime.core import files, stage
from unime.cli import main
from unime.core.stage import stage_command
from unime.core.config import Recipe

class ToyRecipe(Recipe):
    do: str
    seconds: float = 0

toy = types.ModuleType("toy_stage")
toy.RECIPE = ToyRecipe
toy.inputs = lambda recipe: {}

def run(recipe, out):
    files.write_text(out.file("begun"), "1")
    time.sleep(recipe.seconds)
    exec(recipe.do)

toy.run = run
sys.modules["toy_stage"] = toy
stage.stages()["toy"] = stage.StageEntry("toy_stage", ("toy",), "")
app = typer.Typer()
app.command()(stage_command("toy_stage"))
main(app)
"""


def start(tmp_path: Path, do: str, *words: str) -> subprocess.Popen[str]:
    """Start a stage that does one thing; its recipe is toy.yaml, its output out."""
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump({"stage": "toy", "output": "out", "do": do}))
    return subprocess.Popen(
        [sys.executable, "-c", TOY, "toy.yaml", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.02)


def test_sigterm_ends_a_stage_with_143_and_says_how_to_go_on(tmp_path: Path):
    process = start(tmp_path, "pass", "seconds=600")
    wait_for(tmp_path / "out/begun", process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 143
    assert "toy: stopped by SIGTERM, out is unfinished; the same command resumes it" in said
    assert "Traceback" not in said
    # Nobody has the lock now, and nothing has to be done by hand.
    resumed = start(tmp_path, "pass", "seconds=600")
    wait_for(tmp_path / "out/.lock", resumed)
    resumed.kill()
    resumed.communicate()


@pytest.mark.parametrize(
    ("do", "sentence"),
    [
        (
            "raise OSError(28, 'No space left on device', 'out/table.parquet')",
            "error: out/table.parquet: No space left on device; free some space, then the same "
            "command carries on\n",
        ),
        (
            "raise OSError(30, 'Read-only file system', 'out')",
            "error: out: Read-only file system; choose another place with output=FOLDER\n",
        ),
        (
            "files.read_json('toy.yaml')",
            "error: toy.yaml is damaged, it is not JSON: Expecting value: line 1 column 1 (char 0)\n",
        ),
    ],
)
def test_what_the_system_refuses_is_one_sentence(tmp_path: Path, do: str, sentence: str):
    process = start(tmp_path, do)
    _, said = process.communicate()
    assert process.returncode == 2
    assert said.endswith(sentence) and "Traceback" not in said


def test_of_two_on_one_output_one_works_and_the_other_says_who_does(tmp_path: Path):
    first = start(tmp_path, "pass", "seconds=600")
    wait_for(tmp_path / "out/begun", first)
    second = start(tmp_path, "pass", "seconds=600")
    _, said = second.communicate()
    assert second.returncode == 2
    assert f"out is being written by process {first.pid} on " in said
    first.kill()
    first.communicate()


@pytest.mark.slow
def test_sigterm_to_unime_run_stops_the_training_it_runs(tmp_path: Path):
    build_family("qwen3_vl", tmp_path / "base")
    drawn_folder(tmp_path / "d")
    recipe = {
        "stage": "contrast", "output": str(tmp_path / "out"), "model": {"id": str(tmp_path / "base")},
        "data": str(tmp_path / "d"), "tune": {"parts": ["language"]},
        "training": {"per_device_train_batch_size": 6, "max_steps": 100000, "learning_rate": 1e-3,
                     "save_steps": 2, "logging_steps": 1},
    }  # fmt: skip
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/2_contrast.yaml").write_text(yaml.safe_dump(recipe))
    words = [sys.executable, "-m", "unime", "run", str(tmp_path / "recipes")]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "out/train.jsonl", process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 143, said
    assert "is unfinished; the same command resumes it" in said
    (checkpoint,) = sorted((tmp_path / "out/checkpoints").iterdir())[-1:]
    assert (checkpoint / "complete.json").is_file()
    files.read_json(tmp_path / "out/plan.json")
