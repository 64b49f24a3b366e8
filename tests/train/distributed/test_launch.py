"""`accelerate launch` and torchrun with two processes train what one process trains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from safetensors.numpy import load_file

from tests.families import build_family
from tests.models.test_self_check import change, zero_projector
from tests.train.distributed.launch import (
    ROOT,
    torchrun,
    torchrun_command,
    two_process_environment,
)
from tests.train.folder import drawn_folder
from unime.core import files
from unime.core.stage import entry_of, stage_of
from unime.stages import recipes_in

LAUNCH = ROOT / "recipes/launch"


def write_recipe(folder: Path, name: str, stage: str = "contrast", **training) -> Path:
    """A recipe that trains an adapter on drawn pictures, in several chunks a batch."""
    if not (folder / "base").exists():
        build_family("qwen2_vl", folder / "base")
        drawn_folder(folder / "d")
    recipe = {
        "stage": stage,
        "output": str(folder / name),
        "model": {"id": str(folder / "base")},
        "data": str(folder / "d"),
        "tune": {"parts": ["language"], "r": 2},
        "budget": {"items": 4},
        "dev_queries": 4,
        "training": {
            "global_batch_size": 8,
            "max_steps": 4,
            "learning_rate": 1e-2,
            "save_steps": 2,
            "eval_steps": 4,
            "logging_steps": 1,
            **training,
        },
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in files.read_lines(folder / "train.jsonl")]
    return [line["loss"] for line in lines if "loss" in line]


def processes(folder: Path) -> int:
    return files.read_json(folder / "run.json")["processes"]


def one_process(recipe: Path, *changes: str, stage: str = "contrast") -> None:
    command = [sys.executable, "-m", "unime", stage, str(recipe), *changes]
    subprocess.run(command, cwd=ROOT, env=alone(), check=True, timeout=540)


def alone() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def accelerate(
    config: str, recipe: Path, *changes: str, stage: str = "contrast"
) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "accelerate.commands.launch",
        "--config_file", str(LAUNCH / config), "-m", "unime", stage, str(recipe), *changes,
    ]  # fmt: skip
    return subprocess.run(
        command,
        cwd=ROOT,
        env=two_process_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp", "zero2", "zero3"])
def test_two_processes_train_what_one_trains(config: str, tmp_path: Path):
    one_process(write_recipe(tmp_path, "one"))
    done = accelerate(f"{config}.yaml", write_recipe(tmp_path, "two"))
    assert done.returncode == 0, done.stderr[-4000:]
    assert (processes(tmp_path / "one"), processes(tmp_path / "two")) == (1, 2)
    assert np.allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=2e-4)
    facts = [files.read_json(tmp_path / name / "facts.json") for name in ("one", "two")]
    assert facts[0]["steps"] == facts[1]["steps"]


@pytest.mark.slow
def test_a_blind_model_is_refused_on_all_processes(tmp_path: Path):
    recipe = write_recipe(tmp_path, "blind")
    change(tmp_path / "base", zero_projector)
    done = accelerate("zero3.yaml", recipe)
    assert done.returncode != 0
    assert done.stderr.count("another picture changes its output by") == 2


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp", "zero3"])
def test_two_processes_train_the_reranker_that_one_trains(config: str, tmp_path: Path):
    recipes = [write_recipe(tmp_path, name, "rerank") for name in ("one", "two")]
    one_process(recipes[0], stage="rerank")
    done = accelerate(f"{config}.yaml", recipes[1], stage="rerank")
    assert done.returncode == 0, done.stderr[-4000:]
    assert (processes(tmp_path / "one"), processes(tmp_path / "two")) == (1, 2)
    assert np.allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=2e-4)
    weights = [load_file(tmp_path / name / "model/model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        assert np.allclose(value, weights[1][key], atol=1e-3), key


@pytest.mark.slow
def test_smokes_stage_2_has_the_metrics_of_one_process(tmp_path: Path):
    """The recipe as it is: selected negatives, judge's scores, dev evaluation; the same batches."""
    smoke, run = ROOT / "recipes/smoke", f"run={tmp_path}"
    batch = "training.global_batch_size=8"
    subprocess.run(
        [sys.executable, "-m", "research.world", "teacher", "runs/teacher"], cwd=ROOT, check=True
    )
    for recipe in recipes_in(smoke):
        if recipe.stem == "6_contrast":
            break
        command = [sys.executable, "-m", *entry_of(stage_of(recipe)).words, str(recipe), run]
        subprocess.run(command, cwd=ROOT, env=alone(), check=True, timeout=540)
    one_process(smoke / "6_contrast.yaml", run, batch, f"output={tmp_path / 'one'}")
    changes = (run, batch, f"output={tmp_path / 'two'}")
    done = accelerate("ddp.yaml", smoke / "6_contrast.yaml", *changes)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (processes(tmp_path / "one"), processes(tmp_path / "two")) == (1, 2)
    logs = [
        [json.loads(line) for line in files.read_lines(tmp_path / name / "train.jsonl")]
        for name in ("one", "two")
    ]
    assert len(logs[0]) == len(logs[1])
    assert sum("eval_hit@1" in line for line in logs[0]) == 2
    for one, two in zip(*logs, strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            # Padding hangs on how rows are dealt out.
            assert name == "padding" or np.isclose(two[name], value, rtol=1e-3, atol=1e-5), name


@pytest.mark.slow
def test_fsdp2_without_a_gpu_is_refused_with_the_reason(tmp_path: Path):
    done = accelerate("fsdp2.yaml", write_recipe(tmp_path, "two"))
    assert done.returncode != 0
    assert "FSDP2 needs GPUs: without any, accelerate would silently run DDP" in done.stderr


@pytest.mark.slow
def test_killed_then_stopped_on_two_processes_then_finished_on_one(tmp_path: Path):
    """SIGKILL, resume, SIGTERM, resume on one process: the losses of an uninterrupted run."""
    length: dict[str, Any] = {"max_steps": 40, "save_steps": 2}
    one_process(write_recipe(tmp_path, "one", **length))
    recipe, out = write_recipe(tmp_path, "two", **length), tmp_path / "two"
    for signum in (signal.SIGKILL, signal.SIGTERM):
        before = newest_checkpoint(out)
        command = torchrun_command("-m", "unime", "contrast", str(recipe))
        running = subprocess.Popen(
            command,
            cwd=ROOT,
            env=two_process_environment(),
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        wait_until(lambda: newest_checkpoint(out) > before, running)  # noqa: B023
        if signum == signal.SIGKILL:
            # torchrun's workers have sessions of their own: killed alone, it leaves them at work.
            everybody = [*psutil.Process(running.pid).children(recursive=True), running]
            for process in everybody:
                process.kill()
        else:
            running.send_signal(signum)
        _, errors = running.communicate(timeout=300)
        if signum == signal.SIGTERM:
            assert b"stopped by SIGTERM" in errors, errors[-3000:]
            assert running.returncode != 0
    assert not (out / "manifest.json").exists()
    one_process(recipe)
    assert processes(out) == 1
    assert np.allclose(losses(out), losses(tmp_path / "one"), rtol=2e-4)


def newest_checkpoint(out: Path) -> int:
    return max(
        (int(p.parent.name.rpartition("-")[2]) for p in out.glob("checkpoints/*/complete.json")),
        default=0,
    )


def wait_until(condition, running: subprocess.Popen, seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert running.poll() is None, "ended before it could be stopped"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


@pytest.mark.slow
def test_torchrun_script_starts_two_processes(tmp_path: Path):
    recipe = write_recipe(tmp_path, "two", max_steps=1)
    done = subprocess.run(
        ["sh", str(LAUNCH / "torchrun.sh"), "contrast", str(recipe)],
        cwd=ROOT,
        env=two_process_environment(
            NODES="1", PROCESSES="2", RENDEZVOUS="127.0.0.1:0", PYTHON=sys.executable
        ),
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert processes(tmp_path / "two") == 2


@pytest.mark.slow
def test_a_stage_of_one_process_says_so(tmp_path: Path):
    done = torchrun("-m", "unime", "select", "recipes/smoke/5_select.yaml")
    assert "stage 'select' runs in one process" in done.stderr
