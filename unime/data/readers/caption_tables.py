"""Which files of a folder hold images' captions, and in which columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from unime.core import console
from unime.core.errors import DataError
from unime.data.images import IMAGE_SUFFIXES
from unime.data.readers import formats
from unime.data.readers.base import TableOptions
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
    if path.is_file() and path.suffix.lower() not in (*formats.FORMATS, ".txt"):
        raise formats.unknown_format(path)
    if not path.is_dir():
        return [path] if path.exists() else []
    for is_last, here in enumerate((path.iterdir(), path.rglob("*"))):
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
        unread = [file for file in tables if file not in found]
        _check_pieces(found, unread, options)
        if aloud and (found or is_last):
            _say(path, found, unread)
        if found:
            return found
    return []


def _say(folder: Path, found: Sequence[Path], unread: Sequence[Path]) -> None:
    if unread:
        console.log(
            f"{folder}: not read, for they lack an image or a caption column: "
            f"{', '.join(file.name for file in unread[:5])}{', ...' * (len(unread) > 5)}"
        )
    for stem, count in Counter(piece[1] for file in found if (piece := _piece(file))).items():
        wanted = next(
            int(piece[2]) for file in found if (piece := _piece(file)) and piece[1] == stem
        )
        if count < wanted:
            console.log(f"{folder}: {count} of the {wanted} pieces of {stem} are there")


def _piece(file: Path) -> re.Match[str] | None:
    return re.fullmatch(r"(.*)-\d+-of-(\d+)", file.stem)


def _check_pieces(found: Sequence[Path], unread: Sequence[Path], options: TableOptions) -> None:
    """Refuse a piece without the columns that the others have."""
    stems = {piece[1] for file in found if (piece := _piece(file))}
    for file in unread:
        if (piece := _piece(file)) and piece[1] in stems:
            raise no_columns(file, _columns_of(file, options))


def _is_table(file: Path, folder: Path, split: str | None) -> bool:
    suffix = file.suffix.lower()
    is_captions = suffix == ".txt" and file.stem.casefold() in CAPTION_FILES
    if not is_captions and suffix not in formats.FORMATS:
        return False  # at once: a folder may hold a million images
    below = file.relative_to(folder)
    is_split = split is None or split in (*below.parts[:-1], file.stem.split("-")[0])
    hidden = any(part.startswith(".") for part in below.parts)
    # It may be the caption of an image of its name, or a note beside such captions.
    if is_captions and any(other != file for other in file.parent.glob("*.[tT][xX][tT]")):
        is_captions = columns_among(_header_if_any(file)) is not None
    is_captions &= not any(file.with_suffix(image).exists() for image in IMAGE_SUFFIXES)
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
            # A piece that is damaged is missed; a stray JSON is perhaps no table at all.
            if must or file.suffix.lower() in (".parquet", ".tar"):
                raise
    found = [file for file, names in columns.items() if columns_among(names)]
    if must and columns and not found:
        raise no_columns(*next(iter(columns.items())))
    return found


def _header_if_any(file: Path) -> list[str]:
    try:
        return formats.header_of(file, TableOptions(file.parent))
    except DataError:
        return []


def _columns_of(file: Path, options: TableOptions) -> list[str]:
    """Return the names of a table's columns; those of its first rows, where rows have their own."""
    if formats.has_header(file):
        return formats.header_of(file, options)
    rows = islice(formats.read_rows(file, options), 20)
    return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))


def no_columns(file: Path, names: Sequence[str]) -> DataError:
    """Return what to say of a table without an image or a caption column."""
    return DataError(
        f"{file} has the columns {', '.join(map(repr, names)) or 'none'}; expected an image column "
        f"({', '.join(IMAGE_COLUMNS)}) and a caption column ({', '.join(CAPTION_COLUMNS)})"
    )


def _are_pieces(files: Sequence[Path]) -> bool:
    """Tell whether tables belong together: pieces of one, or one in each of some folders."""
    suffixes = {file.suffix.lower() for file in files}
    one_each = len({file.parent for file in files}) == len(files)
    return len(suffixes) == 1 and (one_each or suffixes <= {".parquet", ".tar"})
