"""The tables on disk: normalised Parquet, one row a query, int32 row numbers between them.

Texts are large strings: 64-bit offsets, for a column of more than 2 GB. Tables of older versions hold
narrow ones, and are read as well.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from unime.core import files
from unime.core.errors import DataError
from unime.data.items import ID_BYTES

# Parquet gives dictionaries back with narrow values; they hold distinct names, so few.
NAME = pa.dictionary(pa.int32(), pa.string())
ROWS_OF_ITEMS = pa.list_(pa.int32())

ITEMS = pa.schema(
    [
        pa.field("content_id", pa.binary(ID_BYTES), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("image", pa.large_string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
    ]
)
PAIRS = pa.schema(
    [
        pa.field("task", NAME, nullable=False),
        pa.field("query_instruction", NAME, nullable=False),
        pa.field("target_instruction", NAME, nullable=False),
        pa.field("query", pa.int32(), nullable=False),
        pa.field("positives", ROWS_OF_ITEMS, nullable=False),
        pa.field("negatives", ROWS_OF_ITEMS, nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("split", NAME, nullable=False),
    ]
)
MINED = pa.schema(
    [
        pa.field("pair", pa.int32(), nullable=False),
        pa.field("candidates", ROWS_OF_ITEMS, nullable=False),
        pa.field("similarities", pa.list_(pa.float16()), nullable=False),
        pa.field("positive_similarity", pa.float16(), nullable=False),
        pa.field("positive_rank", pa.int32(), nullable=False),
    ]
)
JUDGED = pa.schema(
    [
        pa.field("pair", pa.int32(), nullable=False),
        pa.field("positive_score", pa.float32(), nullable=False),
        pa.field("scores", pa.list_(pa.float16()), nullable=False),
    ]
)
ROWS = pa.schema(
    [
        pa.field("pair", pa.int32(), nullable=False),
        pa.field("negatives", ROWS_OF_ITEMS, nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
    ]
)


def write_table(path: Path | str, table: pa.Table) -> None:
    """Write a Parquet file atomically; equal tables give equal bytes."""
    with files.atomic_path(path) as temporary:
        pq.write_table(
            table, temporary, compression="zstd", row_group_size=65536, write_page_checksum=True
        )


def read_table(path: Path | str, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, memory-mapped.

    Raises:
        DataError: when it is missing, damaged, or lacks one of the columns.
    """
    try:
        known = pq.read_schema(path).names if columns else []
        for name in columns or ():
            if name not in known:
                raise DataError(f"{path} has no column '{name}'; it has {', '.join(known)}")
        return pq.read_table(
            path, columns=columns, memory_map=True, page_checksum_verification=True
        )
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run the stage that writes it first") from None
    # pyarrow says damaged pages as OSError, and a damaged schema in other ways.
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from None


def list_matrix(column: pa.ChunkedArray) -> np.ndarray:
    """Return a list column whose lists have one length as an array `(rows, length)`."""
    rows = len(column)
    lists = column.combine_chunks()
    # A missing list has the length NaN, which equals nothing.
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    if (lengths != lengths[:1]).any():
        raise DataError(f"lists of differing lengths: {sorted(set(lengths.tolist()))[:5]}")
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(rows, -1) if rows else flat.reshape(0, 0)


def cyclic_order(count: int, step: int) -> Int[np.ndarray, " count"]:
    """Return the numbers below `count` as 0, step, 2 step, ..., then 1, 1 + step, ..."""
    numbers = np.arange(count)
    return numbers[np.lexsort((numbers, numbers % step))]
