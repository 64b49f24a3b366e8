"""A folder of images with captions: captions files, archives, or one .txt beside each image.

A captions file is a table (see `formats`) with an image column (IMAGE_COLUMNS) and a caption column
(CAPTION_COLUMNS); capitals, and numbers behind the name (`caption_2`), do not matter. A cell is one
caption, a list, or captions by language ({"en": ..., "de": ...}). Images are relative to the file's folder;
where they are not, the one folder below it is taken that holds them. Which files are read:

1. `captions.*` and `metadata.*` in the folder, also as .txt with a header (Flickr8k);
2. the only other table in it with both columns, or all that are pieces of one (Parquet, tar);
3. `metadata.*` and `captions.*` in its subfolders (`datasets`' ImageFolder), or Parquet and tar there;
4. the .txt files beside images.

What was chosen, and what was not, is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from unime.core import console, inside
from unime.core.errors import DataError
from unime.data.images import IMAGE_SUFFIXES
from unime.data.items import Item, Pair
from unime.data.readers import cells, formats, sidecars
from unime.data.readers.base import EmbeddedImage, Record, ResolvedSource, RowError, TableOptions
from unime.data.readers.instructions import FILE_NAME

IMAGE_COLUMNS = (
    "image",
    "file_name",
    "image_path",
    "filename",
    "path",
    "file",
    "img",
    "image_name",
)
CAPTION_COLUMNS = ("caption", "captions", "text", "description", "title", "comment")
CAPTION_FILES = ("captions", "metadata")
SAMPLE = 50
"""Rows that tell where the images lie."""
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([_-][A-Za-z0-9]+)*")
_NUMBERED = re.compile(r"(?P<name>.*?[a-z])(?:[ _]?\(?\d+\)?)", re.DOTALL)


class CaptionColumns(NamedTuple):
    """Which columns of a table hold what."""

    image: str
    captions: tuple[str, ...]


def columns_among(names: Sequence[str]) -> CaptionColumns | None:
    """Return the columns of an image and of its captions; None where one of them is not there."""
    plain = {name.strip().casefold(): name for name in reversed(names)}
    image = next((plain[known] for known in IMAGE_COLUMNS if known in plain), None)
    if image is None:
        return None
    for known in CAPTION_COLUMNS:
        found = tuple(name for name in names if _is_caption(name, known))
        if found:
            return CaptionColumns(image, found)
    return None


def _is_caption(name: str, known: str) -> bool:
    plain = name.strip().casefold()
    match = _NUMBERED.fullmatch(plain)
    return plain == known or (match is not None and match["name"].rstrip(" _") == known)


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


def caption_tables(
    path: Path, options: TableOptions, split: str | None = None, aloud: bool = False
) -> list[Path]:
    """Return the files that hold captions: the path itself, or those of the folder.

    Args:
        path: a file or folder.
        options: how text files are read.
        split: keep files whose names begin with it, or that lie in a folder of this name.
        aloud: say which tables are not read.

    Raises:
        DataError: when there are several to choose from, or one called captions has no such columns.
    """
    if not path.is_dir():
        return [path] if path.exists() else []
    for here in (path.iterdir(), path.rglob("*")):
        tables = [file for file in sorted(here) if _is_table(file, path, split)]
        named = [file for file in tables if file.stem.casefold() in CAPTION_FILES]
        others = [file for file in tables if file not in named]
        found = _with_columns(named, options, must=True) or _with_columns(
            others, options, must=False
        )
        if len(found) > 1 and not _are_pieces(found):
            names = ", ".join(file.relative_to(path).as_posix() for file in found)
            raise DataError(
                f"{path} holds several tables with images and captions: {names}; name one"
            )
        if aloud and (unread := sorted({*tables} - {*found})):
            console.log(
                f"{path}: not read, for they lack an image or a caption column: "
                f"{', '.join(file.name for file in unread[:5])}{', ...' * (len(unread) > 5)}"
            )
        if found:
            return found
    return []


def _is_table(file: Path, folder: Path, split: str | None) -> bool:
    below = file.relative_to(folder)
    is_split = split is None or split in (*below.parts[:-1], file.stem.split("-")[0])
    hidden = any(part.startswith(".") for part in below.parts)
    suffix = file.suffix.lower()
    is_captions = suffix == ".txt" and file.stem.casefold() in CAPTION_FILES
    known = suffix in formats.FORMATS or is_captions
    return known and is_split and not hidden and file.name != FILE_NAME and file.is_file()


def _with_columns(files: Sequence[Path], options: TableOptions, must: bool) -> list[Path]:
    """Return the tables with an image and a caption column.

    Args:
        files: the tables.
        options: how text files are read.
        must: whether their names say that they hold captions.
    """
    columns: dict[Path, list[str]] = {}
    for file in files:
        try:
            columns[file] = _columns_of(file, options)
        except DataError:
            # A piece that is damaged is missed; a .txt or a stray JSON is perhaps no table at all.
            if file.suffix.lower() in (".parquet", ".tar") or (
                must and file.suffix.lower() != ".txt"
            ):
                raise
    found = [file for file, names in columns.items() if columns_among(names)]
    if must and not found:
        for file, names in columns.items():
            if file.suffix.lower() != ".txt":  # perhaps the caption of an image called captions
                raise _no_columns(file, names)
    return found


def _columns_of(file: Path, options: TableOptions) -> list[str]:
    """Return the names of a table's columns; those of its first rows, where rows have their own."""
    if formats.has_header(file):
        return formats.header_of(file, options)
    rows = islice(formats.read_rows(file, options), 20)
    return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))


def _no_columns(file: Path, names: Sequence[str]) -> DataError:
    return DataError(
        f"{file} has the columns {', '.join(map(repr, names)) or 'none'}; expected an image column "
        f"({', '.join(IMAGE_COLUMNS)}) and a caption column ({', '.join(CAPTION_COLUMNS)})"
    )


def _are_pieces(files: Sequence[Path]) -> bool:
    """Tell whether tables belong together: pieces of one, or one in each of some folders."""
    suffixes = {file.suffix.lower() for file in files}
    one_each = len({file.parent for file in files}) == len(files)
    return len(suffixes) == 1 and (one_each or suffixes <= {".parquet", ".tar"})


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
                raise _no_columns(table, names)
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
        is_image = f".{name.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES
        if is_image and cells.existing_image(name, job.root, below) is not None:
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
