"""Rows of a webdataset archive: files of one name are one row, each suffix a column.

Source: the webdataset convention, 000000012.jpg beside 000000012.txt or .json in a plain tar.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unime.core.errors import DataError
from unime.data.images import IMAGE_SUFFIXES
from unime.data.readers.base import EmbeddedImage, RowError, TableOptions
from unime.data.readers.encoding import decode_text

MAX_MEMBER = 1 << 20
"""Bytes of a text or JSON file in an archive."""
TEXTS = ("txt", "text", "caption", "cls")


def read_tar(path: Path, options: TableOptions) -> Iterator[dict[str, Any] | RowError]:
    """Yield the rows of an archive; neighbours of one name belong together.

    A row has `__key__`, `image` (where the picture lies), `caption` (of .txt), the keys of its .json, and
    what lies in files of other suffixes is named and not read.

    Raises:
        DataError: when it is no plain tar, or lies outside of the data root.
    """
    root = options.root
    if not path.is_relative_to(root):
        raise DataError(f"{path} holds images but lies outside the data root {root}")
    place = path.relative_to(root).as_posix()
    _check_end(path)
    row: dict[str, Any] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isreg() or Path(member.name).name.startswith("."):
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if row and row["__key__"] != key:
                    yield _checked(row)
                    row = {}
                row.setdefault("__key__", key)
                _add(row, suffix.lower(), member, archive, place)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{path} is no plain tar archive (unpack .gz first): {error}") from None
    if row:
        yield _checked(row)


def _check_end(path: Path) -> None:
    """Refuse an archive without the two blocks of zeros at its end: what came after is missing.

    `tarfile` takes one that was cut off between two files for a whole one.
    """
    blocks = 2 * tarfile.BLOCKSIZE
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - blocks))
        if size < blocks or any(file.read()):
            raise DataError(
                f"{path} is no whole tar archive: its end is missing, or it is compressed"
            )


def _add(
    row: dict[str, Any], suffix: str, member: tarfile.TarInfo, archive: tarfile.TarFile, place: str
) -> None:
    """Add one file of an archive to its row."""
    if f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES:
        _set(row, "image", EmbeddedImage(f"{place}#{member.name}"))
        return
    if suffix not in (*TEXTS, "json"):
        return
    if member.size > MAX_MEMBER:
        row[""] = (
            f"too large: {member.name!r} has {member.size} bytes, at most {MAX_MEMBER} are read"
        )
        return
    handle = archive.extractfile(member)
    assert handle is not None, member.name
    try:
        text = decode_text(handle.read(), repr(member.name))
        values = {"caption" if suffix != "cls" else "class": text}
        if suffix == "json":
            values = json.loads(text)
            if not isinstance(values, dict):
                raise ValueError("it is no object")
    except (DataError, ValueError, RecursionError) as error:
        row[""] = f"malformed line: {member.name!r}: {error}"
        return
    for name, value in values.items():
        # A caption is in .txt and, in many archives, in .json again.
        if name not in row or row[name] != value:
            _set(row, name, value)


def _set(row: dict[str, Any], name: str, value: Any) -> None:
    if name in row:
        row[""] = f"repeated column: {row['__key__']!r} has two of {name!r}"
    row[name] = value


def _checked(row: dict[str, Any]) -> dict[str, Any] | RowError:
    """Return a row, or what was wrong with one of its files."""
    if "" in row:
        kind, _, detail = row[""].partition(": ")
        return RowError(kind, detail)
    return row
