"""`unime estimate RECIPE`: tokens, work, memory and time of a training step, before it runs.

Tokens and patches are counted on a sample of the recipe's own batches, prepared as training would; the
model's size is read from its configuration (weights are not loaded). Work is counted in multiply-adds of matrices, as
2 FLOPs each: 2 P per token and pass for P weights (Kaplan et al. 2020, arXiv 2001.08361, section
2.1) and 4 L s d for attention over s tokens. Memory of activations follows Korthikanti et al. 2022
(arXiv 2205.05198, section 4), without the attention matrix, which sdpa never stores. What a real
machine reaches of its peak is a guess unless it is given: all times are estimates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unime.core.config import load_recipe
from unime.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from unime.models.adapters import LoraSection
    from unime.train.contrast import ContrastRecipe

SAMPLE = 8
"""Batches that are counted."""
GB = 1e9
ACTIVATION_BYTES = 34
"""Of one layer, for each token and hidden unit, in half precision."""


@dataclass(frozen=True)
class Machine:
    """What the step is to run on."""

    gpus: int = 8
    memory_gb: float = 80.0
    tflops: float = 312.0
    """Peak of one in half precision; 312 is an A100's."""
    utilisation: float = 0.35
    """Share of the peak that training reaches."""


@dataclass(frozen=True)
class ModelPart:
    """One tower of the model."""

    weights: int
    """Without embedding tables: those cost no multiplication."""
    tables: int
    layers: int
    width: int
    trained: int
    projector: int = 0
    """Of the weights, those that see image tokens, several patches in one."""
    patch_size: int = 14
    """Side of a patch in pixels; the language side has none."""


@dataclass(frozen=True)
class StepWork:
    """A mean global batch."""

    inputs: float
    tokens: float
    padded: float
    """With the padding of every chunk."""
    computed: float
    """Of those, what goes through the layers: a chunk's shared beginning counts once."""
    patches: float
    image_tokens: float
    square_tokens: float
    """Sum of squared lengths, for attention."""
    chunk_tokens: int
    """The largest chunk's padded tokens."""
    kept_share: float
    """Of the computed tokens, those that need no second pass."""


class Counted(NamedTuple):
    """What a recipe's mean step takes."""

    language: ModelPart
    vision: ModelPart
    work: StepWork
    flops: float


class ChunkWork(NamedTuple):
    """What one chunk holds."""

    inputs: int
    tokens: int
    padded: int
    computed: int
    patches: int
    image_tokens: int
    square_tokens: float


def estimate(path: Path | str, overrides: list[str], machine: Machine) -> str:
    """Return the estimate for a contrast recipe, as a page of text."""
    from unime.train.contrast import ContrastRecipe

    recipe = load_recipe(path, ContrastRecipe, overrides)
    language, vision, work, flops = count(recipe, machine.gpus)
    memory = memory_parts(recipe, language, vision, work)
    seconds = flops / (machine.gpus * machine.tflops * 1e12 * machine.utilisation)
    total = sum(memory.values())
    lines = [
        f"{path}: an estimate, from {SAMPLE} batches",
        f"a step: {work.inputs:,.0f} distinct inputs, {work.tokens:,.0f} tokens "
        f"({1 - work.tokens / work.padded:.0%} padding beside them), {work.patches:,.0f} patches",
        f"work: {flops / 1e12:,.1f} TFLOP a step",
        f"memory of one GPU of {machine.gpus}, in GB, weights not sharded (DDP):",
        *(f"  {name:<28}{value / GB:8.2f}" for name, value in memory.items()),
        f"  {'together':<28}{total / GB:8.2f}  of {machine.memory_gb:g}: "
        f"{'fits' if total < 0.9 * machine.memory_gb * GB else 'does not fit; see below'}",
        f"time: {seconds:.2f} s a step at {machine.utilisation:.0%} of {machine.tflops:g} TFLOP/s",
    ]
    if total >= 0.9 * machine.memory_gb * GB:
        lines.append(
            "to make it fit: halve budget.tokens and budget.pixels, set "
            "training.gradient_checkpointing, or launch with recipes/launch/zero3.yaml"
        )
    return "\n".join(lines)


