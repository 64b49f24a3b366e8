"""Images: where one is, whether it can be used, and its pixels.

A location is relative to the data root: `a/b.png`, `f.tar#member`, `f.parquet#row` or
`f.parquet#row/column`. Nothing outside the root is ever opened. `ImageChecker` (see
`unime.image_check`) checks many in parallel; training and encoding call `load_rgb`.
"""

from __future__ import annotations

import io
import re
import stat
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image, ImageOps

from unime.errors import DataError
from unime.records import hash_image

MAX_PIXELS = 64_000_000
"""Default cap on width x height: a picture of 8000 x 8000 decodes to 192 MB."""

# Pillow would hand EPS to Ghostscript and open many rare formats; user data gets the common ones.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")

_MEMBER = re.compile(r"(?P<file>.*?\.(?P<kind>parquet|tar))#(?P<member>.+)", re.DOTALL)


class ImageError(DataError):
    """An image that cannot be used; the message is "KIND: DETAIL"."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        """Rebuild from both parts; exceptions pickle by their single message otherwise."""
        return ImageError, (self.kind, self.detail)


class Place(NamedTuple):
    """A file inside the data root and, for containers, the member in it."""

    path: Path
    member: str
    """Empty for a plain file."""
    size: int
    modified: int
    """Nanoseconds, of the file."""


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
    return to_rgb(decode(read_bytes(locate(root, location), location), location, max_pixels))


def check(root: Path | str, location: str, max_pixels: int = MAX_PIXELS) -> Checked:
    """Read, hash and decode one image.

    Raises:
        ImageError: when it cannot be used.
    """
    data = read_bytes(locate(root, location), location)
    return Checked(hash_image(data), *decode(data, location, max_pixels).size)


def locate(root: Path | str, location: str) -> Place:
    """Find the file of a location, inside the data root.

    Raises:
        ImageError: when it is missing, or lies outside the root (absolute, `..`, a link out).
    """
    match = _MEMBER.fullmatch(location)
    name, member = (match["file"], match["member"]) if match else (location, "")
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\0" in name or not pure.name:
        raise ImageError("outside the data root", f"{location!r} is no path below it")
    real_root = _real(str(root))
    path = _real(str(Path(root) / pure.parent)) / pure.name
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            path = path.resolve()
            status = path.lstat()
    except (OSError, RuntimeError):  # RuntimeError: a loop of links
        raise ImageError("missing image", f"{location!r} is not in {root}") from None
    if not path.is_relative_to(real_root):
        raise ImageError("outside the data root", f"{location!r} leads to {path}")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("missing image", f"{location!r} is not a file")
    return Place(path, member, status.st_size, status.st_mtime_ns)


def read_bytes(place: Place, location: str) -> bytes:
    """Return the bytes of an image file or member.

    Raises:
        ImageError: when the member is not there or nothing can be read.
    """
    try:
        if not place.member:
            data = place.path.read_bytes()
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
    """Decode an image fully and turn it upright; bombs are refused before a pixel is unpacked.

    Raises:
        ImageError: when it is no image, damaged, or has more than `max_pixels`.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError:
        raise _too_large(location, "far more", max_pixels) from None
    # A decoder meeting damaged bytes may raise nearly anything (OSError, SyntaxError, ValueError,
    # struct.error, ...); whatever it is, the picture is rejected with it as the reason.
    except Exception as error:
        raise ImageError("not an image", f"{location!r}: {_first_line(error)}") from None
    if image.width * image.height > max_pixels:
        raise _too_large(location, f"{image.width} x {image.height}", max_pixels)
    try:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:
        raise ImageError("truncated image", f"{location!r}: {_first_line(error)}") from None
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn a decoded image into RGB, transparent parts over white."""
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion clips everything above 255 to white.
        return image.convert("I").point(lambda value: value / 257).convert("L").convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


@cache
def _formats() -> tuple[str, ...]:
    # Pillow registers most formats late, and never by itself when asked for formats by name.
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@lru_cache(maxsize=65536)
def _real(folder: str) -> Path:
    return Path(folder).resolve()


def _too_large(location: str, size: str, max_pixels: int) -> ImageError:
    return ImageError("image too large", f"{location!r} has {size} pixels, cap {max_pixels}")


def _first_line(error: Exception) -> str:
    # Pillow puts the address of the BytesIO into some messages; reasons must not vary by run.
    text = re.sub(r"\s*<_io\.BytesIO[^>]*>", "", str(error))
    return text.split("\n")[0] or type(error).__name__


def _read_tar(place: Place, location: str) -> bytes:
    members = _tar_members(place.path, place.size, place.modified)
    if place.member not in members:
        raise ImageError("missing image", f"{location!r}: no such file in the archive")
    start, size = members[place.member]
    with place.path.open("rb") as handle:
        handle.seek(start)
        return handle.read(size)


@lru_cache(maxsize=64)
def _tar_members(path: Path, size: int, modified: int) -> dict[str, tuple[int, int]]:
    """Return where each regular file of an archive lies; links in it are not followed."""
    import tarfile

    try:
        with tarfile.open(path, "r:") as archive:
            return {m.name: (m.offset_data, m.size) for m in archive if m.isreg()}
    except tarfile.TarError as error:
        raise ImageError("missing image", f"{path.name} is no plain tar archive: {error}") from None


def _read_parquet(place: Place, location: str) -> bytes:
    row_text, _, column = place.member.partition("/")
    if not row_text.isdecimal():
        raise ImageError("missing image", f"{location!r}: '{row_text}' is no row number")
    file, starts, columns = _parquet_file(place.path, place.size, place.modified)
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
def _parquet_file(path: Path, size: int, modified: int) -> tuple[Any, list[int], list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, memory_map=True)
    except pa.ArrowInvalid as error:
        raise ImageError("missing image", f"{path.name} is no Parquet file: {error}") from None
    starts = [0]
    for group in range(file.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    return file, starts, image_columns(file.schema_arrow)


@lru_cache(maxsize=4)
def _row_group(file: Any, group: int, column: str) -> Any:
    """Return one column of one row group; images are mostly asked for in order."""
    return file.read_row_group(group, columns=[column])[column]


def image_columns(schema: Any) -> list[str]:
    """Return the columns of an Arrow schema that hold image bytes (bare, or {bytes, path})."""
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    return [field.name for field in schema if holds_bytes(field.type)]
