"""Rows of JSON Lines and of JSON: a list of objects, or COCO's captions."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unime.core.errors import DataError
from unime.data.readers.base import RowError, TableOptions
from unime.data.readers.encoding import marked_encoding

Row = dict[str, Any] | RowError

MAX_OBJECT = 1 << 30
"""Bytes of a JSON file that is one object, which is read as a whole."""


@dataclass(frozen=True)
class _Repeated:
    """An object with a key that is there twice: one of the values would be lost."""

    key: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Repeated:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    return _Repeated(next(name for name in names if names.count(name) > 1))


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def read_json_lines(path: Path, options: TableOptions) -> Iterator[Row]:
    """Yield the rows of a file with one JSON object a line; UTF-8 unless a mark says otherwise."""
    name = options.encoding or marked_encoding(path) or "utf-8"
    # Damaged bytes become lone surrogates, which no UTF-8 holds.
    errors = "surrogateescape" if name.startswith("utf-8") else "strict"
    try:
        with path.open(encoding=name, errors=errors, newline="\n") as lines:
            for line in lines:
                yield _row_of(line)
    except UnicodeError as error:
        raise DataError(f"{path} cannot be read as {name}: {error}") from None


def _row_of(line: str) -> Row:
    try:
        if not line.isascii():
            line.encode("utf-8")
        return _as_row(_DECODER.decode(line))
    except UnicodeEncodeError:
        return RowError("malformed line", "not UTF-8")
    # A line of nothing but brackets exhausts the parser's stack.
    except (ValueError, RecursionError) as error:
        return RowError("malformed line", f"not JSON: {error}")


def read_json(path: Path, options: TableOptions) -> Iterator[Row]:
    """Yield the elements of one JSON list without holding the whole file, or COCO's images.

    Raises:
        DataError: when it is neither, or breaks off.
    """
    name = options.encoding or marked_encoding(path) or "utf-8"
    with path.open(encoding=name) as text:
        try:
            for value in _elements(text.read):
                yield _as_row(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not a JSON list: {error}") from None


def _elements(read: Callable[[int], str], size: int = 1 << 20) -> Iterator[Any]:
    buffer = read(size)
    place = _skip(buffer, 0, "\ufeff \t\r\n")
    if buffer[place : place + 1] == "{":
        yield from _captions(_DECODER.decode(buffer[place:] + read(MAX_OBJECT)))
        return
    if buffer[place : place + 1] != "[":
        raise ValueError("it does not begin with '['")
    place = _skip(buffer, place + 1)
    while True:
        if buffer[place : place + 1] == "]":
            return
        value, end = None, len(buffer)
        with contextlib.suppress(ValueError):
            value, end = _DECODER.raw_decode(buffer, place)
            end = _skip(buffer, end)
        # Only what follows shows that an element is whole: "67" may go on with "8.5".
        if buffer[end : end + 1] in (",", "]"):
            yield value
            place = _skip(buffer, end + (buffer[end] == ","))
            continue
        more = read(size)
        if not more:
            raise ValueError(f"it breaks off or is damaged at {buffer[place : place + 40]!r}")
        buffer = buffer[place:] + more
        place = _skip(buffer, 0)
        size *= 2 if len(buffer) > size else 1


def _captions(value: Any) -> Iterator[Any]:
    """Yield COCO's images, each with its captions; a caption of no image is a row of its own.

    Source: the format of COCO's captions_*.json, {images: [{id, file_name}], annotations: [{image_id,
    caption}]} (cocodataset.org, "Data format").
    """
    images = value.get("images") if isinstance(value, dict) else None
    notes = value.get("annotations") if isinstance(value, dict) else None
    if not isinstance(images, list) or not isinstance(notes, list):
        raise ValueError("it is an object, and not COCO's {images: [...], annotations: [...]}")
    if not all(isinstance(one, dict) for one in (*images, *notes)):
        raise ValueError("an element of images or annotations is no object")
    if notes and not any("caption" in note for note in notes):
        raise ValueError("none of its annotations has a caption")
    captions: dict[Any, list[Any]] = {str(image.get("id")): [] for image in images}
    for note in notes:
        place = str(note.get("image_id"))
        if "caption" in note and place in captions:
            captions[place].append(note["caption"])
        else:
            yield RowError(
                "malformed line", f"an annotation of no image, or without a caption: {note!r:.80}"
            )
    numbers = Counter(str(image.get("id")) for image in images)
    for image in images:
        if numbers[str(image.get("id"))] > 1:
            yield RowError("repeated image", f"two images have the id {image.get('id')!r}")
            continue
        yield {"file_name": image.get("file_name"), "caption": captions[str(image.get("id"))]}


def _skip(text: str, place: int, blanks: str = " \t\r\n") -> int:
    while place < len(text) and text[place] in blanks:
        place += 1
    return place


def _as_row(value: Any) -> Row:
    match value:
        case dict() | RowError():
            return value
        case _Repeated(key=key):
            return RowError("repeated column", f"the key {key!r} is there twice")
    return RowError("wrong type", f"row: expected an object, got {type(value).__name__}")
