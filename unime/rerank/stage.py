"""`unime rerank`: train a reranker, pointwise, contrastive, or pairwise and listwise together.

Which of these it is, the losses say: `yes_no` (hard labels, or the judge's scores), `yes_contrast`,
`listwise` (sentence-transformers' own), and `choose` on shuffled lists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, NonNegativeFloat, field_validator, model_validator

from unime.core import files
from unime.core.config import Recipe
from unime.core.console import log
from unime.core.errors import DataError, RecipeError
from unime.core.processes import is_main
from unime.core.provenance import Output
from unime.data.data_folder import DataFolder
from unime.data.image_processor import check_items
from unime.data.known_positives import KnownPositives, content_numbers
from unime.data.training_rows import PairColumns, TrainingRows
from unime.losses import LossFunction, LossTerm, RerankBatch, combine
from unime.models.adapters import LoraSection
from unime.models.model_config import ModelConfig, RerankConfig
from unime.models.rerank_model import FACTS, RerankModel
from unime.rerank.dev import RerankDev
from unime.rerank.question_batches import AskSection, RerankSource
from unime.rerank.reranker import Reranker
from unime.train.batch import ItemSizes
from unime.train.chunking import Budget
from unime.train.fit import MODEL, fit, load_whole_models, train_once
from unime.train.negatives import check_negatives
from unime.train.sampler import TaskBatches
from unime.train.settings import TrainingSection


class RerankRecipe(Recipe):
    """Training of a reranker on judged or selected rows."""

    model: RerankConfig
    data: str
    """The output of `unime data`."""
    rows: str | None = None
    """The output of `unime select`; without it the train split with its own negatives."""
    losses: list[LossTerm] = Field(default=[LossTerm(name="yes_no")], min_length=1)
    ask: AskSection = AskSection()
    tune: LoraSection = LoraSection()
    training: TrainingSection
    weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """How often a task's batches are drawn, relative to 1."""
    retriever: ModelConfig | None = None
    """The embedder whose first candidates will be reranked: makes the dev lists, and a fusion
    weight is fitted on them."""
    dev_queries: int = Field(default=50, ge=0)
    """Dev rows a task in the evaluation that chooses the best weights; 0 keeps the last."""
    dev_candidates: int = Field(default=10, gt=1)
    budget: Budget = Budget()

    @field_validator("losses")
    @classmethod
    def _known_losses(cls, losses: list[LossTerm]) -> list[LossTerm]:
        combine(losses, RerankBatch)
        return losses

    @model_validator(mode="after")
    def _has_what_it_trains_on(self) -> RerankRecipe:
        names = {term.name for term in self.losses}
        if ("choose" in names) != (self.ask.lists is not None):
            raise RecipeError(
                "the loss 'choose' and the section ask.lists belong together; give both or neither"
            )
        if names != {"choose"} and self.ask.hard + self.ask.drawn == 0:
            raise RecipeError(
                "ask.hard and ask.drawn are both 0: there is no negative to ask about"
            )
        return self


RECIPE = RerankRecipe


def inputs(recipe: RerankRecipe) -> dict[str, Path]:
    """Return what the stage reads."""
    read = {"model": Path(recipe.model.id), "data": Path(recipe.data)}
    if recipe.rows is not None:
        read["rows"] = Path(recipe.rows)
    if recipe.retriever is not None:
        read["retriever"] = Path(recipe.retriever.id)
    return read


def run(recipe: RerankRecipe, out: Output) -> None:
    """Train, and write `<output>/model`."""
    loss = combine(recipe.losses, RerankBatch)
    train_once(out, recipe.training, lambda: _train(recipe, loss, out))


def _train(recipe: RerankRecipe, loss: LossFunction, out: Output) -> dict[str, Any]:
    data = DataFolder.open(recipe.data)
    # First of all: a retriever embeds the dev rows before the reranker itself is loaded.
    for config in (recipe.model, recipe.retriever):
        if config is not None:
            check_items(data, config, out.file("unusable.jsonl"))
    contents = content_numbers(data.items)
    known = KnownPositives(data, contents)
    dev = RerankDev(
        data, known, contents, recipe.dev_queries, recipe.dev_candidates, recipe.retriever
    )
    model = RerankModel.load(recipe.model)
    model.vision.budget = int(recipe.budget.vision_cache_gb * 1e9)
    lists = recipe.ask.lists
    if lists is not None and lists.longest > len(model.labels):
        raise RecipeError(
            f"ask.lists.longest is {lists.longest}, the prompt {model.list_prompt.id} has "
            f"{len(model.labels)} labels"
        )
    source = rerank_source(recipe, model)
    batches = source.batches
    check_negatives(
        batches,
        recipe.training.batches(batches.epoch_length),
        source.has_negative,
        recipe.rows or recipe.data,
    )
    log(
        f"{len(source.rows.pair)} rows in {len(batches.names)} tasks, "
        f"{batches.epoch_length} batches an epoch"
    )
    facts = fit(
        embedder=model,
        tune=recipe.tune,
        training=recipe.training,
        source=source,
        batches=batches,
        loss=loss,
        evaluate=(lambda: dev.hits(Reranker(model))) if dev.lists else None,
        out=out,
    )
    return {**facts, **_fuse(dev, recipe.model, out)}


def rerank_source(recipe: RerankRecipe, model: RerankModel) -> RerankSource:
    """Return the recipe's batches, which hold nothing of the model but how inputs are prepared."""
    data = DataFolder.open(recipe.data)
    rows = _training_rows(recipe, data)
    batches = TaskBatches(
        rows.by_task(PairColumns.of(data)),
        recipe.training.global_batch_size,
        recipe.training.seed,
        recipe.weights,
    )
    return RerankSource(
        data=data,
        rows=rows,
        batches=batches,
        known=KnownPositives(data, content_numbers(data.items)),
        sizes=ItemSizes(data, recipe.model),
        budget=recipe.budget,
        features=model.inputs,
        ask=recipe.ask,
    )


def _fuse(dev: RerankDev, config: RerankConfig, out: Output) -> dict[str, Any]:
    """Fit the fusion weight of the saved model on the dev lists, and save it there."""
    if not dev.has_similarities or not is_main():
        return {}
    load_whole_models()
    model = RerankModel.load(
        config.model_copy(update={"id": str(out.file(MODEL)), "revision": None})
    )
    weight, hits = dev.fit_fusion(dev.probabilities(Reranker(model)))
    log(
        f"fusion weight {weight:.3f}; dev hit@1: "
        + ", ".join(f"{n} {v:.3f}" for n, v in hits.items())
    )
    path = out.file(MODEL) / FACTS
    files.write_json(path, {**files.read_json(path), "fusion": weight})
    return {"fusion": weight, "dev": hits}


def _training_rows(recipe: RerankRecipe, data: DataFolder) -> TrainingRows:
    lists = recipe.ask.lists
    most = max(recipe.ask.hard, 0 if lists is None else lists.longest - 1)
    if recipe.rows is None:
        rows = TrainingRows.own(data, most)
    else:
        rows = TrainingRows.selected(data, recipe.rows, most)
    if len(rows.pair) == 0:
        raise DataError(f"{recipe.rows or recipe.data} has no training row")
    soft = any(term.options.get("soft") for term in recipe.losses)
    if soft and np.isnan(rows.scores).all():
        raise DataError(
            f"a soft loss needs judge scores, but no row of {recipe.rows or recipe.data} has any; "
            "run mine, judge and select, or bring scores of your own"
        )
    return rows
