"""Rows of a Parquet file. What a column of bytes holds is told by the bytes, cell by cell."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unime.core import console
from unime.core.errors import DataError
from unime.data.column_names import unique_names
from unime.data.images import image_columns
from unime.data.readers.base import EmbeddedImage, RowError, TableOptions

ROWS_PER_BATCH = 1024
HEAD = 64
"""Bytes that tell an image."""

_IMAGE = re.compile(
    rb"\x89PNG|\xff\xd8\xff|GIF8[79]a|RIFF.{4}WEBP|II\*\x00|MM\x00\*|BM.{4}\x00{4}"
    rb"|\x00{3}\x0cjP|\xff\x4f\xff\x51|.{4}ftyp(?:avi[fs]|hei[cfmsx]|hev[cmx]|mif1|msf1)"
    rb"|\x00\x00\x01\x00|P[1-6]\s+(?:\x23[^\n]*\n\s*)*\d+\s+\d+\s",
    re.DOTALL,
)
"""How the formats begin that are read as images, and HEIC, which is refused by its name."""


def read_parquet(path: Path, options: TableOptions) -> Iterator[dict[str, Any] | RowError]:
    """Yield the rows of a Parquet file; images in it as their locations.

    Raises:
        DataError: when it cannot be read, has fewer rows than it says, or holds images and lies outside
            of the data root.
    """
    import pyarrow as pa

    table = _ParquetTable(path, options.root)
    try:
        for batch in table.file.iter_batches(ROWS_PER_BATCH):
            for row in zip(*table.columns(batch), strict=True):
                yield dict(zip(table.names, row, strict=True))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from None
    table.finish()


class _ParquetTable:
    """One file while it is read."""

    def __init__(self, path: Path, root: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self.file = pq.ParquetFile(path, memory_map=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path} is not a readable Parquet file: {error}") from None
        schema = self.file.schema_arrow
        self.names = unique_names(schema.names)
        in_table = image_columns(schema)
        self._embedded = [name in in_table for name in schema.names]
        self._nested = [_has_bytes(field.type) for field in schema]
        if any(self._embedded) and not path.is_relative_to(root):
            raise DataError(f"{path} holds images but lies outside the data root {root}")
        self._path = path
        self._below = path.relative_to(root).as_posix() if path.is_relative_to(root) else ""
        self._rows = 0
        self._kinds = [Counter[str]() for _ in self.names]

    def columns(self, batch: Any) -> list[list[Any]]:
        """Return the cells of a batch, column by column."""
        found = []
        for place, column in enumerate(batch.columns):
            if self._embedded[place]:
                where = (self._below, self._rows, self.names[place])
                found.append(_cells(column, where, self._kinds[place]))
            else:
                cells = column.to_pylist()
                found.append([_as_texts(c) for c in cells] if self._nested[place] else cells)
        self._rows += batch.num_rows
        return found

    def finish(self) -> None:
        """Compare the rows with the file's own count; say what columns without a type hold."""
        if self._rows != self.file.metadata.num_rows:
            raise DataError(
                f"{self._path}: {self._rows} rows read, it says that it has "
                f"{self.file.metadata.num_rows}"
            )
        for name, found in zip(self.names, self._kinds, strict=True):
            if found["texts"]:
                counts = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
                console.log(f"{self._path}: column {name!r} is of bytes, without a type: {counts}")


def columns_of(path: Path) -> list[str]:
    """Return the names of the columns.

    Raises:
        DataError: when it is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return unique_names(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from None


def _cells(column: Any, where: tuple[str, int, str], counts: Counter[str]) -> list[Any]:
    """Return the cells of a column of bytes, or of {bytes, path}; images are not copied.

    Args:
        column: the Arrow array.
        where: it is: file below the data root, row of the first cell, column.
        counts: of what bare bytes are.
    """
    import pyarrow as pa

    if not pa.types.is_struct(column.type):
        return _bare_cells(column, where, counts)
    file, start, name = where
    there = column.field("bytes").is_valid().to_pylist()
    has_paths = column.type.get_field_index("path") >= 0
    paths = column.field("path").to_pylist() if has_paths else [None] * len(column)
    return [
        EmbeddedImage(f"{file}#{start + row}/{name}") if is_there else path
        for row, (is_there, path) in enumerate(zip(there, paths, strict=True))
    ]


def _bare_cells(column: Any, where: tuple[str, int, str], counts: Counter[str]) -> list[Any]:
    """Return texts, and the locations of images and of what is neither (it is refused as an image)."""
    import pyarrow as pa
    from pyarrow.compute import SliceOptions, call_function

    file, start, name = where
    column = column.cast(pa.large_binary())
    heads = call_function("binary_slice", [column], SliceOptions(0, HEAD)).to_pylist()
    cells: list[Any] = [None] * len(heads)
    for row, head in enumerate(heads):
        if head is None:
            continue
        if _IMAGE.match(head):
            counts["images"] += 1
        elif (text := _text(column[row].as_py())) is not None:
            counts["texts"] += 1
            cells[row] = text
            continue
        else:
            counts["cells of neither"] += 1
        cells[row] = EmbeddedImage(f"{file}#{start + row}/{name}")
    return cells


def _has_bytes(kind: Any) -> bool:
    """Tell whether an Arrow type holds bytes within lists or structs."""
    import pyarrow as pa

    if kind.num_fields:
        return any(_has_bytes(kind.field(place).type) for place in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _as_texts(value: Any) -> Any:
    """Return a nested cell with the bytes in it as texts, where they are; images stay bytes."""
    match value:
        case bytes():
            text = None if _IMAGE.match(value) else _text(value)
            return value if text is None else text
        case list():
            return [_as_texts(one) for one in value]
        case dict():
            return {name: _as_texts(one) for name, one in value.items()}
    return value


def _text(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
