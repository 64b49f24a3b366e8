"""Draw a scene as 64 x 64 RGB in integer arithmetic only: the same pixels on every machine."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from research.world import sprites
from research.world.scene import NATURAL, Scene, Thing

SIDE = 64
PIXELS = {"small": 10, "large": 20}
PAINT = {
    "red": (222, 36, 36), "orange": (246, 138, 24), "yellow": (242, 224, 40),
    "green": (40, 170, 60), "blue": (44, 84, 228), "purple": (142, 48, 176),
    "pink": (250, 150, 204), "white": (250, 250, 250),
}  # fmt: skip
GROUND = {
    "black": (16, 16, 20), "gray": (112, 112, 116),
    "brown": (98, 64, 36), "teal": (16, 92, 96),
}  # fmt: skip
# Corners on a board of -100..100, y downwards.
CORNERS = {
    "square": [(-82, -82), (82, -82), (82, 82), (-82, 82)],
    "triangle": [(0, -96), (98, 86), (-98, 86)],
    "diamond": [(0, -100), (78, 0), (0, 100), (-78, 0)],
    "star": [
        (0, -100), (26, -36), (98, -30), (42, 16), (60, 90),
        (0, 48), (-60, 90), (-42, 16), (-98, -30), (-26, -36),
    ],
    "cross": [
        (-32, -98), (32, -98), (32, -32), (98, -32), (98, 32), (32, 32),
        (32, 98), (-32, 98), (-32, 32), (-98, 32), (-98, -32), (-32, -32),
    ],
    "heart": [
        (0, 98), (-92, 2), (-98, -46), (-66, -90), (-26, -86),
        (0, -50), (26, -86), (66, -90), (98, -46), (92, 2),
    ],
    "arrow": [(-98, -30), (10, -30), (10, -84), (98, 0), (10, 84), (10, 30), (-98, 30)],
}  # fmt: skip
FINE = 4  # sub-pixels a pixel and direction


def render(scene: Scene) -> np.ndarray:
    """Draw the scene.

    Returns:
        uint8 of shape (64, 64, 3).
    """
    canvas = np.empty((SIDE, SIDE, 3), np.int32)
    canvas[:] = GROUND[scene.background]
    for thing in scene.things:
        _draw(canvas, thing)
    return canvas.astype(np.uint8)


def centre(thing: Thing) -> tuple[int, int]:
    """Return the thing's centre as (column, row) in pixels."""
    row, column = divmod(thing.cell, 3)
    return 12 + 20 * column + thing.shift[0], 12 + 20 * row + thing.shift[1]


def crop(picture: np.ndarray, thing: Thing, side: int = 32) -> np.ndarray:
    """Cut a window around the thing out of the picture and double it to 64 x 64."""
    column, row = centre(thing)
    left = min(max(column - side // 2, 0), SIDE - side)
    top = min(max(row - side // 2, 0), SIDE - side)
    window = picture[top : top + side, left : left + side]
    return window.repeat(SIDE // side, axis=0).repeat(SIDE // side, axis=1)


def _draw(canvas: np.ndarray, thing: Thing) -> None:
    """Blend one thing into the canvas, cut at its edges."""
    paint, cover = _patch(thing.kind, thing.colour, thing.size, thing.texture)
    side = len(cover)
    column, row = centre(thing)
    left, top = column - side // 2, row - side // 2
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, SIDE), min(top + side, SIDE)
    inside = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    spot = canvas[y0:y1, x0:x1]
    spot[:] = (spot * (16 - cover[inside]) + paint[inside] * cover[inside]) // 16


@lru_cache(maxsize=8192)
def _patch(kind: str, colour: str, size: str, texture: str) -> tuple[np.ndarray, np.ndarray]:
    """Return paint (side, side, 3) and cover (side, side, 1) in sixteenths."""
    if kind not in CORNERS and kind not in ("circle", "ring", "moon"):
        return _sprite_patch(kind, colour)
    side = PIXELS[size]
    paint = np.empty((side, side, 3), np.int32)
    paint[:] = PAINT[colour]
    row, column = np.mgrid[:side, :side]
    if texture == "striped":
        paint[(row + column) % 5 < 2] //= 3
    elif texture == "dotted":
        paint[(row % 4 < 2) & (column % 4 < 2)] //= 3
    return paint, _cover(kind, side)


def _sprite_patch(name: str, colour: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a sprite in its own colours, or as light and shade of one colour."""
    rgba = sprites.load()[name].astype(np.int32)
    paint, cover = rgba[..., :3], (rgba[..., 3:] + 8) // 16
    if colour != NATURAL:
        light = (paint @ np.array([77, 150, 29], np.int32))[..., None] // 256
        paint = np.array(PAINT[colour], np.int32) * (80 + light * 176 // 256) // 256
    return paint, np.minimum(cover, 16)


def _cover(kind: str, side: int) -> np.ndarray:
    """Count the sub-pixels inside a shape: int32 of shape (side, side, 1), 0..16."""
    fine = side * FINE
    steps = (2 * np.arange(fine) + 1 - fine) * 100 // fine
    x, y = np.meshgrid(steps, steps)
    if kind == "circle":
        inside = x * x + y * y <= 96 * 96
    elif kind == "ring":
        inside = (x * x + y * y <= 98 * 98) & (x * x + y * y >= 52 * 52)
    elif kind == "moon":
        inside = (x * x + y * y <= 98 * 98) & ((x - 48) ** 2 + y * y >= 76 * 76)
    else:
        inside = _inside(CORNERS[kind], x, y)
    return inside.reshape(side, FINE, side, FINE).sum(axis=(1, 3), dtype=np.int32)[..., None]


def _inside(corners: list[tuple[int, int]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Even-odd rule, without a division."""
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        crosses = (y0 > y) != (y1 > y)
        side = (x - x0) * (y1 - y0) - (x1 - x0) * (y - y0)
        inside ^= crosses & ((side < 0) == (y1 > y0))
    return inside
