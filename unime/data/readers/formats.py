"""Rows out of files: Parquet, JSON Lines, JSON lists, CSV, TSV, webdataset archives.

A row that cannot be parsed becomes a Record that holds a RowError. A file that cannot be read on
(no Parquet, JSON list cut off) is a DataError: what comes after it is unknown.

To add a format: a module with a function (path, options) -> rows, and one line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unime.core import inside
from unime.core.errors import DataError
from unime.data.readers.base import Record, ResolvedSource, RowError, TableOptions
from unime.data.readers.delimited import delimited_header, read_delimited
from unime.data.readers.instructions import FILE_NAME
from unime.data.readers.json_rows import read_json, read_json_lines
from unime.data.readers.parquet_rows import columns_of, read_parquet
from unime.data.readers.saved_data_sets import saved_to_parquet
from unime.data.readers.tar_rows import read_tar

Rows = Iterator[dict[str, Any] | RowError]

FORMATS: dict[str, Callable[[Path, TableOptions], Rows]] = {
    ".parquet": read_parquet,
    ".jsonl": read_json_lines,
    ".json": read_json,
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".tar": read_tar,
}
"""By the suffix of a file, in small letters. A captions file may also be .txt, as CSV or TSV."""


def records(job: ResolvedSource) -> Iterator[Record]:
    """Yield the rows of a source's files, in a fixed order.

    Raises:
        DataError: when there is nothing to read, or a file as a whole cannot be read.
    """
    for path in data_files(job):
        yield from records_of(path, job)


def records_of(path: Path, job: ResolvedSource) -> Iterator[Record]:
    """Yield the rows of one file; errors as `records`."""
    name = path.relative_to(job.root).as_posix() if path.is_relative_to(job.root) else path.name
    for number, values in enumerate(read_rows(path, options_of(job))):
        yield Record(name, number, values)


def read_rows(path: Path, options: TableOptions) -> Rows:
    """Yield the rows of one file.

    Raises:
        DataError: when it as a whole cannot be read.
    """
    return FORMATS.get(path.suffix.lower(), read_delimited)(path, options)


def unknown_format(path: Path) -> DataError:
    """Return what to say of a file with another suffix than those in `FORMATS`."""
    return DataError(f"{path}: unknown format; known: {', '.join(sorted(FORMATS))}")


def has_header(path: Path) -> bool:
    """Tell whether all rows of a file have the columns that its beginning names."""
    return path.suffix.lower() in (".parquet", ".csv", ".tsv", ".txt")


def header_of(path: Path, options: TableOptions) -> list[str]:
    """Return the columns of a file that has a header.

    Raises:
        DataError: when it cannot be read.
    """
    if path.suffix.lower() == ".parquet":
        return columns_of(path)
    return delimited_header(path, options)


def is_saved_data_set(folder: Path) -> bool:
    """Tell whether `datasets` wrote a folder by `save_to_disk`."""
    names = ("dataset_info.json", "dataset_dict.json")
    return any((folder / name).is_file() for name in names)


def options_of(job: ResolvedSource) -> TableOptions:
    """Return how the files of a source are read."""
    return TableOptions(job.root, job.source.encoding, job.source.quoting)


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
        if path.suffix.lower() not in FORMATS:
            raise unknown_format(path)
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} does not exist (data root {job.root})")
    if is_saved_data_set(path):
        return [saved_to_parquet(path, split, job.root)]
    found = tables_in(path)
    if not found:
        raise DataError(f"{path} holds no file to read; expected {', '.join(sorted(FORMATS))}")
    return _of_split(found, split, path)


def tables_in(folder: Path) -> list[Path]:
    """Return the tables of a folder: Parquet at any depth, else what is in the folder itself.

    Archives are tables where there is nothing else: beside a table they hold its images.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() == ".parquet" and _is_data(p))
    here = sorted(p for p in folder.iterdir() if p.suffix.lower() in FORMATS and _is_data(p))
    return found or [p for p in here if p.suffix.lower() != ".tar"] or here


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


def _is_data(path: Path) -> bool:
    return not path.name.startswith(".") and path.name != FILE_NAME
