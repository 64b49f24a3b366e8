"""What a user hands to `Reranker.rank`: texts, images, or both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Image

from unime.errors import DataError
from unime.models.pair_scorer import Side
from unime.models.pictures import Picture

Content = Side | str | Path | Image | Mapping[str, Any]
"""A text, the path of an image file, an image, or {"text": ..., "image": ...}."""


def as_side(content: Content) -> Side:
    """Return a content as a side of a question.

    A string is always a text, whatever it looks like.

    Raises:
        DataError: when it is nothing of the kind, or empty.
    """
    if isinstance(content, Side):
        return content
    if isinstance(content, str):
        return Side(content)
    if not isinstance(content, Mapping):
        return Side("", _picture(content))
    if not content or set(content) - {"text", "image"}:
        raise DataError(f"expected the keys 'text' and 'image', got {sorted(content)}")
    image = content.get("image")
    return Side(content.get("text") or "", None if image is None else _picture(image))


def _picture(image: Any) -> Picture:
    from unime.images import decode, to_rgb

    if isinstance(image, str | Path):
        data, name = Path(image).read_bytes(), str(image)
        return Picture(_digest(data), lambda: to_rgb(decode(data, name)))
    if not isinstance(image, Image):
        raise DataError(f"expected a text, an image or the path of one, got {type(image).__name__}")
    known = f"{image.mode} {image.size} ".encode() + image.tobytes()
    return Picture(_digest(known), lambda: to_rgb(image))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
