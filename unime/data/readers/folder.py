"""A folder of images with captions: a captions file, or one .txt beside each image.

The file is `captions.*` or `metadata.*` (jsonl, json, csv, tsv, parquet), or the folder's only file
of such a kind, with the image's path relative to the folder in `image` (or another name of
IMAGE_COLUMNS), and in `caption` (CAPTION_COLUMNS) one caption, a list, or captions by language
({"en": ..., "de": ...}).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unime.core import inside
from unime.core.errors import DataError
from unime.data.items import Item, Pair
from unime.data.readers import cells, formats
from unime.data.readers.base import Record, ResolvedSource, RowError
from unime.data.readers.instructions import FILE_NAME

IMAGE_COLUMNS = ("image", "file_name", "image_path", "filename", "path", "file", "img")
CAPTION_COLUMNS = ("caption", "captions", "text", "description", "title")
CAPTION_FILES = ("captions", "metadata")
MAX_CAPTION = 1_000_000
"""Bytes of a caption file; a larger one is no caption."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


def records(job: ResolvedSource) -> Iterator[Record]:
    """Yield the rows of the captions file, or one row for each image of the folder.

    Raises:
        DataError: when there is neither.
    """
    file = captions_file(job.path)
    if file is not None:
        yield from formats.records(job._replace(path=file))
        return
    if not job.path.is_dir():
        raise DataError(f"{job.path} does not exist (data root {job.root})")
    images = sorted(p for p in job.path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not images:
        raise DataError(f"{job.path} holds neither a captions file nor an image")
    for number, path in enumerate(images):
        name = path.relative_to(job.path).as_posix()
        yield Record(name, number, _sidecar(job, name))


def captions_file(path: Path) -> Path | None:
    """Return the captions file: the path itself, or the one in the folder."""
    if path.is_file():
        return path
    names = [f"{stem}{suffix}" for stem in CAPTION_FILES for suffix in formats.FORMATS]
    named = next((path / name for name in names if (path / name).is_file()), None)
    if named is not None or not path.is_dir():
        return named
    others = [
        p for p in path.iterdir() if p.suffix in formats.FORMATS and not p.name.startswith(".")
    ]
    others = [p for p in others if p.is_file()]
    return others[0] if len(others) == 1 and others[0].name != FILE_NAME else None


def pairs(values: dict[str, Any], job: ResolvedSource) -> list[Pair]:
    """Return image -> all captions (i2t), or a pair caption -> image for each (t2i).

    Raises:
        RowError: when the row cannot be used.
    """
    folder = job.path if job.path.is_dir() else job.path.parent
    below = folder.relative_to(job.root).as_posix() if folder != job.root else ""
    root = "/".join(part for part in (below, job.image_root) if part)
    location = cells.image(values[_column(values, IMAGE_COLUMNS)], "image", root)
    if location is None:
        raise RowError("empty item", "the row names no image")
    picture = Item.of("", location)
    captions = [Item.of(text) for text in _captions(values[_column(values, CAPTION_COLUMNS)], job)]
    if not captions:
        raise RowError("empty item", "the row has no caption")
    query_instruction = job.instructions.plain("", job.task, "query")[0]
    target_instruction = job.instructions.plain("", job.task, "target")[0]
    if job.source.direction == "i2t":
        found = [Pair(picture, tuple(captions), job.task)]
    else:
        found = [Pair(caption, (picture,), job.task) for caption in captions]
    return [
        cells.checked(
            Pair(
                pair.query,
                pair.positives,
                job.task,
                query_instruction=query_instruction,
                target_instruction=target_instruction,
            )
        )
        for pair in found
    ]


def _captions(value: Any, job: ResolvedSource) -> list[str]:
    language = job.source.language
    if isinstance(value, dict):
        if language is None:
            value = [caption for _, caption in sorted(value.items())]
        elif not value.get(language):
            raise RowError("empty item", f"no caption in '{language}'")
        else:
            value = value[language]
    cells_ = value if isinstance(value, list) else [value]
    texts = [cells.text(cell, "caption").strip() for cell in cells_]
    return list(dict.fromkeys(text for text in texts if text))


def _column(values: dict[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        if name in values:
            return name
    raise RowError("missing column", f"one of {', '.join(names)}; columns: {', '.join(values)}")


def _sidecar(job: ResolvedSource, name: str) -> dict[str, Any] | RowError:
    sidecar = (job.path / name).with_suffix(".txt")
    # A link that leads nowhere is there, and refused below.
    if not os.path.lexists(sidecar):
        return RowError("empty item", f"no caption file {sidecar.name} beside it")
    try:
        place = sidecar.relative_to(job.root).as_posix()
        return {"image": name, "caption": inside.read_text(job.root, place, MAX_CAPTION)}
    except inside.FileError as error:
        return RowError(error.kind, f"caption file {error.detail}")
