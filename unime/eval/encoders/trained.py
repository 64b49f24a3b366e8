"""A vision-language model as this project trains and exports it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from unime.core import console, files
from unime.core.errors import ModelError
from unime.core.provenance import differences
from unime.models.model_config import ModelConfig

if TYPE_CHECKING:
    from unime.models.embedder import Embedder


class TrainedConfig(ModelConfig):
    """A folder or a Hub id, with the preprocessing it was trained with."""

    allow_other_preprocessing: bool = False
    """Evaluate although the model was trained with other preprocessing (resolution, prompt, ...)."""


def load_trained(config: TrainedConfig, device: str | None = None) -> Embedder:
    """Load it.

    Raises:
        ModelError: when it was trained with other preprocessing than it would be evaluated with.
    """
    from unime.models.embedder import Embedder

    plain = ModelConfig(**config.model_dump(exclude={"allow_other_preprocessing"}))
    embedder = Embedder.load(plain, device)
    lines = preprocessing_differences(embedder)
    if lines and not config.allow_other_preprocessing:
        raise ModelError(
            f"{config.id} was trained with other preprocessing than this recipe evaluates it with, "
            "so its scores would say little about it:\n  "
            + "\n  ".join(lines)
            + "\nset the same in the recipe, or allow_other_preprocessing: true to do it anyway"
        )
    if lines:
        console.log(f"{config.id}: other preprocessing than in training, as allowed")
    return embedder


def preprocessing_differences(embedder: Embedder) -> list[str]:
    """Return one line for each preprocessing setting that differs from training's."""
    path = Path(embedder.config.id) / "unime.json"
    if not path.is_file():
        return []
    trained = files.read_json(path).get("preprocessing", {})
    now = json.loads(json.dumps(embedder.preprocessing))
    # In which precision the weights are read is the user's choice: it is no different input.
    return differences(
        {key: value for key, value in trained.items() if key != "dtype"},
        {key: value for key, value in now.items() if key != "dtype"},
    )
