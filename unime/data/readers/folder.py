"""A folder of images with captions: captions files, archives, one .txt beside each image, or labels.

A captions file is a table (see `formats`) with an image column (IMAGE_COLUMNS) and a caption column
(CAPTION_COLUMNS); capitals, and numbers behind the name (`caption_2`), do not matter. A cell is one
caption, a list, or captions by language ({"en": ..., "de": ...}). Images are relative to the file's folder;
where they are not, the one folder below it is taken that holds them. Which files are read:

1. `captions.*` and `metadata.*` in the folder, also as .txt with a header (Flickr8k);
2. the only other table in it with both columns, or all that are pieces of one (Parquet, tar);
3. `metadata.*` and `captions.*` in its subfolders (`datasets`' ImageFolder), or Parquet and tar there;
4. the .txt files beside images;
5. where no image has one, and all lie in folders that are named as labels are: these names.

What was chosen, and what was not, is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from unime.core import console, inside
from unime.core.errors import DataError
from unime.data.images import ends_like_an_image
from unime.data.items import Item, Pair
from unime.data.readers import cells, formats, sidecars
from unime.data.readers.base import EmbeddedImage, Record, ResolvedSource, RowError
from unime.data.readers.caption_tables import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    CaptionColumns,
    caption_tables,
    columns_among,
    no_columns,
)

SAMPLE = 50
"""Rows that tell where the images lie."""
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([_-][A-Za-z0-9]+)*")


def records(job: ResolvedSource) -> Iterator[Record]:
    """Yield each image with its captions: {"image": location or None, "captions": list of cells}.

    Raises:
        DataError: when there is neither a captions file nor an image, or several to choose from.
    """
    if formats.is_saved_data_set(job.path):
        tables = formats.data_files(job)
    else:
        tables = caption_tables(job.path, formats.options_of(job), job.source.split, aloud=True)
    if tables:
        for table in tables:
            yield from _of_table(table, job)
        return
    if not job.path.is_dir():
        raise DataError(f"{job.path} does not exist (data root {job.root})")
    yield from sidecars.records(job)


def _of_table(table: Path, job: ResolvedSource) -> Iterator[Record]:
    """Yield the rows of one table."""
    inside.check_file(table, job.root)
    rows = formats.records_of(table, job)
    sample = list(islice(rows, SAMPLE))
    below = _image_folder(table, sample, job)
    known: dict[tuple[str, ...], CaptionColumns | None] = {}
    for record in chain(sample, rows):
        if isinstance(record.values, RowError):
            yield record
            continue
        names = tuple(record.values)
        if names not in known:
            known[names] = columns_among(names)
            if known[names] is None and formats.has_header(table):
                raise no_columns(table, names)
            if len(known) == 1:
                _say_columns(table, names, known[names])
        yield record._replace(values=_normal(record.values, known[names], below, job))


def _say_columns(table: Path, names: Sequence[str], columns: CaptionColumns | None) -> None:
    if columns is not None:
        unread = [name for name in names if name != columns.image and name not in columns.captions]
        console.log(
            f"{table}: images from {columns.image!r}, captions from "
            f"{', '.join(map(repr, columns.captions))}"
            + (f"; not read: {', '.join(map(repr, unread))}" if unread else "")
        )


def _normal(
    values: dict[str, Any], columns: CaptionColumns | None, below: str, job: ResolvedSource
) -> dict[str, Any] | RowError:
    """Return what `records` yields of a row."""
    if columns is None:
        return RowError(
            "missing column",
            f"an image column ({', '.join(IMAGE_COLUMNS)}) and a caption column "
            f"({', '.join(CAPTION_COLUMNS)}); columns: {', '.join(values)}",
        )
    if repeated := _repeated_image(columns.image, values):
        return RowError("repeated column", f"two image columns: {columns.image!r} and {repeated!r}")
    captions = [values[name] for name in columns.captions]
    try:
        for caption in captions:
            if isinstance(caption, str) and "\n" in caption:
                _check_not_merged(caption, job, below)
        image = cells.located_image(values[columns.image], "image", job, below)
    except RowError as error:
        return error
    return {"image": image, "captions": captions}


def _repeated_image(image: str, values: Iterable[str]) -> str | None:
    """Return another column of the image's name; which of the two a caption is of is not known."""
    plain = image.strip().casefold()
    for name in values:
        other = name.strip().casefold()
        if name != image and (
            other == plain or re.fullmatch(rf"{re.escape(plain)} \(\d+\)", other)
        ):
            return name
    return None


