"""The index on disk: what was embedded, of which state of which file.

`index.parquet` holds it all; while an update runs, finished blocks lie in `parts/`, so a killed
update loses one block. A row is one picture or one passage of a text; a file that cannot be read is
a row too, with its reason, so that it is neither read again nor forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from unime.core import files
from unime.core.errors import OutputError
from unime.core.overwrite import is_free, read_mark
from unime.data import tables

SCHEMA = pa.schema(
    [
        pa.field("path", pa.large_string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.int64(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("problem", pa.large_string(), nullable=False),
        pa.field("vector", pa.list_(pa.float32()), nullable=False),
    ]
)
MODEL = "model.json"


class FileState(NamedTuple):
    """What tells a file's contents from another's without reading them."""

    size: int
    modified: int
    """Nanoseconds."""


class Entry(NamedTuple):
    """One row of the index."""

    path: str
    """Relative to the folder, with forward slashes."""
    state: FileState
    text: str
    """The passage; empty for a picture."""
    problem: str
    """Why the file is not in the index; empty when it is."""
    vector: Sequence[float]


def load(place: Path) -> dict[str, list[Entry]]:
    """Return the entries by file; `begin` has seen to it that they are the model's."""
    found: dict[str, list[Entry]] = {}
    # A file's entries are all in one table; a later table knows better.
    for table in (place / "index.parquet", *sorted((place / "parts").glob("*.parquet"))):
        if table.is_file():
            found |= _by_file(_entries(table))
    return found


def model_of(place: Path) -> Path | None:
    """Return the model an index was made with."""
    path = place / MODEL
    return Path(files.read_json(path)["model"]) if path.is_file() else None


def begin(place: Path, model: Path, fingerprint: str) -> None:
    """Make an index of a model; one of another model is given up.

    Raises:
        OutputError: when the folder holds something else than an index.
    """
    path = place / MODEL
    if not is_free(place) and not {"model", "fingerprint"} <= read_mark(path).keys():
        raise OutputError(
            f"{place} is there already and is no search index; it stays as it is: choose another "
            "folder by --index"
        )
    if path.is_file() and files.read_json(path)["fingerprint"] == fingerprint:
        return
    if (place / "parts").is_dir():
        files.remove_folder(place / "parts")
    (place / "index.parquet").unlink(missing_ok=True)
    files.write_json(path, {"model": str(model.resolve()), "fingerprint": fingerprint})


def write_part(place: Path, entries: Sequence[Entry]) -> None:
    """Write one finished block."""
    parts = place / "parts"
    number = max((int(path.stem) for path in parts.glob("*.parquet")), default=-1) + 1
    tables.write_table(parts / f"{number:06}.parquet", _table(entries))


def finish(place: Path, entries: Iterable[Entry]) -> None:
    """Write all entries as one table and remove the blocks."""
    tables.write_table(place / "index.parquet", _table(list(entries)))
    if (place / "parts").is_dir():
        files.remove_folder(place / "parts")


def _entries(path: Path) -> list[Entry]:
    table = tables.read_table(path)
    lists = table["vector"].combine_chunks()
    ends = np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False)).astype(int)
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    vectors = np.split(flat, ends[:-1]) if len(ends) else []
    columns = [table[name].to_pylist() for name in SCHEMA.names[:-1]]
    return [
        Entry(name, FileState(size, modified), text, problem, vector)
        for name, size, modified, text, problem, vector in zip(*columns, vectors, strict=True)
    ]


def _by_file(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.path, []).append(entry)
    return found


def _table(entries: Sequence[Entry]) -> pa.Table:
    columns = {
        "path": [e.path for e in entries],
        "size": [e.state.size for e in entries],
        "modified": [e.state.modified for e in entries],
        "text": [e.text for e in entries],
        "problem": [e.problem for e in entries],
        "vector": [np.asarray(e.vector, dtype=np.float32) for e in entries],
    }
    return pa.table(columns, schema=SCHEMA)
