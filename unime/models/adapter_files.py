"""Adapters as files of their own, in peft's layout, beside the merged weights.

Each training stage merges its adapter, so the next one starts from merged weights. The adapters of
all stages, laid side by side, are one adapter of the checkpoint that the first stage started from:
W + B1 A1 + B2 A2 = W + [B1 B2] [A1; A2].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unime.core import files
from unime.core.errors import ModelError
from unime.models.adapters import ADAPTER, adapted_layers

NAME = "adapter"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."

Layers = dict[str, tuple[Tensor, Tensor]]
"""Name of a linear layer -> (A `(r, in)`, B `(out, r)`), scaling multiplied into B."""


def save_adapter(model: nn.Module, base: str, folder: Path) -> bool:
    """Write a model's adapter, if it has one, into `folder`; tell whether it has.

    Args:
        model: the backbone.
        base: the checkpoint that it adapts.
        folder: created when missing.
    """
    names = {module: name for name, module in model.named_modules()}
    layers: Layers = {}
    for _, _, layer in adapted_layers(model):
        down = layer.lora_A[ADAPTER].weight.detach().float().cpu()
        up = layer.lora_B[ADAPTER].weight.detach().float().cpu() * layer.scaling[ADAPTER]
        layers[names[layer]] = (down, up)
    if layers:
        write_layers(layers, base, folder)
    return bool(layers)


def combine_adapters(folders: Sequence[Path], base: str, target: Path) -> None:
    """Write the adapters of several stages as one adapter of the first stage's start.

    Args:
        folders: model folders in the order they were trained, each with its `adapter/`.
        base: what the first stage started from.
        target: the folder to fill.

    Raises:
        ModelError: when a stage left no adapter (it trained all weights).
    """
    layers: Layers = {}
    for folder in folders:
        if not (folder / NAME / WEIGHTS).is_file():
            raise ModelError(
                f"{folder} has no {NAME}/: its stage trained weights themselves (method: full), so "
                "there is no adapter to export; set adapter: false"
            )
        for name, added in read_layers(folder / NAME).items():
            downs, ups = zip(*(pair for pair in (layers.get(name), added) if pair), strict=True)
            layers[name] = (torch.cat(downs), torch.cat(ups, dim=1))
    write_layers(layers, base, target)


def write_layers(layers: Layers, base: str, folder: Path) -> None:
    """Write layers as a peft adapter whose scaling is 1."""
    from peft import LoraConfig, TaskType
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    ranks = {name: down.shape[0] for name, (down, _) in layers.items()}
    rank = max(ranks.values())
    other = {name: r for name, r in ranks.items() if r != rank}
    settings: dict[str, Any] = {"rank_pattern": other, "alpha_pattern": dict(other)}
    LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        base_model_name_or_path=base,
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(layers),
        bias="none",
        inference_mode=True,
        **settings,
    ).save_pretrained(str(folder))
    # peft keeps the names in a set, whose order differs from process to process.
    config = files.read_json(folder / "adapter_config.json")
    config["target_modules"] = sorted(config["target_modules"])
    files.write_json(folder / "adapter_config.json", config)
    tensors = {}
    for name, (down, up) in layers.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = down.contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = up.contiguous()
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def read_layers(folder: Path) -> Layers:
    """Read what `write_layers` wrote."""
    from safetensors.torch import load_file

    tensors = load_file(folder / WEIGHTS)
    names = {key.removeprefix(_PREFIX).rpartition(".lora_")[0] for key in tensors}
    return {
        name: (
            tensors[f"{_PREFIX}{name}.lora_A.weight"],
            tensors[f"{_PREFIX}{name}.lora_B.weight"],
        )
        for name in sorted(names)
    }