def _check_not_merged(caption: str, job: ResolvedSource, below: str) -> None:
    """Refuse a caption that goes on with the row of another image, as misread quotes leave it."""
    for line in caption.splitlines()[1:]:
        name = re.split(r"[\t,;|]", line, maxsplit=1)[0].strip(' "')
        if ends_like_an_image(name) and cells.existing_image(name, job.root, below) is not None:
            raise RowError(
                "merged rows",
                f"the caption goes on with the row of {name!r}; quoting: none reads a line at a time",
            )


def _image_folder(table: Path, sample: Sequence[Record], job: ResolvedSource) -> str:
    """Return the folder below the root that a table's image paths are relative to.

    Raises:
        DataError: when the images are not where the table is, and in more than one folder below.
    """
    folder = table.parent
    below = folder.relative_to(job.root).as_posix() if folder.is_relative_to(job.root) else ""
    own = "/".join(part for part in (below if below != "." else "", job.image_root) if part)
    names = _image_names(sample)
    if not names or any(cells.existing_image(name, job.root, own) for name in names):
        return own
    top = job.path if job.path.is_dir() else folder
    holding = []
    for place in sorted(path for path in top.rglob("*") if path.is_dir()):
        if (place / names[0].replace("\\", "/")).is_file():
            there = place.relative_to(job.root).as_posix()
            if all(cells.existing_image(name, job.root, there) for name in names):
                holding.append(there)
    if len(holding) > 1:
        raise DataError(
            f"{table}: {names[0]!r} is not in {folder}, but in {', '.join(holding[:3])}; write paths "
            "that are relative to the table"
        )
    if holding:
        console.log(f"{table}: its images lie in {holding[0]}")
    return holding[0] if holding else own


def _image_names(sample: Sequence[Record]) -> list[str]:
    names = []
    for record in sample:
        if not isinstance(record.values, RowError):
            columns = columns_among(tuple(record.values))
            cell = record.values[columns.image] if columns else None
            if isinstance(cell, str) and cell.strip() and not isinstance(cell, EmbeddedImage):
                names.append(cell.strip())
    return names


def pairs(values: dict[str, Any], job: ResolvedSource) -> list[Pair]:
    """Return image -> all captions (i2t), or a pair caption -> image for each (t2i).

    Raises:
        RowError: when the row cannot be used.
    """
    if values["image"] is None:
        raise RowError("empty item", "the row names no image")
    picture = Item.of("", values["image"])
    captions = [Item.of(text) for text in _captions(values["captions"], job)]
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


def _captions(given: Sequence[Any], job: ResolvedSource) -> list[str]:
    """Return the captions in one or several cells, each once."""
    found: list[Any] = []
    for value in given:
        if isinstance(value, dict):
            found += _of_language(value, job.source.language)
        else:
            found += value if isinstance(value, list) else [value]
    texts = [cells.text(cell, "caption").strip() for cell in found]
    return list(dict.fromkeys(text for text in texts if text))


def _of_language(value: dict[str, Any], language: str | None) -> list[Any]:
    """Return the captions in a cell that has them by language, of one or of all."""
    unknown = [name for name in value if not _LANGUAGE.fullmatch(name)]
    if unknown:
        raise RowError(
            "wrong type",
            f"caption: expected text or captions by language, got the keys {', '.join(map(repr, value))}",
        )
    if language is not None and not value.get(language):
        raise RowError("empty item", f"no caption in '{language}'")
    names = sorted(value) if language is None else [language]
    found = [value[name] for name in names]
    return [one for cell in found for one in (cell if isinstance(cell, list) else [cell])]
