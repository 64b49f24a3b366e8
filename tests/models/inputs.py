"""A few inputs of every kind and size."""

from __future__ import annotations

import numpy as np
from PIL import Image

from unime.models.inputs import ModelInput


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """Return a picture of random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def mixed() -> list[ModelInput]:
    """Return texts, images and both, short and long, of both sides."""
    return [
        ModelInput("a red circle left of a blue square", None, "query", "Find the picture."),
        ModelInput("ring", None, "target", ""),
        ModelInput("", picture(0), "target", ""),
        ModelInput("", picture(1, 70, 25), "query", "What is shown?"),
        ModelInput("with the star removed", picture(2), "query", "Find the changed picture."),
        ModelInput("the large yellow triangle " * 4, None, "target", ""),
    ]
