"""A checkpoint of a training stage: the starting model, its adapters, the weights so far."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unime.core import files
from unime.core.config import Section
from unime.core.errors import ModelError
from unime.models.model_config import ModelConfig

if TYPE_CHECKING:
    from unime.models.embedder import Embedder


class CheckpointConfig(Section):
    """Which one."""

    id: str
    """A folder `checkpoint-N` that a training stage wrote; model and adapters are read from the
    recipe in the stage's output."""


def load_checkpoint(config: CheckpointConfig, device: str | None = None) -> Embedder:
    """Load the model its training started from and put the checkpoint's weights in.

    Raises:
        ModelError: when the folder is no checkpoint of a training stage.
    """
    from unime.models.adapters import LoraSection, train_parts
    from unime.models.embedder import Embedder
    from unime.train.checkpoints import WEIGHTS, is_intact, load_trainable

    folder = Path(config.id)
    recipe = recipe_of(folder)
    if not is_intact(folder):
        raise ModelError(f"{folder} is incomplete or damaged; take the checkpoint before it")
    embedder = Embedder.load(ModelConfig(**recipe["model"]), device)
    train_parts(embedder.backbone, LoraSection(**recipe["tune"]))
    load_trainable(embedder.module, folder / WEIGHTS)
    embedder.module.eval()
    return embedder


def recipe_of(folder: Path) -> dict[str, Any]:
    """Return the recipe of the training stage that wrote a checkpoint.

    Raises:
        ModelError: when it is no checkpoint of one.
    """
    for parent in folder.parents:
        for name in ("plan.json", "manifest.json"):
            if (parent / name).is_file():
                recipe = files.read_json(parent / name).get("recipe", {})
                if {"model", "tune"} <= recipe.keys():
                    return recipe
                raise ModelError(f"{parent} is no training stage's output; it has no tune section")
    raise ModelError(f"{folder} lies in no training stage's output (no plan.json above it)")
