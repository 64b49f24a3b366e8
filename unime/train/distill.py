"""`unime distill`: stage 1, the text side of a model learns a text embedder's geometry.

Only similarities are compared (`relational_kl`), so teacher and student need not share a
dimension. Source: UniME (arXiv 2504.17432, section 3.2).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, field_validator

from unime.core.config import Recipe
from unime.core.console import log
from unime.core.errors import DataError, RecipeError
from unime.core.processes import ranks
from unime.core.provenance import Output
from unime.data.data_folder import DataFolder
from unime.losses import LossFunction, LossTerm, RelationBatch, combine
from unime.models.adapters import LoraSection
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput
from unime.models.model_config import ModelConfig
from unime.train.batch import LiveBudget, Prepared, RelationIndices, prepare_chunks
from unime.train.chunking import Budget, plan_chunks, size_of
from unime.train.fit import fit, keep, train_once
from unime.train.sampler import TaskBatches
from unime.train.settings import TrainingSection
from unime.train.teacher import TeacherSection, teach
from unime.train.texts import TextSource, distinct, item_texts, read_texts


class DistillRecipe(Recipe):
    """Relational distillation from a text embedder."""

    model: ModelConfig
    teacher: TeacherSection
    data: str | None = None
    """The output of `unime data`, whose texts are used."""
    data_limit: int | None = Field(default=None, gt=0)
    """At most so many of them, drawn at random."""
    texts: list[TextSource] = Field(default_factory=list)
    """General text beside them."""
    held_out: int = Field(default=1000, gt=2)
    """Texts that are not trained on and measure the agreement with the teacher."""
    side: Literal["query", "target"] = "target"
    """Whose prompt the student reads the texts under."""
    losses: list[LossTerm] = Field(default=[LossTerm(name="relational_kl")], min_length=1)
    tune: LoraSection = LoraSection(r=32, lora_alpha=64)
    training: TrainingSection
    budget: Budget = Budget()
    """What one forward pass, and what all kept graphs together, may hold."""

    @field_validator("losses")
    @classmethod
    def _known_losses(cls, losses: list[LossTerm]) -> list[LossTerm]:
        combine(losses, RelationBatch)
        return losses


RECIPE = DistillRecipe


def inputs(recipe: DistillRecipe) -> dict[str, Path]:
    """Return what the stage reads."""
    read = {"model": Path(recipe.model.id)}
    if recipe.teacher.url is None:
        read["teacher"] = Path(recipe.teacher.id)
    if recipe.data is not None:
        read["data"] = Path(recipe.data)
    return read | {f"texts_{i}": Path(source.path) for i, source in enumerate(recipe.texts)}


def run(recipe: DistillRecipe, out: Output) -> None:
    """Train, and write `<output>/model`."""
    loss = combine(recipe.losses, RelationBatch)
    train_once(out, recipe.training, lambda: _train(recipe, loss, out))


def _train(recipe: DistillRecipe, loss: LossFunction, out: Output) -> dict[str, Any]:
    groups = gather_texts(recipe)
    texts = [text for group in groups.values() for text in group]
    held_out, trained = split_texts(len(texts), recipe.held_out, recipe.training.seed)
    teacher = teach(recipe.teacher, texts, out.file("teacher"))
    embedder = Embedder.load(recipe.model)
    batches = TaskBatches(
        {"texts": trained}, recipe.training.global_batch_size, recipe.training.seed
    )
    log(f"{len(trained)} texts to train on, {len(held_out)} held out")

    def agreements() -> dict[str, float]:
        encodes = [ModelInput(texts[i], None, recipe.side, "") for i in held_out]
        vectors = embedder.encode(encodes, label="held-out texts")
        return agreement_by_group(vectors, teacher[held_out], held_out, groups)

    before = keep(out.file("before.json"), agreements)
    facts = fit(
        embedder=embedder,
        tune=recipe.tune,
        training=recipe.training,
        source=TextBatches(texts, teacher, batches, embedder, recipe.side, recipe.budget),
        batches=batches,
        loss=loss,
        evaluate=None,
        out=out,
    )
    after = agreements()
    for name, value in after.items():
        log(f"Spearman(student, teacher) on held-out {name}: {before[name]:.3f} -> {value:.3f}")
    counts = {name: len(group) for name, group in groups.items()}
    return {**facts, "texts": counts, "spearman": {"before": before, "after": after}}


class TextBatches:
    """Batch number -> distinct texts with the teacher's embeddings of them."""

    def __init__(
        self,
        texts: list[str],
        teacher: Float[np.ndarray, "texts dim"],
        batches: TaskBatches,
        embedder: Embedder,
        side: str,
        budget: Budget,
    ) -> None:
        self._texts, self._teacher, self._batches = texts, teacher, batches
        self._features, self._model = embedder.renderer.features, embedder.config
        self._side, self._ranks = side, ranks()
        self.budget = LiveBudget(budget)

    def __getitem__(self, number: int) -> Prepared:
        """Return batch `number`."""
        rows = self._batches[number].rows
        encodes = [ModelInput(self._texts[row], None, self._side, "") for row in rows]
        sizes = [size_of(len(encode.text), 0, self._model) for encode in encodes]
        plan = plan_chunks(sizes, self.budget.now(), self._ranks.world)
        chunks, gather = prepare_chunks(
            plan,
            encodes.__getitem__,
            self._features,
            self._ranks,
            (self._batches.seed, 3, number),
        )
        return Prepared(
            chunks=chunks,
            kept=plan.kept,
            gather=gather,
            indices=RelationIndices(torch.from_numpy(self._teacher[rows]).float()),
            number=number,
            name=f"texts {rows.tolist()}",
            pictures=torch.zeros(len(encodes), dtype=torch.bool),
            counts={"rows": len(rows)},
        )


