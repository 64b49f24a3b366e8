"""What the tests of the API hand over: drawings with captions, as rows in memory and as a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "yellow", "white", "purple", "orange", "pink")
SETTINGS: dict[str, Any] = {
    "dtype": "float32", "min_pixels": 784, "max_pixels": 3136, "max_length": 512,
}  # fmt: skip
SHORT: dict[str, Any] = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3}


def picture(colour: str, size: int = 32) -> Image.Image:
    image = Image.new("RGB", (size, size), colour)
    ImageDraw.Draw(image).rectangle((4, 4, 12, 12), fill="black")
    return image


def pairs() -> list[dict[str, Any]]:
    """Rows with images in memory, columns in no order, negatives and scores."""
    images = [picture(colour) for colour in COLOURS]
    return [
        {
            "positive": images[n],
            "query": f"a {colour} picture",
            "negatives": [images[n - 1], {"text": "none", "image": images[n - 2]}],
            "scores": [0.9, 0.1, None],
        }
        for n, colour in enumerate(COLOURS)
    ]


def captioned(folder: Path) -> Path:
    folder.mkdir()
    lines = []
    for colour in COLOURS:
        picture(colour).save(folder / f"{colour}.png")
        lines.append(json.dumps({"image": f"{colour}.png", "caption": f"a {colour} picture"}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return folder
