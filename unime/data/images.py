"""Images: where one is, whether it can be used, and its pixels.

A location is relative to the data root: `a/b.png`, `f.tar#member`, `f.parquet#row` or
`f.parquet#row/column`. Nothing outside the root is ever opened. `ImageChecker` (see
`unime.data.image_check`) checks many in parallel; training and encoding call `load_rgb`. What pixels a
image has is decided by `to_rgb` alone (see `unime.data.pixels`).
"""

from __future__ import annotations

import io
import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from unime.core import inside
from unime.core.contents import IMAGE_SUFFIXES
from unime.core.inside import real as _real  # noqa: F401  # tests change the working directory and clear it
from unime.data.column_names import unique_names
from unime.data.items import content_id, hash_image
from unime.data.pixels import SOURCE, ImageError, first_line, orientation, to_rgb

MAX_PIXELS = 64_000_000
"""Default cap on width x height: an image of 8000 x 8000 decodes to 192 MB."""

# Pillow would hand EPS to Ghostscript and open many rare formats; user data gets the common ones.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")

_MEMBER = re.compile(r"(?P<file>.*?\.(?P<kind>parquet|tar))#(?P<member>.+)", re.DOTALL)


class ImageLocation(NamedTuple):
    """A file inside the data root and, for containers, the member in it."""

    path: Path
    member: str
    """Empty for a plain file."""
    size: int
    version: str
    """Of the file; differs after any change of it."""


class Checked(NamedTuple):
    """What is known of an image that was read and decoded once."""

    hash: bytes
    """`hash_image` of the file's bytes."""
    width: int
    height: int
    """Pixels as shown, that is, after the EXIF orientation."""


