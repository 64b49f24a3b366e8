"""Rows that cannot be used: counted against what was read, listed with their reasons, the first ones shown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unime.core import console, files
from unime.core.errors import DataError

NAME = "rejected.jsonl"
SHOWN = 3
"""Reasons on the screen, each of another kind."""
LONGEST = 200
"""Characters of one that is shown."""


def write_rejected(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON line {file, row, reason} for each rejected row, in reading order; none: no line."""
    with files.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(f"{console.printable(json.dumps(dict(row), ensure_ascii=False))}\n")


def first_reasons(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return where and why the first rows of each kind were rejected, for the screen.

    Args:
        rows: {file, row, reason}; read as far as needed.
    """
    found: dict[str, str] = {}
    for row in rows:
        reason = str(row["reason"])
        shown = reason if len(reason) <= LONGEST else f"{reason[:LONGEST]} ..."
        place = f"{row['file']}, row {row['row']}"
        found.setdefault(reason.partition(":")[0], console.printable(f"{place}: {shown}"))
        if len(found) == SHOWN:
            break
    return list(found.values())


def account(what: str, read: int, accepted: int, rejected: int, merged: int | None = None) -> str:
    """Return one line that says where all the rows went.

    Args:
        what: was read.
        read: rows that the reader gave.
        accepted: rows that are in the result.
        rejected: rows that are listed with a reason.
        merged: rows whose image was there before, where copies are put together.

    Raises:
        DataError: when the numbers do not add up: a row is lost, or there twice.
    """
    copies = "" if merged is None else f" + {merged} merged copies"
    line = f"{what}: {read} rows read = {accepted} accepted + {rejected} rejected{copies}"
    if read != accepted + rejected + (merged or 0):
        raise DataError(f"{line} does not add up; please report this with the file's first lines")
    return line
