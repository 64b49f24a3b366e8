"""One function makes pixels: upright RGB, transparent parts over white.

Whatever is hashed, cached or shown to a model went through `to_rgb` before, so that an image is the
same whether it comes from a data folder, from a caller's PIL image, from an upload or from a benchmark.
Colour profiles (ICC) are not applied; the libraries that load an export do not apply them either.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unime.core.errors import UnusableError

ORIENTATION = 0x0112
SOURCE = "unime_source"
"""The key of an image's `info` that says where it is from, for messages."""

# What each EXIF orientation needs; as PIL.ImageOps.exif_transpose, which also writes the EXIF block
# anew and fails where one of its other fields is damaged.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(UnusableError):
    """An image that cannot be used."""


def as_png(image: Image.Image) -> bytes:
    """Return an image as a PNG file, quickly written rather than small."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def to_rgb(image: object) -> Image.Image:
    """Return an image as upright RGB, transparent parts over white; the image itself stays as it is.

    Applied twice it changes nothing. Transparency is an alpha channel (premultiplied or not), a
    transparent palette entry or a PNG's transparent colour. EXIF (or XMP) orientation is followed; one
    that cannot be read leaves the image as stored. Of an animation it is the frame that is shown,
    the first one of a file. Greys of more than 8 bits: see `_deep_grey`.

    Raises:
        ImageError: when it is no PIL image, has no pixels, is damaged, or has a mode without colours.
    """
    if not isinstance(image, Image.Image):
        raise ImageError("not an image", f"expected a PIL image, got {type(image).__name__}")
    name = name_of(image) or f"a picture of mode {image.mode}"
    if not image.width or not image.height:
        raise ImageError("not an image", f"{name} has {image.width} x {image.height} pixels")
    try:
        image = _readable(image)
        image.load()
        turn = _TURNS.get(orientation(image))
        plain = type(image) is Image.Image and image.mode == "RGB"
        if plain and turn is None and "transparency" not in image.info:
            return image
        made = _colours(image)
        made = made if turn is None else made.transpose(turn)
    except ImageError:
        raise
    # A decoder meeting damaged bytes may raise nearly anything (OSError, SyntaxError, ValueError,
    # struct.error, ...); whatever it is, the image is refused with it as the reason.
    except Exception as error:
        raise ImageError("truncated image", f"{name}: {first_line(error)}") from None
    # Nothing stays that would turn the image again, or make a part of it transparent.
    made.info = {SOURCE: image.info[SOURCE]} if SOURCE in image.info else {}
    return made


def pixels_hash(image: Image.Image) -> bytes:
    """Return the 128-bit identity of an image: of its size and its pixels as a model sees them."""
    made = to_rgb(image)
    hasher = hashlib.blake2b(f"RGB {made.width} {made.height} ".encode(), digest_size=16)
    hasher.update(made.tobytes())
    return hasher.digest()


def orientation(image: Image.Image) -> int:
    """Return a loaded image's EXIF or XMP orientation; 1, as stored, where none can be read."""
    try:
        found = int(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1  # the EXIF block is damaged, which takes nothing from the pixels
    return found if found in _TURNS else 1


def name_of(image: Image.Image) -> str:
    """Return where an image is from, or nothing where that is not known."""
    return str(image.info.get(SOURCE) or getattr(image, "filename", "") or "")


def first_line(error: Exception) -> str:
    """Return what an error says, without what varies from run to run."""
    # Pillow puts the address of the BytesIO into some messages.
    text = re.sub(r"\s*<_io\.BytesIO[^>]*>", "", str(error))
    return text.split("\n")[0] or type(error).__name__


def _readable(image: Image.Image) -> Image.Image:
    """Return an image that loads right; Pillow maps a turned TIFF into memory with its sides swapped."""
    turned = image.size != getattr(image, "_tile_size", image.size)
    if not (turned and getattr(image, "tile", None) and getattr(image, "filename", None)):
        return image
    with Path(image.filename).open("rb") as file:  # type: ignore[attr-defined]
        again = Image.open(io.BytesIO(file.read()), formats=["TIFF"])
    again.seek(image.tell())
    again.info.update(image.info)
    return again


def _colours(image: Image.Image) -> Image.Image:
    """Return a new RGB image of an image's stored colours."""
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image)
    if image.has_transparency_data:
        over = _with_alpha(image)
        white = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _with_alpha(image: Image.Image) -> Image.Image:
    """Return an image that has transparency as RGBA."""
    if image.mode == "La":  # premultiplied; Pillow knows this way only
        image = image.convert("LA")
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        # Of 16-bit colours Pillow keeps the high byte, of the transparent one both.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    return image.convert("RGBA")


def _deep_grey(image: Image.Image) -> Image.Image:
    """Return grey of more than 8 bits as RGB; Pillow's own conversion clips it at 255.

    Modes of 16 bits are scaled from 0..65535. Integers of 32 bits and floats say nowhere which value
    is white, so the values decide: floats within 0..1 are scaled from there, floats within 0..255 are
    taken as they are, values within 0..65535 are scaled from there, and anything else from its own
    least to its greatest value. What is not finite is black.
    """
    values = np.asarray(image)
    clear = _is_clear(values, image.info.get("transparency"))
    grey = values.astype(np.float64)
    finite = np.isfinite(grey)
    low, high = _range(image.mode, grey[finite])
    scaled = np.where(finite, (grey - low) / (high - low), 0.0)
    levels = np.floor(scaled * 255 + 0.5).clip(0, 255).astype(np.uint8)
    levels = np.where(clear, np.uint8(255), levels)
    return Image.fromarray(levels).convert("RGB")


def _range(mode: str, values: np.ndarray) -> tuple[float, float]:
    """Return which values of a grey image are black and white."""
    if mode.startswith("I;16"):
        return 0.0, 65535.0
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if low >= 0:
        known = (1.0, 255.0, 65535.0) if mode == "F" else (65535.0,)
        for white in known:
            if high <= white:
                return 0.0, white
    return low, max(high, low + 1e-12)


def _is_clear(values: np.ndarray, key: Any) -> np.ndarray:
    return values == key if isinstance(key, int) else np.zeros(values.shape, dtype=bool)
