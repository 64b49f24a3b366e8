"""What a user hands over in Python where a model reads an input: a text, an image, or both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL.Image import Image

from unime.core.errors import DataError
from unime.data.images import load_file

UserInput = str | Path | Image | Mapping[str, Any]
"""A text (a string is always one), an image file's path, an image, or {"text": ..., "image": ...}."""


class TextAndImage(NamedTuple):
    """One input, taken apart."""

    text: str
    image: Image | Path | None

    def open(self) -> Image | None:
        """Return the image, read from its file where it is a path; RGB then.

        Raises:
            ImageError: when the file is missing, damaged or too large.
        """
        return load_file(self.image) if isinstance(self.image, Path) else self.image


def read_input(value: object, what: str = "an input") -> TextAndImage:
    """Take one input of a user's apart.

    Args:
        value: a `UserInput`.
        what: how it is called in an error.

    Raises:
        DataError: when it is nothing of the kind, or empty.
    """
    if isinstance(value, str):
        found = TextAndImage(value, None)
    elif isinstance(value, Mapping):
        found = _of_mapping(value, what)
    else:
        found = TextAndImage("", _image(value, what))
    if not found.text.strip() and found.image is None:
        raise DataError(f"{what} has neither text nor image")
    return found


def _of_mapping(value: Mapping[Any, Any], what: str) -> TextAndImage:
    if not value or set(value) - {"text", "image"}:
        keys = sorted(map(str, value))
        raise DataError(f"{what}: expected the keys 'text' and 'image', got {keys}")
    text, image = value.get("text"), value.get("image")
    if text is not None and not isinstance(text, str):
        raise DataError(f"{what}: expected a text under 'text', got {type(text).__name__}")
    if isinstance(image, str):
        image = Path(image)
    return TextAndImage(text or "", None if image is None else _image(image, what))


def _image(value: object, what: str) -> Image | Path:
    if isinstance(value, Image | Path):
        return value
    raise DataError(
        f"{what}: expected a text, an image, the Path of an image file or {{'text': ..., "
        f"'image': ...}}, got {type(value).__name__}"
    )
