"""`unime distill`: stage 1, the text side of a model learns a text embedder's geometry.

Only similarities are compared (`relational_kl`), so teacher and student need not share a
dimension. Source: UniME (arXiv 2504.17432, section 3.2).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, field_validator

from unime.core.config import Recipe
from unime.core.console import log
from unime.core.errors import DataError, RecipeError
from unime.core.provenance import Output
from unime.data.data_folder import DataFolder
from unime.losses import LossTerm, RelationBatch, combine
from unime.models.adapters import LoraSection
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput
from unime.models.model_config import ModelConfig
from unime.train import checkpoints
from unime.train.backends import refuse_impossible
from unime.train.chunking import ChunkBudget
from unime.train.loader import BatchSource
from unime.train.sampler import TaskBatches
from unime.train.settings import TrainingSection
from unime.train.teacher import TeacherSection, teach
from unime.train.text_batches import TextLayout
from unime.train.texts import TextSource, distinct, item_texts, read_texts, split_texts


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
    budget: ChunkBudget = ChunkBudget()
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
    # Brings transformers' Trainer: seconds that a dry run need not wait.
    from unime.train.loop import train

    loss = combine(recipe.losses, RelationBatch)
    refuse_impossible(gradient_accumulation_steps=recipe.training.gradient_accumulation_steps)
    if checkpoints.finished(out):
        return
    training = recipe.training
    groups = gather_texts(recipe)
    texts = [text for group in groups.values() for text in group]
    held_out, trained = split_texts(len(texts), recipe.held_out, training.seed)
    teacher = teach(recipe.teacher, texts, out.file("teacher"))
    embedder = Embedder.load(recipe.model)
    agreement = Agreement(texts, teacher, held_out, groups, recipe.side)
    batches = TaskBatches({"texts": trained}, training.global_batch_size, training.seed)
    layout = TextLayout(texts, teacher, batches, recipe.model, recipe.side)
    log(f"{len(trained)} texts to train on, {len(held_out)} held out")
    # Of the starting weights: a resumed run, which has them still, finds the same.
    before = agreement.of(embedder)
    facts = train(
        model=embedder,
        tune=recipe.tune,
        training=training,
        source=BatchSource(layout, embedder.renderer.features, recipe.budget),
        loss=loss,
        dev=None,
        out=out,
    )
    after = agreement.of(embedder)
    for name, value in after.items():
        log(f"Spearman(student, teacher) on held-out {name}: {before[name]:.3f} -> {value:.3f}")
    counts = {name: len(group) for name, group in groups.items()}
    spearman = {"before": before, "after": after}
    checkpoints.finish(out, {**facts, "texts": counts, "spearman": spearman})


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


class Agreement:
    """How far a student agrees with the teacher on the held-out texts.

    Args:
        texts: all of them, source after source.
        teacher: their embeddings.
        held_out: places of the texts that are not trained on.
        groups: the texts of each source.
        side: "query" or "target": whose prompt the student reads them under.
    """

    def __init__(
        self,
        texts: list[str],
        teacher: Float[np.ndarray, "texts dim"],
        held_out: Int[np.ndarray, " held"],
        groups: dict[str, list[str]],
        side: str,
    ) -> None:
        self._inputs = [ModelInput(texts[place], None, side, "") for place in held_out]
        self._teacher, self._held_out, self._groups = teacher[held_out], held_out, groups

    def of(self, student: Embedder) -> dict[str, float]:
        """Return the agreement over all held-out texts ("all") and within each source."""
        vectors = student.encode(self._inputs, label="held-out texts")
        return agreement_by_group(vectors, self._teacher, self._held_out, self._groups)


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