def load_rgb(root: Path | str, location: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return an image as upright RGB; transparent parts become white.

    Raises:
        ImageError: when it is missing, damaged, too large or outside the data root.
    """
    return decode(read_bytes(locate(root, location), location), location, max_pixels)


def read_known(root: Path | str, location: str, text: str, content: bytes) -> bytes:
    """Return the bytes of an item's image, if they are still those that `unime data` has seen.

    Args:
        root: the data root.
        location: the image's.
        text: the item's.
        content: the item's `content_id`.

    Raises:
        ImageError: as `load_rgb`; when the file was changed since.
    """
    data = read_bytes(locate(root, location), location)
    if content_id(text, data) != content:
        raise ImageError(
            "changed image",
            f"{location!r} has other bytes than when `unime data` read it; put it back, or run "
            "`unime data` again with --restart",
        )
    return data


def load_file(path: Path | str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the image file that a user names by its own path, as upright RGB.

    Raises:
        ImageError: when it is missing, damaged or too large.
    """
    try:
        with inside.open_regular(Path(path)) as handle:
            data = handle.read()
    except OSError as error:
        reason = error.strerror or error
        raise ImageError("missing image", f"{str(path)!r} cannot be read: {reason}") from None
    return decode(data, str(path), max_pixels)


def check(root: Path | str, location: str, max_pixels: int = MAX_PIXELS) -> Checked:
    """Read, hash and decode one image.

    Raises:
        ImageError: when it cannot be used.
    """
    data = read_bytes(locate(root, location), location)
    return Checked(hash_image(data), *decode(data, location, max_pixels).size)


def ends_like_an_image(text: str) -> bool:
    """Tell whether a text ends as the name of an image file does."""
    return "." in text and f".{text.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES


def locate(root: Path | str, location: str) -> ImageLocation:
    """Find the file of a location, inside the data root.

    Raises:
        ImageError: when it is missing, or lies outside the root (absolute, `..`, a link out).
    """
    match = _MEMBER.fullmatch(location)
    name, member = (match["file"], match["member"]) if match else (location, "")
    try:
        found = inside.find(root, name)
    except inside.FileError as error:
        gone = error.kind in ("missing file", "not a file")
        kind = "missing image" if gone else error.kind
        raise ImageError(kind, error.detail.replace(repr(name), repr(location), 1)) from None
    return ImageLocation(found.path, member, found.size, found.version)


def read_bytes(place: ImageLocation, location: str) -> bytes:
    """Return the bytes of an image file or member.

    Raises:
        ImageError: when the member is not there or nothing can be read.
    """
    try:
        if not place.member:
            with inside.open_regular(place.path) as handle:
                data = handle.read()
        elif place.path.suffix == ".tar":
            data = _read_tar(place, location)
        else:
            data = _read_parquet(place, location)
    except OSError as error:
        raise ImageError("missing image", f"{location!r} cannot be read: {error}") from None
    if not data:
        raise ImageError("not an image", f"{location!r} is empty")
    return data


def decode(data: bytes, location: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return an image file's bytes as upright RGB; bombs are refused before a pixel is unpacked.

    Args:
        data: of the file; of an animation the first frame is taken.
        location: where it is from, for messages.
        max_pixels: cap on width x height.

    Raises:
        ImageError: when it is no image, damaged, or has more than `max_pixels`.
    """
    image = _opened(data, location, max_pixels)
    if image.width * image.height > max_pixels:
        raise _too_large(location, f"{image.width} x {image.height}", max_pixels)
    image.info[SOURCE] = location
    try:
        return to_rgb(image)
    except ImageError as error:
        detail = error.detail.removeprefix(f"{location}: ")
        raise ImageError(error.kind, f"{location!r}: {detail}") from None


def shown_size(data: bytes, location: str) -> tuple[int, int]:
    """Return an image's width and height as shown, read from its header.

    Raises:
        ImageError: when it is no image.
    """
    image = _opened(data, location, MAX_PIXELS)
    # A TIFF that says how it is turned has told its size so already.
    turned = image.format != "TIFF" and orientation(image) >= 5
    return (image.height, image.width) if turned else (image.width, image.height)


def _opened(data: bytes, location: str, max_pixels: int) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError:
        raise _too_large(location, "far more", max_pixels) from None
    # A decoder meeting damaged bytes may raise nearly anything (OSError, SyntaxError, ValueError,
    # struct.error, ...); whatever it is, the image is rejected with it as the reason.
    except Exception as error:
        raise ImageError("not an image", f"{location!r}: {first_line(error)}") from None


@cache
def _formats() -> tuple[str, ...]:
    # Pillow registers most formats late, and never by itself when asked for formats by name.
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _too_large(location: str, size: str, max_pixels: int) -> ImageError:
    return ImageError("image too large", f"{location!r} has {size} pixels, cap {max_pixels}")


def _read_tar(place: ImageLocation, location: str) -> bytes:
    members = _tar_members(place.path, place.size, place.version)
    if place.member not in members:
        raise ImageError("missing image", f"{location!r}: no such file in the archive")
    start, size = members[place.member]
    with place.path.open("rb") as handle:
        handle.seek(start)
        return handle.read(size)


@lru_cache(maxsize=64)
def _tar_members(path: Path, size: int, version: str) -> dict[str, tuple[int, int]]:
    """Return where each regular file of an archive lies; links in it are not followed."""
    import tarfile

    try:
        with tarfile.open(path, "r:") as archive:
            return {m.name: (m.offset_data, m.size) for m in archive if m.isreg()}
    except tarfile.TarError as error:
        raise ImageError("missing image", f"{path.name} is no plain tar archive: {error}") from None


def _read_parquet(place: ImageLocation, location: str) -> bytes:
    row_text, _, column = place.member.partition("/")
    if not row_text.isdecimal():
        raise ImageError("missing image", f"{location!r}: '{row_text}' is no row number")
    file, starts, columns = _parquet_file(place.path, place.size, place.version)
    column = column or (columns[0] if len(columns) == 1 else "")
    if column not in columns:
        raise ImageError("missing image", f"{location!r}: image columns are {', '.join(columns)}")
    row = int(row_text)
    if row >= starts[-1]:
        raise ImageError("missing image", f"{location!r}: the file has {starts[-1]} rows")
    import bisect

    group = bisect.bisect_right(starts, row) - 1
    cell = _row_group(file, group, column)[row - starts[group]].as_py()
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not data:
        raise ImageError("missing image", f"{location!r}: the cell holds no bytes")
    return data


@lru_cache(maxsize=16)
def _parquet_file(path: Path, size: int, version: str) -> tuple[Any, list[int], list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, memory_map=True)
    except pa.ArrowInvalid as error:
        raise ImageError("missing image", f"{path.name} is no Parquet file: {error}") from None
    starts = [0]
    for group in range(file.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    names = file.schema_arrow.names
    bare = image_columns(file.schema_arrow)
    own = unique_names(names)
    return file, starts, [own[place] for place, name in enumerate(names) if name in bare]


@lru_cache(maxsize=4)
def _row_group(file: Any, group: int, column: str) -> Any:
    """Return one column of one row group; images are mostly asked for in order."""
    # Of columns of one name, all are read; `unique_names` numbers them in this order.
    names = file.schema_arrow.names
    place = unique_names(names).index(column)
    name = names[place]
    return file.read_row_group(group, columns=[name]).column(names[:place].count(name))


def image_columns(schema: Any) -> list[str]:
    """Return the columns of an Arrow schema that hold image bytes (bare, or {bytes, path})."""
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    return [field.name for field in schema if holds_bytes(field.type)]
