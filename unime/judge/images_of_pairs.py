"""Images as a server gets them: the file's own bytes where every server reads them alike.

Decoding and encoding a photograph costs a hundred times as much as reading it. Only what servers
treat differently (transparency, EXIF orientation, rare formats) is turned into an upright PNG.
"""

from __future__ import annotations

import base64
import io
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image

from unime.data import images
from unime.data.pixels import ORIENTATION

PLAIN = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


class Picture(NamedTuple):
    """An encoded image."""

    media_type: str
    data: bytes


def as_sent(data: bytes, location: str) -> Picture:
    """Return an image file's bytes as a server gets them.

    Raises:
        ImageError: when it is damaged or too large.
    """
    media_type = _plain_type(data)
    if media_type is not None:
        return Picture(media_type, data)
    buffer = io.BytesIO()
    images.decode(data, location).save(buffer, "PNG", compress_level=1)
    return Picture("image/png", buffer.getvalue())


def _plain_type(data: bytes) -> str | None:
    """Return the media type of an upright RGB file of moderate size, else None; reads its head."""
    try:
        image = Image.open(io.BytesIO(data), formats=tuple(PLAIN))
        # Any value but 1, a damaged one too, is one that a server may take in its own way.
        upright = image.getexif().get(ORIENTATION, 1) == 1
        moves = getattr(image, "is_animated", False)
    except Exception:
        return None  # whatever is wrong with it, decoding says so
    plain = image.mode in ("RGB", "L") and "transparency" not in image.info and not moves
    small = image.width * image.height <= images.MAX_PIXELS
    # A JPEG may hold several pictures (MPO, as phones write it): no type of PLAIN.
    return PLAIN.get(str(image.format)) if plain and upright and small else None


class DataUrls:
    """Pictures as data URLs, each distinct one read once while it stays among the recent ones."""

    def __init__(self, capacity: int = 256_000_000) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[bytes, str] = OrderedDict()
        self._size = 0

    def get(self, key: bytes, read: Callable[[], Picture]) -> str:
        """Return the data URL of a picture; `read` is called when it is not at hand."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        picture = read()
        url = f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"
        self._kept[key] = url
        self._size += len(url)
        while self._size > self._capacity and len(self._kept) > 1:
            self._size -= len(self._kept.popitem(last=False)[1])
        return url
