"""`unime contrast`: warm-up and stage 2 are the same command.

Without a rows folder the train split is taken with its own negatives, or none (warm-up: in-batch
contrast). With one, its mined and judged negatives are trained on (stage 2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator

from unime.core.config import Recipe
from unime.core.console import log
from unime.core.errors import DataError
from unime.core.provenance import Output
from unime.data.data_folder import DataFolder
from unime.data.image_processor import check_items
from unime.data.known_positives import KnownPositives, content_numbers
from unime.data.training_rows import PairColumns, TrainingRows
from unime.losses import ContrastBatch, LossFunction, LossTerm, combine
from unime.mine.clusters import ClusterSection, cluster_tasks
from unime.models.adapters import LoraSection
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput
from unime.models.model_config import ModelConfig
from unime.train.batch import ItemSizes
from unime.train.chunking import Budget
from unime.train.contrast_batches import ContrastSource
from unime.train.dev_set import DevSet
from unime.train.fit import fit, train_once
from unime.train.negatives import can_contrast, check_negatives
from unime.train.sampler import TaskBatches
from unime.train.settings import TrainingSection
from unime.train.step import Features


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
    """Targets drawn as negatives where a task has `in_batch: false` and its rows bring none."""
    dev_queries: int = Field(default=200, ge=0)
    """Dev rows a task in the evaluation that chooses the best weights; 0 keeps the last."""
    budget: Budget = Budget()
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
    loss = combine(recipe.losses, ContrastBatch)
    train_once(out, recipe.training, lambda: _train(recipe, loss, out))


def _train(recipe: ContrastRecipe, loss: LossFunction, out: Output) -> dict[str, Any]:
    check_items(DataFolder.open(recipe.data), recipe.model, out.file("unusable.jsonl"))
    embedder = Embedder.load(recipe.model)
    embedder.vision.budget = int(recipe.budget.vision_cache_gb * 1e9)
    groups = None
    if recipe.clusters is not None:
        data = DataFolder.open(recipe.data)
        rows, folder = _training_rows(recipe, data), out.file("clusters")
        groups = cluster_tasks(recipe.clusters, data, rows, embedder, folder)
    source = training_source(recipe, embedder.renderer.packed, groups)
    check_negatives(
        source.batches,
        recipe.training.batches(source.batches.epoch_length),
        lambda number: can_contrast(source.layout(number).indices, recipe.losses),
        recipe.rows or recipe.data,
    )
    dev = DevSet(source.data, source.known, source.contents, recipe.dev_queries)
    log(
        f"{len(source.rows.pair)} rows in {len(source.batches.names)} tasks, "
        f"{source.batches.epoch_length} batches an epoch"
    )
    return fit(
        embedder=embedder,
        tune=recipe.tune,
        training=recipe.training,
        source=source,
        batches=source.batches,
        loss=loss,
        evaluate=(lambda: dev.hits(embedder)) if dev.tasks else None,
        out=out,
    )


def training_source(
    recipe: ContrastRecipe,
    features: Callable[[Sequence[ModelInput]], Features],
    groups: Mapping[str, np.ndarray] | None = None,
) -> ContrastSource:
    """Return the recipe's batches.

    Args:
        recipe: what is trained on.
        features: tokenises and preprocesses encodes.
        groups: each task's rows, or clusters of them; by default single rows.
    """
    data = DataFolder.open(recipe.data)
    rows = _training_rows(recipe, data)
    batches = TaskBatches(
        groups or rows.by_task(PairColumns.of(data)),
        recipe.training.global_batch_size,
        recipe.training.seed,
        recipe.weights,
        recipe.caps,
        recipe.temperature,
    )
    return ContrastSource(
        data=data,
        rows=rows,
        batches=batches,
        known=KnownPositives(data, content_numbers(data.items)),
        sizes=ItemSizes(data, recipe.model),
        budget=recipe.budget,
        features=features,
        wrong_labels=recipe.wrong_labels,
        masked=recipe.mask == "identity",
    )


def _training_rows(recipe: ContrastRecipe, data: DataFolder) -> TrainingRows:
    if recipe.rows is None:
        rows = TrainingRows.own(data, recipe.negatives)
    else:
        rows = TrainingRows.selected(data, recipe.rows, recipe.negatives)
    if len(rows.pair) == 0:
        raise DataError(f"{recipe.rows or recipe.data} has no training row")
    soft = any(term.name == "soft_label" for term in recipe.losses)
    if soft and np.isnan(rows.scores).all():
        raise DataError(
            f"the loss soft_label needs judge scores, but no row of {recipe.rows or recipe.data} "
            "has any; run mine, judge and select, or bring scores of your own"
        )
    return rows
