"""What mine, the judge and select wrote of a data folder, read and checked."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from unime.core.errors import DataError
from unime.data.data_folder import DataFolder
from unime.data.table_checks import RANGES, check_columns, check_numbers, check_same_lengths
from unime.data.tables import JUDGED, MINED, ROWS, read_table


def read_mined(folder: Path, data: DataFolder | None = None) -> pa.Table:
    """Read what `unime mine` wrote.

    Args:
        folder: its output.
        data: what it was mined from, where that is known; then only pairs and candidates are read.

    Raises:
        DataError: naming file, row and value.
    """
    path = folder / "mined.parquet"
    if data is not None:
        return _checked(path, pa.schema([MINED.field("pair"), MINED.field("candidates")]), data)
    table = _checked(path, MINED)
    check_same_lengths(path, table, "candidates", "similarities", 0)
    return table


def read_judged(folder: Path) -> pa.Table:
    """Read what the judge wrote; errors as `read_mined`."""
    return _checked(folder / "judged.parquet", JUDGED)


def read_rows(folder: Path, data: DataFolder) -> pa.Table:
    """Read what `unime select` wrote of a data folder; errors as `read_mined`."""
    path = folder / "rows.parquet"
    table = _checked(path, ROWS, data)
    check_same_lengths(path, table, "negatives", "scores", 1)
    return table


def _checked(path: Path, schema: pa.Schema, data: DataFolder | None = None) -> pa.Table:
    table = read_table(path, schema.names)
    check_columns(path, table, schema)
    for field in schema:
        check_numbers(path, field.name, table[field.name], RANGES[field.name])
    if data is not None:
        for name, rows in (("pair", data.pairs.num_rows), (schema.names[1], len(data.items))):
            largest = max((_largest(chunk) for chunk in table[name].chunks), default=-1)
            if largest >= rows:
                raise DataError(
                    f"{path} names {name} {largest}, there are {rows}: it was selected or mined "
                    f"from other data than {data.path}"
                )
    return table


def _largest(chunk: pa.Array) -> int:
    values = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
    return int(values.to_numpy(zero_copy_only=False).max(initial=-1))
