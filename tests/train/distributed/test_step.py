"""Two processes take the step that one takes on the whole batch: loss and gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.families import build_family
from tests.train.distributed.launch import torchrun
from tests.train.distributed.step_worker import SCENARIOS, Scenario, gradients, load, take_step

WORKER = str(Path(__file__).with_name("step_worker.py"))
TOLERANCE = {"ddp": 1e-6, "fsdp2": 1e-6, "zero2": 2e-4, "zero3": 2e-4}
"""Relative to the largest gradient. Qwen's norms compute in fp32 whatever the weights are; DeepSpeed
is in fp32 altogether, and its gradient is read from what it did to the weights."""


def reference(folder: Path, scenario: Scenario, dtype: torch.dtype) -> tuple[float, dict]:
    """One process, one graph through the whole batch."""
    embedder = load(str(folder), scenario._replace(items=1000), dtype)
    value = take_step(embedder, embedder.network, scenario)
    return value, gradients(embedder.module, None)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ddp", "fsdp2", "zero2", "zero3"])
def test_two_processes_are_one(backend: str, tmp_path: Path):
    model = build_family("qwen2_vl", tmp_path / "model")
    done = torchrun(WORKER, backend, str(model), str(tmp_path))
    assert done.returncode == 0, done.stderr[-4000:]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    dtype = torch.float32 if backend.startswith("zero") else torch.float64
    for name, scenario in SCENARIOS.items():
        value, expected = reference(model, scenario, dtype)
        largest = max(gradient.abs().max() for gradient in expected.values())
        assert largest > 1e-3
        for loss_value, ours in (results[name] for results in found):
            assert loss_value == pytest.approx(value, rel=1e-6), name
            assert ours.keys() == expected.keys()
            for key, gradient in expected.items():
                error = (ours[key] - gradient).abs().max() / largest
                assert error < TOLERANCE[backend], (name, key, float(error))