def count(recipe: ContrastRecipe, gpus: int, batches: Sequence[int] = range(SAMPLE)) -> Counted:
    """Count what a mean step of a recipe takes.

    Args:
        recipe: of the contrast stage.
        gpus: how many work on a batch.
        batches: the numbers of the batches that are counted.
    """
    language, vision = model_parts(recipe.model.id, recipe.tune)
    work = sample_work(recipe, gpus, batches)
    checkpointing = recipe.training.gradient_checkpointing
    return Counted(
        language, vision, work, step_flops(language, vision, work, checkpointing=checkpointing)
    )


def model_parts(model: str, tune: LoraSection) -> tuple[ModelPart, ModelPart]:
    """Count a model's language and vision side from its configuration alone.

    Raises:
        ModelError: when the model is not there (yet), or has no vision tower.
    """
    import torch

    from unime.core.loading import empty_model, load_config
    from unime.models.adapters import parts_of, train_parts

    config = load_config(model)
    if getattr(config, "vision_config", None) is None:
        raise ModelError(f"{model} has no vision tower; expected a vision-language model")
    with torch.device("meta"):
        empty = empty_model("AutoModel", config)
        where = parts_of(empty)
        train_parts(empty, tune)
    # Adapters lie inside the layers they adapt, so their names say whose they are.
    where |= parts_of(empty)
    vision_parts = ("vision", "projector")
    text, tower = config.get_text_config(), config.vision_config
    sides = []
    for chosen, section in (
        (("language",), text),
        (vision_parts, tower),
    ):
        named = [(n, p) for n, p in empty.named_parameters() if where.get(n) in chosen]
        tables = sum(p.numel() for n, p in named if "embed_tokens" in n)
        sides.append(
            ModelPart(
                weights=sum(p.numel() for _, p in named) - tables,
                tables=tables,
                layers=_first(section, "num_hidden_layers", "depth"),
                width=_first(section, "embed_dim", "hidden_size"),
                trained=sum(p.numel() for _, p in named if p.requires_grad),
                projector=sum(p.numel() for n, p in named if where[n] == "projector"),
                patch_size=tower.patch_size,
            )
        )
    return sides[0], sides[1]


def sample_work(recipe: ContrastRecipe, world: int, numbers: Sequence[int]) -> StepWork:
    """Count what some of the recipe's batches hold, by preparing them as training would."""
    from unime.data.data_folder import DataFolder
    from unime.data.known_positives import KnownPositives, content_numbers
    from unime.data.training_rows import PairColumns
    from unime.models.backbones import renderer_of
    from unime.train.chunking import plan_chunks
    from unime.train.contrast import layout_of, rows_of

    renderer, config = renderer_of(recipe.model)
    data = DataFolder.open(recipe.data)
    columns, rows = PairColumns.of(data), rows_of(recipe, data)
    known = KnownPositives(data, content_numbers(data.items))
    layouts = layout_of(recipe, data, columns, rows, rows.by_task(columns), known)
    batches = []
    for number in numbers:
        layout = layouts.layout(number)
        plan = plan_chunks(layout.sizes, recipe.budget, world)
        counted = [
            [
                chunk_work(
                    renderer.features([layouts.load(layout.inputs[place]) for place in places]),
                    config,
                )
                for places in chunks
            ]
            for chunks in plan.chunks
        ]
        batches.append((counted, plan.kept))
    return mean_work(batches)


