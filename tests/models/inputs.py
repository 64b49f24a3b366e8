"""A few inputs of every kind and size."""

from __future__ import annotations

import numpy as np
from PIL import Image

from unime.models.rendering import Encode


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """Return a picture of random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def mixed() -> list[Encode]:
    """Return texts, images and both, short and long, of both sides."""
    return [
        Encode("a red circle left of a blue square", None, "query", "Find the picture."),
        Encode("ring", None, "target", ""),
        Encode("", picture(0), "target", ""),
        Encode("", picture(1, 70, 25), "query", "What is shown?"),
        Encode("with the star removed", picture(2), "query", "Find the changed picture."),
        Encode("the large yellow triangle " * 4, None, "target", ""),
    ]
