"""What is trained: adapters on named parts of the model, or those parts themselves.

Parts are found by looking at the model's modules, so the same recipe serves every family. What
matched is logged; a part or a name that matches nothing is an error, because a silently skipped
vision tower has cost others whole runs.

Each training stage merges its adapter, so the next one starts from merged weights. An adapter is also
written as a file of its own, in peft's layout. Those of all stages, laid side by side, are one adapter of
the checkpoint that the first stage started from: W + B1 A1 + B2 A2 = W + [B1 B2] [A1; A2].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from unime.core import files
from unime.core.config import Section
from unime.core.console import log
from unime.core.errors import ModelError, did_you_mean

Part = Literal["language", "vision", "projector"]

ADAPTER = "default"
"""The only adapter's name."""

# Names of the modules a part consists of, over the families; a projector may lie inside a tower.
_ROOTS: dict[str, tuple[str, ...]] = {
    "language": ("language_model", "text_model"),
    "vision": ("visual", "vision_tower", "vision_model"),
    "projector": (
        "visual.merger",
        "visual.deepstack_merger_list",
        "multi_modal_projector",
        "connector",
        "image_newline",
    ),
}

ADAPTER_FOLDER = "adapter"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
Layers = dict[str, tuple[Tensor, Tensor]]
"""Name of a linear layer -> (A `(r, in)`, B `(out, r)`), scaling multiplied into B."""


class LoraSection(Section):
    """How the model is adapted."""

    method: Literal["lora", "full"] = "lora"
    """Low-rank adapters on the parts' linear layers, or the parts' own weights."""
    parts: list[Part] = Field(default=["language"], min_length=1)
    target_modules: list[str] = Field(default=[])
    """Last names of the linear layers to adapt ("q_proj"); empty means all of the parts."""
    r: int = Field(default=16, gt=0)
    lora_alpha: float = Field(default=32, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)


def train_parts(model: nn.Module, section: LoraSection) -> None:
    """Freeze a transformers model, with or without language-model head, but for what is named.

    Args:
        model: changed in place; its weights keep their values.
        section: adapters or full training, of which parts.

    Raises:
        ModelError: when a part or a target name matches nothing.
    """
    parts = parts_of(model)
    for part in section.parts:
        if not any(found == part for found in parts.values()):
            raise ModelError(f"this model has no part '{part}'{did_you_mean(part, parts.values())}")
    model.requires_grad_(False)
    if section.method == "full":
        chosen = [name for name, part in parts.items() if part in section.parts]
        parameters = dict(model.named_parameters())
        for name in chosen:
            parameters[name].requires_grad_(True)
        _report(model, section, chosen)
        return
    targets = _targets(model, section, parts)
    _inject(model, section, targets)
    _report(model, section, targets)


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Let the model be its own merged version for a while; the adapters come back untouched.

    They are added to the weights that they adapt in float32.
    """
    replaced: list[tuple[nn.Module, str, Any, Tensor]] = []
    try:
        for parent, name, layer in list(adapted_layers(model)):
            base = layer.get_base_layer()
            replaced.append((parent, name, layer, base.weight.data))
            base.weight.data = _merged_weight(layer)
            setattr(parent, name, base)
        yield
    finally:
        for parent, name, layer, weight in replaced:
            layer.get_base_layer().weight.data = weight
            setattr(parent, name, layer)


def tower_is_frozen(model: nn.Module) -> bool:
    """Tell whether a transformers model's vision tower and projector are without any trainable weight.

    Their output is then a constant of the image, and may be computed once.
    """
    parameters = dict(model.named_parameters())
    return not any(
        parameters[name].requires_grad
        for name, part in parts_of(model).items()
        if part in ("vision", "projector")
    )


def parts_of(model: nn.Module) -> dict[str, str]:
    """Return the part of every parameter that belongs to one, by the parameter's name."""
    parts: dict[str, str] = {}
    for name, _ in model.named_parameters():
        path = f".{name}."
        # The projector first: in Qwen's models it lies inside the vision tower.
        for part in ("projector", "vision", "language"):
            if any(f".{root}." in path for root in _ROOTS[part]):
                parts[name] = part
                break
    return parts


def _targets(model: nn.Module, section: LoraSection, parts: dict[str, str]) -> list[str]:
    """Return the full names of the linear layers that get an adapter."""
    linear = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and parts.get(f"{name}.weight") in section.parts
    }
    if not section.target_modules:
        return sorted(linear)
    targets: set[str] = set()
    for wanted in section.target_modules:
        matching = {name for name in linear if name.rpartition(".")[2] == wanted}
        if not matching:
            known = {name.rpartition(".")[2] for name in linear}
            raise ModelError(
                f"target module '{wanted}' matches no linear layer of the parts "
                f"{', '.join(section.parts)}{did_you_mean(wanted, known)}"
            )
        targets |= matching
    return sorted(targets)


def _inject(model: nn.Module, section: LoraSection, targets: list[str]) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=section.r,
        lora_alpha=section.lora_alpha,  # type: ignore[arg-type]  # peft divides it by r, no more
        lora_dropout=section.lora_dropout,
        target_modules=targets,
        bias="none",
    )
    inject_adapter_in_model(config, model, ADAPTER)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            # Adapters stay in float32 beside half-precision weights: their updates are tiny.
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)


def adapted_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Yield (parent, attribute name, adapted layer) of every layer with an adapter."""
    from peft.tuners.lora import LoraLayer

    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, LoraLayer):
                yield parent, name, layer


@torch.no_grad()
def _merged_weight(layer: Any) -> Tensor:
    """Return W + scaling * B @ A, computed in float32 and cast to W's type."""
    weight = layer.get_base_layer().weight
    down, up = layer.lora_A[ADAPTER].weight.float(), layer.lora_B[ADAPTER].weight.float()
    return (weight.float() + layer.scaling[ADAPTER] * (up @ down)).to(weight.dtype)


def _report(model: nn.Module, section: LoraSection, names: list[str]) -> None:
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    kinds = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in names})
    log(
        f"{section.method} on {', '.join(section.parts)}: {len(names)} "
        f"{'layers' if section.method == 'lora' else 'weights'} ({', '.join(kinds)}), "
        f"{trainable:,} of {total:,} parameters trained"
    )


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
        if not (folder / ADAPTER_FOLDER / ADAPTER_WEIGHTS).is_file():
            raise ModelError(
                f"{folder} has no {ADAPTER_FOLDER}/: its stage trained weights themselves (method: full), so "
                "there is no adapter to export; set adapter: false"
            )
        for name, added in read_layers(folder / ADAPTER_FOLDER).items():
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
    save_file(tensors, folder / ADAPTER_WEIGHTS, {"format": "pt"})


def read_layers(folder: Path) -> Layers:
    """Read what `write_layers` wrote."""
    from safetensors.torch import load_file

    tensors = load_file(folder / ADAPTER_WEIGHTS)
    names = {key.removeprefix(_PREFIX).rpartition(".lora_")[0] for key in tensors}
    return {
        name: (
            tensors[f"{_PREFIX}{name}.lora_A.weight"],
            tensors[f"{_PREFIX}{name}.lora_B.weight"],
        )
        for name in sorted(names)
    }
