"""`unime rerank`: train a reranker, pointwise, contrastive, or pairwise and listwise together.

The losses decide which of these it is: `yes_no` (hard labels, or the judge's scores), `yes_contrast`,
`listwise` (sentence-transformers' own), and `choose` on shuffled lists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeFloat, field_validator, model_validator

from unime.core import files
from unime.core.config import Recipe
from unime.core.console import log
from unime.core.errors import RecipeError
from unime.core.processes import is_main
from unime.core.provenance import Output
from unime.data.data_folder import DataFolder
from unime.data.image_processor import check_items
from unime.data.known_positives import KnownPositives, content_numbers
from unime.data.training_rows import PairColumns, TrainingRows
from unime.losses import LossTerm, RerankBatch, combine
from unime.models.adapters import LoraSection
from unime.models.model_config import ModelConfig, RerankConfig
from unime.models.rerank_model import FACTS, RerankModel
from unime.rerank.dev import RerankDev
from unime.rerank.question_batches import AskSection, RerankLayout
from unime.rerank.reranker import Reranker
from unime.train import checkpoints
from unime.train.backends import refuse_impossible
from unime.train.batch import ItemSizes
from unime.train.chunking import ChunkBudget
from unime.train.loader import BatchSource
from unime.train.negatives import check_negatives, read_rows
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
    """Dev rows per task in the evaluation that chooses the best weights; 0 keeps the last."""
    dev_candidates: int = Field(default=10, gt=1)
    budget: ChunkBudget = ChunkBudget()

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
    # Brings transformers' Trainer: seconds that a dry run need not wait.
    from unime.train.loop import train

    loss = combine(recipe.losses, RerankBatch)
    refuse_impossible(gradient_accumulation_steps=recipe.training.gradient_accumulation_steps)
    if checkpoints.finished(out):
        return
    data = DataFolder.open(recipe.data)
    # First of all: a retriever embeds the dev rows before the reranker itself is loaded.
    for config in (recipe.model, recipe.retriever):
        if config is not None:
            check_items(data, config, out.file("unusable.jsonl"))
    columns = PairColumns.of(data)
    known = KnownPositives(data, content_numbers(data.items))
    dev = RerankDev(
        data, columns, known, recipe.dev_queries, recipe.dev_candidates, recipe.retriever
    )
    model = RerankModel.load(recipe.model)
    model.vision.budget = int(recipe.budget.vision_cache_gb * 1e9)
    _check_labels(recipe, model)
    rows = rows_of(recipe, data)
    layout = layout_of(recipe, data, columns, rows, known)
    epoch_length = layout.batches.epoch_length
    total = recipe.training.batches(epoch_length)
    check_negatives(layout, recipe.losses, total, recipe.rows or recipe.data)
    source = BatchSource(layout, model.inputs, recipe.budget)
    log(
        f"{len(rows.pair)} rows in {len(layout.batches.names)} tasks, {epoch_length} batches an epoch"
    )
    facts = train(
        model=model,
        tune=recipe.tune,
        training=recipe.training,
        source=source,
        loss=loss,
        dev=dev if dev.lists else None,
        out=out,
    )
    checkpoints.finish(out, {**facts, **_fuse(dev, recipe.model, out)})


def rows_of(recipe: RerankRecipe, data: DataFolder) -> TrainingRows:
    """Return what a recipe trains on."""
    lists = recipe.ask.lists
    most = max(recipe.ask.hard, 0 if lists is None else lists.longest - 1)
    soft = any(term.options.get("soft") for term in recipe.losses)
    return read_rows(data, recipe.rows, most, "a soft loss" if soft else None)


def layout_of(
    recipe: RerankRecipe,
    data: DataFolder,
    columns: PairColumns,
    rows: TrainingRows,
    known: KnownPositives,
) -> RerankLayout:
    """Return the layout of a recipe's batches.

    Args:
        recipe: what is asked.
        data: the data folder.
        columns: its pairs.
        rows: what is trained on.
        known: all known positives.
    """
    training = recipe.training
    batches = TaskBatches(
        rows.by_task(columns), training.global_batch_size, training.seed, recipe.weights
    )
    return RerankLayout(
        data=data,
        columns=columns,
        rows=rows,
        batches=batches,
        known=known,
        sizes=ItemSizes(data, recipe.model),
        ask=recipe.ask,
    )


def _check_labels(recipe: RerankRecipe, model: RerankModel) -> None:
    lists = recipe.ask.lists
    if lists is not None and lists.longest > len(model.labels):
        raise RecipeError(
            f"ask.lists.longest is {lists.longest}, the prompt {model.list_prompt.id} has "
            f"{len(model.labels)} labels"
        )


def _fuse(dev: RerankDev, config: RerankConfig, out: Output) -> dict[str, Any]:
    """Fit the fusion weight of the saved model on the dev lists, and save it there."""
    if not dev.has_similarities or not is_main():
        return {}
    checkpoints.load_whole_models()
    model = RerankModel.load(
        config.model_copy(update={"id": str(out.file(checkpoints.MODEL)), "revision": None})
    )
    weight, hits = dev.fit_fusion(dev.probabilities(Reranker(model)))
    log(
        f"fusion weight {weight:.3f}; dev hit@1: "
        + ", ".join(f"{n} {v:.3f}" for n, v in hits.items())
    )
    path = out.file(checkpoints.MODEL) / FACTS
    files.write_json(path, {**files.read_json(path), "fusion": weight})
    return {"fusion": weight, "dev": hits}
