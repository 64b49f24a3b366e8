"""One of several processes: takes cached steps under a backend and writes what came out.

python step_worker.py BACKEND MODEL_FOLDER OUT; started by torchrun.
"""

from __future__ import annotations

import faulthandler
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tests.train.toy import Outputs
from unime.core.processes import connect, ranks
from unime.losses import Combined
from unime.models.adapters import LoraSection, train_parts
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput
from unime.models.model_config import ModelConfig
from unime.train import checkpoints
from unime.train.backends import runner_of
from unime.train.batch import Layout
from unime.train.chunking import ChunkBudget, estimate_sizes
from unime.train.loader import BatchSource
from unime.train.sampler import TaskBatches
from unime.train.step import cached_step

COLOURS = ("red", "green", "blue", "yellow", "white", "purple", "orange", "grey")
RATE = 1e-2


class Scenario(NamedTuple):
    """A batch: how many texts and pictures, how cut, and what is trained."""

    texts: int
    pictures: int
    items: int
    tune: dict[str, Any]


FULL = {"method": "full", "parts": ["language", "vision", "projector"]}
LORA = {"parts": ["language"], "r": 2}
SCENARIOS = {
    "many chunks": Scenario(10, 6, 3, LORA),
    "one picture, so one process has none": Scenario(7, 1, 4, LORA),
    "trained tower, one picture": Scenario(7, 1, 4, FULL),
    "trained tower, texts alone": Scenario(6, 0, 2, FULL),
    "trained tower, five chunks": Scenario(3, 9, 2, FULL),
    "a text for one process alone": Scenario(1, 2, 8, LORA),
}


def encodes_of(scenario: Scenario) -> list[ModelInput]:
    texts = [
        ModelInput(f"a {COLOURS[i % 8]} circle {'left ' * i}", None) for i in range(scenario.texts)
    ]
    pictures = [
        ModelInput(
            "", Image.new("RGB", (28, 28 + 28 * (i % 2)), COLOURS[i % 8]), "target", "represent it"
        )
        for i in range(scenario.pictures)
    ]
    return texts + pictures


def loss(embeddings: Tensor) -> Combined:
    """Contrast neighbours: depends on every pair of embeddings."""
    similarity = embeddings @ embeddings.T / 0.1
    labels = (torch.arange(len(embeddings)) + 1) % len(embeddings)
    hidden = torch.eye(len(embeddings), dtype=torch.bool)
    total = nn.functional.cross_entropy(similarity.masked_fill(hidden, -1e4), labels)
    return Combined(total, {})


def load(folder: str, scenario: Scenario, dtype: torch.dtype) -> Embedder:
    embedder = Embedder.load(ModelConfig(id=folder, dtype="float32"), "cpu")
    torch.manual_seed(0)
    train_parts(embedder.backbone, LoraSection(**scenario.tune))
    for name, parameter in embedder.module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    embedder.module.to(dtype)
    return embedder


def prepare(model: nn.Module, backend: str) -> Any:
    """Wrap the model as accelerate would."""
    if backend == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    if backend == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        for layer in model.module[0].model.language_model.layers:  # type: ignore[union-attr, index]
            fully_shard(layer)
        fully_shard(model)
        return model
    import deepspeed

    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": int(backend[-1]), "stage3_param_persistence_threshold": 0},
        # Its default is 1: the gradient that is compared would be a clipped one.
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=RATE)
    parameters: Any = trained  # DeepSpeed's annotation forgets lists.
    return deepspeed.initialize(
        model=model, optimizer=optimizer, config=config, model_parameters=parameters
    )[0]


class ScenarioLayout:
    """One batch of a scenario's inputs."""

    def __init__(self, scenario: Scenario) -> None:
        self.batches = TaskBatches({"all": np.arange(2)}, 2, 0)
        self.inputs = encodes_of(scenario)

    def layout(self, number: int) -> Layout:
        characters = np.array([len(one.text) for one in self.inputs])
        pixels = np.array([e.image.width * e.image.height if e.image else 0 for e in self.inputs])
        targets = np.array([one.side == "target" for one in self.inputs])
        config = ModelConfig(id="")
        sizes = np.where(
            targets[:, None],
            estimate_sizes(characters, pixels, config, "target"),
            estimate_sizes(characters, pixels, config),
        )
        return Layout("all", self.inputs, sizes, Outputs(), {})

    def load(self, entry: ModelInput) -> ModelInput:
        return entry


def take_step(embedder: Embedder, model: Any, scenario: Scenario) -> float:
    budget = ChunkBudget(items=scenario.items)
    batch = BatchSource(ScenarioLayout(scenario), embedder.features, budget)[0]
    runner = runner_of(model, embedder.vision, torch.device("cpu"))
    embedder.network.shares_prefix = not runner.shards_weights
    with runner.step(True):
        return cached_step(batch, runner, loss).combined.total.item()


def gradients(module: nn.Module, before: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """The gradients; where an engine has used them up, by what they did to the weights."""
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if before is not None:
        return {n: (before[n] - checkpoints.whole(p)) / RATE for n, p in named.items()}
    found = {}
    for name, parameter in named.items():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        found[name] = checkpoints.whole(nn.Parameter(gradient)).clone()
    return found


def main(backend: str, folder: str, out: Path) -> None:
    # A hang shows where before the test's own limit.
    faulthandler.dump_traceback_later(500, exit=True)
    connect()
    here = ranks()
    assert torch.distributed.get_world_size() == here.world == 2
    dtype = torch.float32 if backend.startswith("zero") else torch.float64
    results = {}
    for name, scenario in SCENARIOS.items():
        embedder = load(folder, scenario, dtype)
        before = None
        if backend.startswith("zero"):
            before = {n: p.detach().clone() for n, p in embedder.module.named_parameters()}
        model = prepare(embedder.network, backend)
        value = take_step(embedder, model, scenario)
        results[name] = (value, gradients(embedder.module, before))
    torch.save(results, out / f"{here.rank}.pt")
    torch.distributed.barrier()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
