"""`unime contrast`: warm-up and stage 2 are the same command.

Without a rows folder the train split is taken with its own negatives, or none (warm-up: in-batch
contrast). With one, its mined and judged negatives are trained on (stage 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator

from unime.core.config import Recipe
from unime.core.console import log
from unime.core.provenance import Output
from unime.data.data_folder import DataFolder
from unime.data.image_processor import check_items
from unime.data.known_positives import KnownPositives, content_numbers
from unime.data.training_rows import PairColumns, TrainingRows
from unime.losses import ContrastBatch, LossTerm, combine
from unime.mine.clusters import ClusterSection, cluster_tasks
from unime.models.adapters import LoraSection
from unime.models.embedder import Embedder
from unime.models.model_config import ModelConfig
from unime.train import checkpoints
from unime.train.backends import refuse_impossible
from unime.train.batch import ItemSizes
from unime.train.chunking import ChunkBudget
from unime.train.contrast_batches import ContrastLayout
from unime.train.dev_set import DevSet
from unime.train.loader import BatchSource
from unime.train.negatives import check_negatives, read_rows
from unime.train.sampler import TaskBatches
from unime.train.settings import TrainingSection


class ContrastRecipe(Recipe):
    """Contrastive training of an embedder."""

    model: ModelConfig
    data: str
    """The output of `unime data`."""
    rows: str | None = None
    """The output of `unime select`; without it the train split with its own negatives."""
    losses: list[LossTerm] = Field(default=[LossTerm(name="info_nce")], min_length=1)
    negatives: int = Field(default=8, ge=0)
    """How many of a row's negatives are used, the first ones."""
    tune: LoraSection = LoraSection()
    training: TrainingSection
    weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """How often a task's batches are drawn, relative to 1."""
    caps: dict[str, PositiveInt] = Field(default_factory=dict)
    """How many of a task's rows are used at most."""
    temperature: float = Field(default=1.0, ge=1)
    """Above 1 evens tasks of different size out: drawn in proportion to rows ** (1 / temperature)."""
    clusters: ClusterSection | None = None
    """SaHa: rows that are each other's hard negatives stay together in a batch."""
    mask: Literal["identity", "none"] = "identity"
    """"none" takes every other candidate for a negative, known positives and copies of the own one
    too: only for comparison."""
    wrong_labels: int = Field(default=32, gt=0)
    """Random labels, targets of the task, that serve as negatives where a task has `in_batch: false`
    and its rows bring none."""
    dev_queries: int = Field(default=200, ge=0)
    """Dev rows per task in the evaluation that chooses the best weights; 0 keeps the last."""
    budget: ChunkBudget = ChunkBudget()
    """What one forward pass, and what all kept graphs together, may hold."""

    @field_validator("losses")
    @classmethod
    def _known_losses(cls, losses: list[LossTerm]) -> list[LossTerm]:
        combine(losses, ContrastBatch)
        return losses


RECIPE = ContrastRecipe


def inputs(recipe: ContrastRecipe) -> dict[str, Path]:
    """Return what the stage reads."""
    read = {"model": Path(recipe.model.id), "data": Path(recipe.data)}
    return read if recipe.rows is None else {**read, "rows": Path(recipe.rows)}


def run(recipe: ContrastRecipe, out: Output) -> None:
    """Train, and write `<output>/model`."""
    # Brings transformers' Trainer: seconds that a dry run need not wait.
    from unime.train.loop import train

    loss = combine(recipe.losses, ContrastBatch)
    refuse_impossible(gradient_accumulation_steps=recipe.training.gradient_accumulation_steps)
    if checkpoints.finished(out):
        return
    data = DataFolder.open(recipe.data)
    check_items(data, recipe.model, out.file("unusable.jsonl"))
    columns = PairColumns.of(data)
    rows = rows_of(recipe, data)
    embedder = Embedder.load(recipe.model)
    embedder.vision.budget = int(recipe.budget.vision_cache_gb * 1e9)
    groups = rows.by_task(columns)
    if recipe.clusters is not None:
        folder = out.file("clusters")
        groups = cluster_tasks(recipe.clusters, data, columns, rows, embedder, folder)
    known = KnownPositives(data, content_numbers(data.items))
    layout = layout_of(recipe, data, columns, rows, groups, known)
    epoch_length = layout.batches.epoch_length
    total = recipe.training.batches(epoch_length)
    check_negatives(layout, recipe.losses, total, recipe.rows or recipe.data)
    source = BatchSource(layout, embedder.renderer.packed, recipe.budget)
    dev = DevSet(data, columns, known, recipe.dev_queries)
    log(
        f"{len(rows.pair)} rows in {len(layout.batches.names)} tasks, {epoch_length} batches an epoch"
    )
    facts = train(
        model=embedder,
        tune=recipe.tune,
        training=recipe.training,
        source=source,
        loss=loss,
        dev=dev if dev.tasks else None,
        out=out,
    )
    checkpoints.finish(out, facts)


def rows_of(recipe: ContrastRecipe, data: DataFolder) -> TrainingRows:
    """Return what a recipe trains on."""
    soft = any(term.name == "soft_label" for term in recipe.losses)
    needs_scores = "the loss soft_label" if soft else None
    return read_rows(data, recipe.rows, recipe.negatives, needs_scores)


def layout_of(
    recipe: ContrastRecipe,
    data: DataFolder,
    columns: PairColumns,
    rows: TrainingRows,
    groups: Mapping[str, np.ndarray],
    known: KnownPositives,
) -> ContrastLayout:
    """Return the layout of a recipe's batches.

    Args:
        recipe: what is trained on.
        data: the data folder.
        columns: its pairs.
        rows: what is trained on.
        groups: each task's rows, or clusters of them.
        known: all known positives.
    """
    batches = TaskBatches(
        groups,
        recipe.training.global_batch_size,
        recipe.training.seed,
        recipe.weights,
        recipe.caps,
        recipe.temperature,
    )
    return ContrastLayout(
        data=data,
        columns=columns,
        rows=rows,
        batches=batches,
        known=known,
        sizes=ItemSizes(data, recipe.model),
        random_labels=recipe.wrong_labels,
        masked=recipe.mask == "identity",
    )