def gather_texts(recipe: DistillRecipe) -> dict[str, list[str]]:
    """Return the texts of each source; a text of several sources belongs to the first.

    Raises:
        RecipeError: when the recipe names no source.
        DataError: when the sources hold too little to train on.
    """
    if recipe.data is None and not recipe.texts:
        raise RecipeError("distill needs text: name a `data` folder, or files under `texts`")
    seed, groups = recipe.training.seed, {}
    if recipe.data is not None:
        groups["data"] = item_texts(DataFolder.open(recipe.data), recipe.data_limit, seed)
    for source in recipe.texts:
        groups[Path(source.path).stem] = read_texts(source, seed)
    seen: set[str] = set()
    for name, group in groups.items():
        groups[name] = [text for text in distinct(group) if text not in seen]
        seen.update(group)
    needed = recipe.held_out + recipe.training.global_batch_size
    if len(seen) < needed:
        raise DataError(
            f"{len(seen)} distinct texts are too few: {recipe.held_out} are held out, and a "
            f"batch takes {recipe.training.global_batch_size}; lower these or add text"
        )
    return {name: group for name, group in groups.items() if group}


def split_texts(
    count: int, held_out: int, seed: int
) -> tuple[Int[np.ndarray, " held"], Int[np.ndarray, " trained"]]:
    """Return which texts are held out and which are trained on, each in order."""
    shuffled = np.random.default_rng(seed).permutation(count)
    return np.sort(shuffled[:held_out]), np.sort(shuffled[held_out:])


def agreement_by_group(
    student: np.ndarray, teacher: np.ndarray, rows: np.ndarray, groups: dict[str, list[str]]
) -> dict[str, float]:
    """Return the agreement over all held-out texts ("all") and within each source."""
    found = {"all": agreement(student, teacher)}
    ends = np.cumsum([len(group) for group in groups.values()])
    owner = np.searchsorted(ends, rows, side="right")
    for number, name in enumerate(groups):
        ours = owner == number
        if len(groups) > 1 and ours.sum() > 2:
            found[name] = agreement(student[ours], teacher[ours])
    return found


def agreement(
    student: Float[np.ndarray, "texts dim"], teacher: Float[np.ndarray, "texts teacher_dim"]
) -> float:
    """Return Spearman's correlation of the cosines of all pairs, student's against teacher's."""
    from scipy.stats import rankdata

    ranks = [rankdata(_cosines(vectors)) for vectors in (student, teacher)]
    return round(float(np.corrcoef(ranks)[0, 1]), 6)


def _cosines(vectors: np.ndarray) -> Float[np.ndarray, " pairs"]:
    vectors = vectors.astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(unit), k=1)]
