"""The sprites: small public-domain pictures that stand in scenes beside drawn shapes."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "sprites"
SIDE = 22


@lru_cache(maxsize=1)
def load() -> dict[str, np.ndarray]:
    """Read the atlas: name -> uint8 RGBA of shape (22, 22, 4)."""
    if not (FOLDER / "names.json").exists():
        return {}
    names = json.loads((FOLDER / "names.json").read_text())
    atlas = np.load(FOLDER / "atlas.npz")["rgba"]
    assert atlas.shape == (len(names), SIDE, SIDE, 4), atlas.shape
    return dict(zip(names, atlas, strict=True))
