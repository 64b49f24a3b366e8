"""What a user hands to `Reranker.rank`: texts, images, or both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Image

from unime.core.errors import DataError
from unime.models.image_blocks import KeyedImage
from unime.models.pair_scorer import PairSide

Content = PairSide | str | Path | Image | Mapping[str, Any]
"""A text, the path of an image file, an image, or {"text": ..., "image": ...}."""


def as_side(content: Content) -> PairSide:
    """Return a content as a side of a question.

    A string is always a text, whatever it looks like.

    Raises:
        DataError: when it is nothing of the kind, or empty.
    """
    if isinstance(content, PairSide):
        return content
    if isinstance(content, str):
        return PairSide(content)
    if not isinstance(content, Mapping):
        return PairSide("", _picture(content))
    if not content or set(content) - {"text", "image"}:
        raise DataError(f"expected the keys 'text' and 'image', got {sorted(content)}")
    image = content.get("image")
    return PairSide(content.get("text") or "", None if image is None else _picture(image))


def _picture(image: Any) -> KeyedImage:
    from unime.data.images import load_file
    from unime.data.pixels import pixels_hash, to_rgb

    if isinstance(image, str | Path):
        # Opened twice rather than kept: a query may have many candidates.
        return KeyedImage(pixels_hash(load_file(image)), lambda: load_file(image))
    if not isinstance(image, Image):
        raise DataError(f"expected a text, an image or the path of one, got {type(image).__name__}")
    made = to_rgb(image)
    return KeyedImage(pixels_hash(made), lambda: made)
