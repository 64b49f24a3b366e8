"""Rows in memory, written where the readers find them: JSON Lines, and images by their contents.

Images in memory become PNG files, image files are linked (copied where the disk is another one).

They lie in the hidden folder `.rows` of the data's own output, under names that are hashes: the same
rows are the same file, so a second call is known as the same one, and nothing is written over.
"""

from __future__ import annotations

import hashlib
import json
import math
import numbers
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from unime.core import files
from unime.core.errors import DataError
from unime.core.hashes import content_hash
from unime.data.images import decode
from unime.data.items import hash_image
from unime.data.pixels import as_png, first_line, to_rgb
from unime.data.readers.caption_tables import CAPTION_COLUMNS, IMAGE_COLUMNS
from unime.data.readers.pair_columns import IMAGE_PATH, SCORES

ROWS, IMAGES = ".rows", "images"
QUERY, POSITIVE, NEGATIVES = ("query", "anchor"), ("positive",), ("negatives", "negative")


def as_rows(source: object) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of whatever holds some.

    Raises:
        DataError: when it holds none, or something else than rows.
    """
    for converted in ("to_dicts", "to_pylist"):  # polars, Arrow
        if hasattr(source, converted):
            source = getattr(source, converted)()
            break
    if hasattr(source, "to_dict") and hasattr(source, "iloc"):  # pandas
        source = source.to_dict("records")  # type: ignore[attr-defined]
    if isinstance(source, Mapping | bytes) or not isinstance(source, Iterable):
        raise DataError(
            f"expected a path or rows (dicts with the same columns), got a {type(source).__name__}"
        )
    count = 0
    for count, row in enumerate(source, start=1):
        if not isinstance(row, Mapping) or not row:
            raise DataError(f"row {count - 1}: expected a dict of columns, got {row!r:.100}")
        yield row
    if not count:
        raise DataError("there is not one row to load")


class RowsFolder:
    """Where the rows of one output are written: a data root of its own.

    Args:
        output: the data's own.
        base: the folder that image paths are relative to.
    """

    def __init__(self, output: Path, base: str) -> None:
        self.folder = output / ROWS
        self._base = Path(base)
        self._new: list[Path] = []
        self.columns: tuple[str, ...] = ()
        """Of the first row."""

    def write(self, rows: Iterable[Mapping[str, Any]]) -> str:
        """Write rows and their images; return the file's name.

        Raises:
            DataError: naming the row with a cell that is none, or an image that cannot be read.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        hasher = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".", suffix=".partial") as lines:
            for number, row in enumerate(rows):
                values = self._row(row, number)
                self.columns = self.columns or tuple(values)
                line = f"{json.dumps(values)}\n".encode()
                hasher.update(line)
                lines.write(line)
            lines.flush()
            path = self.folder / f"{hasher.hexdigest()[:32]}.jsonl"
            if not path.exists():
                # Only the contents say what the file is called.
                with files.atomic_path(path) as temporary:
                    shutil.copyfile(lines.name, temporary)
                self._new.append(path)
        return path.name

    def take_back(self) -> None:
        """Remove what this call wrote: the output is another one's."""
        for path in self._new:
            path.unlink(missing_ok=True)

    def _row(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        is_captioned = bool(set(row) & set(CAPTION_COLUMNS)) and not set(row) & {*QUERY, *POSITIVE}
        if is_captioned and set(row) & set(IMAGE_COLUMNS):
            image = next(name for name in IMAGE_COLUMNS if name in row)
            return {
                name: (self._location if name == image else self._plain)(
                    value, f"row {number}, {name!r}"
                )
                for name, value in row.items()
            }
        found: dict[str, Any] = {}
        for name in _in_order(row):
            value, what = row[name], f"row {number}, {name!r}"
            if name in SCORES:
                found[name] = _numbers(value, what)
            elif name in NEGATIVES and isinstance(value, list | tuple):
                cells = [self._cell(one, what) for one in value]
                found |= {f"negative_{place}": cell for place, cell in enumerate(cells, start=1)}
            else:
                found[name] = self._cell(value, what)
        return found

    @staticmethod
    def _plain(value: object, what: str) -> Any:
        """Return a cell of a captioned image that is no image: captions, as they are."""
        try:
            json.dumps(value)
        except TypeError:
            raise DataError(f"{what}: expected captions, got {value!r:.100}") from None
        return value

    def _cell(self, value: object, what: str) -> Any:
        """Return a text, {"text", "image"}, or None."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None  # NaN is an empty cell of a DataFrame
        if isinstance(value, str):
            is_path = IMAGE_PATH.fullmatch(value)
            return {"image": self._location(value, what)} if is_path else value
        if isinstance(value, Mapping) and not _is_image(value):
            if not value or set(value) - {"text", "image"}:
                keys = sorted(map(str, value))
                raise DataError(f"{what}: expected the keys 'text' and 'image', got {keys}")
            text, image = value.get("text"), value.get("image")
            if not isinstance(text, str | None):
                raise DataError(f"{what}: expected a text under 'text', got {text!r:.100}")
            return {"text": text, "image": None if image is None else self._location(image, what)}
        return {"image": self._location(value, what)}

    def _location(self, value: object, what: str) -> str:
        """Return where an image is below `folder`: one in memory is written, a file is linked."""
        if isinstance(value, str | Path):
            return self._linked(self._base / value)
        data = as_png(_image(value, what))
        path = self.folder / IMAGES / f"{hash_image(data).hex()}.png"
        if not path.exists():
            with files.atomic_path(path) as temporary:
                temporary.write_bytes(data)
            self._new.append(path)
        return f"{IMAGES}/{path.name}"

    def _linked(self, source: Path) -> str:
        if not source.is_file():
            # Not there: the stage rejects the row, and says which one.
            return "/".join(part for part in source.parts if part not in (source.anchor, ".."))
        path = self.folder / IMAGES / f"{content_hash(source)}{source.suffix.lower()}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source.resolve(), path)  # no second copy on one disk
            except OSError:  # another disk, or one that knows no links
                with files.atomic_path(path) as temporary:
                    shutil.copyfile(source, temporary)
            self._new.append(path)
        return f"{IMAGES}/{path.name}"


def _in_order(row: Mapping[str, Any]) -> list[str]:
    """Return the columns with the query first and the positive second, where names say so."""
    query = [name for name in row if name in QUERY]
    positive = [name for name in row if name in POSITIVE]
    if not (query and positive):
        return list(row)
    return [*query, *positive, *(name for name in row if name not in (*query, *positive))]


def _is_image(value: object) -> bool:
    """Tell whether a cell is an image; `datasets` may give one as {"bytes", "path"}."""
    is_encoded = isinstance(value, Mapping) and set(value) == {"bytes", "path"}
    return is_encoded or isinstance(value, Image.Image | Path)


def _image(value: Any, what: str) -> Image.Image:
    if isinstance(value, Mapping) and _is_image(value) and value["bytes"]:
        return decode(value["bytes"], what)
    if isinstance(value, Image.Image):
        try:
            return to_rgb(value)
        # A decoder that meets damaged bytes may raise nearly anything.
        except Exception as error:
            raise DataError(f"{what}: the image cannot be read: {first_line(error)}") from None
    raise DataError(
        f"{what}: expected a text, an image, a Path or {{'text': ..., 'image': ...}}, got "
        f"{type(value).__name__}"
    )


def _numbers(value: Any, what: str) -> Any:
    if hasattr(value, "tolist"):  # NumPy's
        value = value.tolist()
    if isinstance(value, list | tuple) and value:
        return [_number(one, what) for one in value]
    return _number(value, what)


def _number(value: Any, what: str) -> float | None:
    """Return a score; None, or the NaN that a DataFrame has for it, is a pair without one."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    raise DataError(f"{what}: expected a number or a list of numbers, got {value!r:.100}")