def chunk_work(features: Mapping[str, Tensor], config: Any) -> ChunkWork:
    """Count one chunk's tokens and patches; `config` is the model's."""
    from unime.models.shared_prefix import SHORTEST, image_token_of, prefix_length

    rows, longest = features["input_ids"].shape
    lengths = features["attention_mask"].sum(dim=1)
    image_token = image_token_of(config)
    prefix = prefix_length(features, image_token)
    shared = prefix if prefix >= SHORTEST else 0
    grids, pixels = features.get("image_grid_thw"), features.get("pixel_values")
    patches = 0
    if grids is not None:
        patches = int(grids.prod(dim=1).sum())
    elif pixels is not None:
        # Whole pictures or tiles, (..., channels, height, width).
        patches = pixels[..., 0, :, :].numel() // config.vision_config.patch_size**2
    return ChunkWork(
        inputs=rows,
        tokens=int(lengths.sum()),
        padded=rows * longest,
        computed=rows * longest - (rows - 1) * shared,
        patches=patches,
        image_tokens=int((features["input_ids"] == image_token).sum()) if patches else 0,
        square_tokens=float((lengths.double() ** 2).sum()),
    )


def mean_work(batches: Sequence[tuple[Sequence[Sequence[ChunkWork]], int]]) -> StepWork:
    """Return the mean over batches, each given by every rank's chunks and how many are kept."""
    totals = np.zeros(len(ChunkWork._fields))
    kept, largest = 0.0, 0
    for per_rank, number in batches:
        chunks = [chunk for own in per_rank for chunk in own]
        totals += np.sum(chunks, axis=0)
        kept += sum(chunk.computed for own in per_rank for chunk in own[len(own) - number :])
        largest = max(largest, *(chunk.padded for chunk in chunks))
    means = ChunkWork(*(totals / len(batches)).tolist())
    share = kept / len(batches) / means.computed
    return StepWork(**means._asdict(), chunk_tokens=largest, kept_share=share)


def step_flops(
    language: ModelPart, vision: ModelPart, work: StepWork, *, checkpointing: bool = False
) -> float:
    """Return the FLOPs of a cached step.

    A trained layer's backward pass costs two forward passes, a frozen one's below adapters one. A
    frozen tower runs once: its features serve both passes.
    """
    forward = work.computed * 2 * language.weights + 4 * language.layers * (
        work.square_tokens * language.width
    )
    full = language.trained > 0.5 * language.weights
    passes = 1 + (1 - work.kept_share) + (2 if full else 1) + (1 if checkpointing else 0)
    tower = 2 * (
        work.patches * (vision.weights - vision.projector) + work.image_tokens * vision.projector
    )
    tower_passes = passes if vision.trained else 1
    return forward * passes + tower * tower_passes


def memory_parts(
    recipe: ContrastRecipe, language: ModelPart, vision: ModelPart, work: StepWork
) -> dict[str, float]:
    """Return bytes by what they are for, on one process that holds the whole model."""
    half = recipe.model.dtype in ("bfloat16", "float16") or recipe.training.bf16
    width = 2 if half else 4
    trained = language.trained + vision.trained
    weights = language.weights + language.tables + vision.weights
    per_token = ACTIVATION_BYTES * language.width * language.layers * (width / 2)
    if recipe.training.gradient_checkpointing:
        # One input a layer, and one layer at a time in full.
        per_token = (2 * language.layers + ACTIVATION_BYTES) * language.width * (width / 2)
    tower = 0.0
    if vision.trained:
        patches = min(recipe.budget.pixels / vision.patch_size**2, work.patches)
        tower = patches * ACTIVATION_BYTES * vision.width * vision.layers * (width / 2)
    cache = 0.0 if vision.trained else recipe.budget.vision_cache_gb * GB
    loss = 4 * work.inputs * recipe.training.global_batch_size * 3
    return {
        "weights": float(weights * width),
        "trained, gradients": trained * 8.0,
        "optimizer": trained * 8.0,
        "activations of a chunk": work.chunk_tokens * per_token + tower,
        "embeddings and similarities": work.inputs * language.width * 8 + loss,
        "vision features (at most)": min(cache, work.patches / 4 * language.width * width),
    }


def _first(section: Any, *names: str) -> int:
    return next(int(getattr(section, name)) for name in names if hasattr(section, name))
