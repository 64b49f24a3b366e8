"""What the tables between the stages may hold, checked where they are read, column by column.

Row numbers lie within the table they point into, similarities are cosines, scores are probabilities
or NaN (unscored). A stage that went on with anything else would be silently wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from unime.core.errors import DataError
from unime.data.tables import PAIRS

COSINE = 1.01
"""Rounded to half precision, a similarity of unit vectors may lie a little beyond 1."""
NO_ROW = -1
"""Stands for an absent negative."""


class Range(NamedTuple):
    """What a column of numbers, or of lists of numbers, may hold."""

    low: float
    high: float = np.inf
    """Infinity is no value of any column: a bound is meant."""
    unknown: bool = False
    """Whether NaN may stand for what is not known."""


SCORE = Range(0.0, 1.0, unknown=True)
RANGES = {
    "pair": Range(0),
    "candidates": Range(0),
    "similarities": Range(-COSINE, COSINE),
    "positive_similarity": Range(-COSINE, COSINE),
    "positive_rank": Range(1),
    "positive_score": SCORE,
    "scores": SCORE,
    "negatives": Range(NO_ROW),
    "query": Range(0),
    "positives": Range(0),
}


def check_pairs(path: Path, table: pa.Table, items: int | None) -> None:
    """Check the pair table of a data folder.

    Args:
        path: where it was read.
        table: its rows.
        items: how many rows the item table has, where there is one.

    Raises:
        DataError: naming file, row and value.
    """
    check_columns(path, table, PAIRS)
    for name in ("query", "positives", "negatives"):
        check_numbers(path, name, table[name], Range(0, np.inf if items is None else items - 1))
    check_numbers(path, "scores", table["scores"], SCORE)
    if empty := np.flatnonzero(_lengths(table, "positives") == 0).tolist():
        raise DataError(f"{path}, row {empty[0]}: no positive")
    lengths, given = _lengths(table, "negatives"), _lengths(table, "scores")
    _all(path, (given == 0) | (given == 1 + lengths), "scores do not fit its negatives")


def check_numbers(path: Path, name: str, column: pa.ChunkedArray, allowed: Range) -> None:
    """Check a column of numbers, or of lists of numbers.

    Raises:
        DataError: naming file, row and value of the first that is out of range.
    """
    start = 0
    for chunk in column.chunks:
        is_list = pa.types.is_list(chunk.type)
        values = (chunk.flatten() if is_list else chunk).to_numpy(zero_copy_only=False)
        # NaN is in no range, and infinity is above every one.
        fine = (values >= allowed.low) & (values <= min(allowed.high, np.finfo(np.float64).max))
        if allowed.unknown:
            fine |= np.isnan(values)
        if not fine.all():
            place = int(np.argmin(fine))
            offsets = chunk.offsets.to_numpy() if is_list else np.arange(len(chunk) + 1)
            row = start + int(np.searchsorted(offsets - offsets[0], place, side="right")) - 1
            raise DataError(
                f"{path}, row {row}: {name}: {values[place]}, expected {_said(allowed)}; the file "
                "was written by another version or changed since: run its stage again"
            )
        start += len(chunk)


def _said(allowed: Range) -> str:
    bounds = f"at least {allowed.low:g}"
    if np.isfinite(allowed.high):
        bounds = f"{allowed.low:g} to {allowed.high:g}"
    return bounds + (", or NaN for unscored" if allowed.unknown else "")


def check_columns(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    """Check the kinds of a table's columns, and that no value is missing.

    Raises:
        DataError: naming file and column.
    """
    for field in schema:
        found = table.schema.field(field.name).type
        if _kind(found) != _kind(field.type):
            raise DataError(f"{path}, column {field.name}: holds {found}, expected {field.type}")
        for chunk in table[field.name].chunks:
            inner = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
            if chunk.null_count or inner.null_count:
                raise DataError(f"{path}, column {field.name}: a value is missing")


def _kind(kind: pa.DataType) -> tuple[bool, str]:
    """Tell lists from single values and numbers from texts; widths of both may differ."""
    is_list = pa.types.is_list(kind)
    inner = kind.value_type if is_list or pa.types.is_dictionary(kind) else kind  # type: ignore[attr-defined]
    names: Sequence[tuple[str, bool]] = (
        ("integer", pa.types.is_integer(inner)),
        ("float", pa.types.is_floating(inner)),
        ("text", pa.types.is_string(inner) or pa.types.is_large_string(inner)),
    )
    return is_list, next((name for name, holds in names if holds), str(inner))


def check_same_lengths(path: Path, table: pa.Table, one: str, other: str, more: int) -> None:
    """Check that each list of one column has `more` values more in the other.

    Raises:
        DataError: naming file and row.
    """
    fine = _lengths(table, one) + more == _lengths(table, other)
    _all(path, fine, f"{other} do not fit its {one}")


def _all(path: Path, fine: np.ndarray, what: str) -> None:
    if not fine.all():
        raise DataError(f"{path}, row {int(np.argmin(fine))}: its {what}")


def _lengths(table: pa.Table, name: str) -> np.ndarray:
    return table[name].combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
