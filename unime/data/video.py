"""Videos as images: frames at even distances, side by side in one grid.

A location that ends like a video is decoded by torchcodec; a folder is one of frames, in the order
of their names, as MMEB-V2 publishes moment retrieval. The models here take one image, so the
frames become the tiles of one, read line by line.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from unime.core import inside
from unime.core.errors import DataError
from unime.data.images import load_rgb

FRAMES = 8
"""As VLM2Vec-V2 evaluates."""

TILE = 224
"""Pixels of a tile's longer side."""

VIDEOS = (".mp4", ".webm", ".mkv", ".avi", ".mov")
PICTURES = (".jpg", ".jpeg", ".png", ".webp")


def is_video(root: Path, location: str) -> bool:
    """Tell whether a location is a video or a folder of frames."""
    return location.lower().endswith(VIDEOS) or (root / location).is_dir()


def load_frame_grid(root: Path, location: str, count: int = FRAMES) -> Image.Image:
    """Return a video's frames as one image.

    Raises:
        DataError: when it cannot be read, or torchcodec is missing for a video file.
    """
    return frame_grid(frames(root, location, count))


def frames(root: Path, location: str, count: int = FRAMES) -> list[Image.Image]:
    """Return `count` frames at even distances, the middle of each of so many equal parts.

    A video of fewer frames gives all it has.

    Raises:
        DataError: when it cannot be read, or torchcodec is missing for a video file.
    """
    place = _inside(root, location)
    if place.is_dir():
        found = sorted(p.name for p in place.iterdir() if p.suffix.lower() in PICTURES)
        if not found:
            raise DataError(f"{place} holds no frames ({', '.join(PICTURES)})")
        return [load_rgb(place, found[index]) for index in evenly_spaced(len(found), count)]
    return _decode(place, count)


def evenly_spaced(total: int, count: int) -> list[int]:
    """Return `count` indices below `total` at even distances, or all of them if there are fewer."""
    if total <= count:
        return list(range(total))
    return [int((part + 0.5) * total / count) for part in range(count)]


def frame_grid(images: Sequence[Image.Image]) -> Image.Image:
    """Return images as tiles of one, as near to a square as their number allows."""
    columns = math.ceil(math.sqrt(len(images)))
    scale = min(1.0, TILE / max(max(p.size) for p in images))
    width = max(1, round(max(p.width for p in images) * scale))
    height = max(1, round(max(p.height for p in images) * scale))
    grid = Image.new("RGB", (columns * width, -(-len(images) // columns) * height))
    for number, image in enumerate(images):
        line, column = divmod(number, columns)
        grid.paste(image.resize((width, height)), (column * width, line * height))
    return grid


def hash_video(root: Path, location: str) -> bytes:
    """Return 16 bytes that identify a video's content: the file's, or names and bytes of frames."""
    place = _inside(root, location)
    paths = sorted(place.iterdir()) if place.is_dir() else [place]
    hasher = hashlib.blake2b(digest_size=16)
    try:
        for path in paths:
            hasher.update(f"{path.name if place.is_dir() else ''}\0".encode())
            found = inside.find(root, path.relative_to(root).as_posix())
            with inside.open_regular(found.path) as handle:
                hasher.update(handle.read())
    except OSError as error:
        raise DataError(f"missing video: {location!r} cannot be read: {error}") from None
    return hasher.digest()


def _inside(root: Path, location: str) -> Path:
    place = root / location
    if not place.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{location!r} lies outside the data root {root}")
    return place


def _decode(path: Path, count: int) -> list[Image.Image]:
    try:
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError, OSError) as error:
        raise DataError(
            f"{path} is a video file and torchcodec cannot be loaded ({error}); pip install "
            "torchcodec (it needs FFmpeg), or give a folder of its frames"
        ) from None
    try:
        decoder = VideoDecoder(str(path), dimension_order="NHWC")
        indices = evenly_spaced(len(decoder), count)
        batch = decoder.get_frames_at(indices=indices).data
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{path} cannot be decoded: {' '.join(str(error).split())}") from None
    return [Image.fromarray(np.asarray(frame)) for frame in batch]
