"""Rows out of files: Parquet, JSON Lines, JSON lists, CSV/TSV, `datasets` folders and the Hub.

A row that cannot be parsed becomes a Record that holds a RowError. A file that cannot be read on
(no Parquet, JSON list cut off) is a DataError: what comes after it is unknown.

Data sets of the `datasets` library, saved to disk or on the Hub, are written once as Parquet below the
data root, so that images inside them have a location that stays valid, and are then read like any other
Parquet file.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unime.core import console, files, inside
from unime.core.errors import DataError
from unime.data.images import image_columns
from unime.data.readers.base import Record, ResolvedSource, RowError

ROWS_PER_BATCH = 1024

HUB = "hub:"
CONVERTED = "converted"


class EmbeddedImage(str):
    """The location of an image whose bytes lie in the table itself."""

    __slots__ = ()


def records(job: ResolvedSource) -> Iterator[Record]:
    """Yield the rows of a source's files, in a fixed order.

    Raises:
        DataError: when there is nothing to read, or a file as a whole cannot be read.
    """
    for path in data_files(job):
        name = path.relative_to(job.root).as_posix() if _below(path, job.root) else path.name
        for number, values in enumerate(FORMATS[path.suffix](path, job.root)):
            yield Record(name, number, values)


def data_files(job: ResolvedSource) -> list[Path]:
    """Return the files that `records` reads: regular ones, and none that leads out of the root.

    Raises:
        DataError: when there are none, or several splits to choose from.
    """
    found = _data_files(job)
    for path in found:
        inside.check_file(path, job.root)
    return found


def _data_files(job: ResolvedSource) -> list[Path]:
    path, split = job.path, job.source.split
    if path.exists() and not path.is_dir():
        if path.suffix not in FORMATS:
            raise DataError(f"{path}: unknown format; known: {', '.join(sorted(FORMATS))}")
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} does not exist (data root {job.root})")
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return [saved_to_parquet(path, split, job.root)]
    found = sorted(p for p in path.rglob("*.parquet") if not p.name.startswith("."))
    found = found or sorted(p for p in path.iterdir() if p.suffix in FORMATS and _is_data(p))
    if not found:
        raise DataError(f"{path} holds no file to read; expected {', '.join(sorted(FORMATS))}")
    return _of_split(found, split, path)


def _of_split(found: Sequence[Path], split: str | None, path: Path) -> list[Path]:
    """Keep the files of one split: `original.parquet`, `original-00000-of-00002.parquet`."""
    splits = sorted({file.stem.split("-")[0] for file in found})
    if split is None:
        if len(splits) > 1:
            raise DataError(f"{path} holds several splits; choose one by split: {splits}")
        return list(found)
    chosen = [file for file in found if file.stem.split("-")[0] == split]
    if not chosen:
        raise DataError(f"{path} holds no split '{split}'; splits: {', '.join(splits)}")
    return chosen


def _read_parquet(path: Path, root: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, memory_map=True)
        embedded = image_columns(file.schema_arrow)
        if embedded and not _below(path, root):
            raise DataError(f"{path} holds images but lies outside the data root {root}")
        start = 0
        for batch in file.iter_batches(ROWS_PER_BATCH):
            columns = {
                name: _locations(column, f"{path.relative_to(root).as_posix()}#", name, start)
                if name in embedded
                else column.to_pylist()
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            }
            for row in range(batch.num_rows):
                yield {name: values[row] for name, values in columns.items()}
            start += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from None


def _locations(column: Any, file: str, name: str, start: int) -> list[str | None]:
    """Return where images are, without copying their bytes: in this file, or at a path."""
    import pyarrow as pa

    if not pa.types.is_struct(column.type):
        return [
            EmbeddedImage(f"{file}{start + row}/{name}") if there else None
            for row, there in enumerate(column.is_valid().to_pylist())
        ]
    inside = column.field("bytes").is_valid().to_pylist()
    has_paths = column.type.get_field_index("path") >= 0
    paths = column.field("path").to_pylist() if has_paths else [None] * len(column)
    return [
        EmbeddedImage(f"{file}{start + row}/{name}") if there else path
        for row, (there, path) in enumerate(zip(inside, paths, strict=True))
    ]


def _read_json_lines(path: Path, root: Path) -> Iterator[dict[str, Any] | RowError]:
    with path.open("rb") as lines:
        for line in lines:
            try:
                value = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                yield RowError("malformed line", "not UTF-8")
            # A line of nothing but brackets exhausts the parser's stack.
            except (ValueError, RecursionError) as error:
                yield RowError("malformed line", f"not JSON: {error}")
            else:
                yield _as_row(value)


def _read_json(path: Path, root: Path) -> Iterator[dict[str, Any] | RowError]:
    """Yield the elements of one JSON list without holding the whole file."""
    with path.open(encoding="utf-8") as text:
        try:
            for value in _elements(text.read):
                yield _as_row(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not a JSON list: {error}") from None


def _elements(read: Callable[[int], str], size: int = 1 << 20) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    buffer = read(size)
    place = _skip(buffer, 0, "\ufeff \t\r\n")
    if buffer[place : place + 1] != "[":
        raise ValueError("it does not begin with '['")
    place = _skip(buffer, place + 1)
    while True:
        if buffer[place : place + 1] == "]":
            return
        value, end = None, len(buffer)
        with contextlib.suppress(ValueError):
            value, end = decoder.raw_decode(buffer, place)
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


def _skip(text: str, place: int, blanks: str = " \t\r\n") -> int:
    while place < len(text) and text[place] in blanks:
        place += 1
    return place


def _read_csv(path: Path, root: Path) -> Iterator[dict[str, Any] | RowError]:
    # Undecodable bytes become lone surrogates, which the check of texts rejects row by row.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        rows = csv.reader(text, delimiter=delimiter)
        header = next(rows, None)
        if header is None:
            raise DataError(f"{path} is empty; expected a header line")
        while True:
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield RowError("malformed line", str(error))
                continue
            if len(cells) == len(header):
                yield dict(zip(header, cells, strict=True))
            else:
                yield RowError(
                    "malformed line", f"{len(cells)} cells, expected {len(header)} as in the header"
                )


def _as_row(value: Any) -> dict[str, Any] | RowError:
    if isinstance(value, dict):
        return value
    return RowError("wrong type", f"row: expected an object, got {type(value).__name__}")


def _is_data(path: Path) -> bool:
    return not path.name.startswith(".") and path.name != "instructions.json"


def _below(path: Path, root: Path) -> bool:
    return path.is_relative_to(root)


FORMATS: dict[str, Callable[[Path, Path], Iterator[dict[str, Any] | RowError]]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
}


def hub_to_parquet(repo: str, name: str | None, split: str | None, root: Path) -> Path:
    """Load a data set from the Hub (or its cache) and return it as a Parquet file.

    Raises:
        DataError: when it cannot be loaded.
    """
    import datasets

    path = root / CONVERTED / f"{_plain_name(f'{repo}--{name or str()}--{split or str()}')}.parquet"
    if path.is_file():
        return path
    try:
        loaded = datasets.load_dataset(repo, name, split=split)
    # `datasets` raises what its back ends raise: connection, name, format and value errors alike.
    except Exception as error:
        raise DataError(
            f"cannot load {HUB}{repo} (name {name}, split {split}): "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from None
    return _write_parquet(loaded, split, path, f"{HUB}{repo}")


def saved_to_parquet(folder: Path, split: str | None, root: Path) -> Path:
    """Return a folder written by `save_to_disk` as a Parquet file.

    Raises:
        DataError: when it cannot be loaded, or holds several splits and none was chosen.
    """
    import datasets

    state = hashlib.sha256()
    for part in sorted(folder.rglob("*.json")):
        state.update(part.read_bytes())
    path = root / CONVERTED / f"{_plain_name(folder.name)}-{state.hexdigest()[:12]}.parquet"
    if split is not None:
        path = path.with_name(f"{split}-{path.name}")
    if path.is_file():
        return path
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(f"{folder} is no data set written by save_to_disk: {error}") from None
    return _write_parquet(loaded, split, path, str(folder))


def _write_parquet(loaded: Any, split: str | None, path: Path, what: str) -> Path:
    import datasets

    if isinstance(loaded, dict):
        if split not in loaded:
            raise DataError(f"{what} has the splits {', '.join(loaded)}; choose one by split:")
        loaded = loaded[split]
    # Undecoded, an image column is {bytes, path}: nothing is decoded and written anew.
    for column, feature in loaded.features.items():
        if isinstance(feature, datasets.Image):
            loaded = loaded.cast_column(column, datasets.Image(decode=False))
    console.log(f"{what}: writing {len(loaded)} rows to {path}")
    with files.atomic_path(path) as temporary:
        loaded.to_parquet(str(temporary))
    return path


def _plain_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
