"""Readers: one file and one line of READERS each.

A reader has `records` (the rows of its files) and `pairs` (a row's pairs, or RowError).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from unime.core import console
from unime.core.errors import lookup
from unime.data.items import Pair
from unime.data.readers import (
    flagembedding,
    folder,
    formats,
    mmeb,
    pair_columns,
    sentence_transformers,
    unime_v2,
)
from unime.data.readers.base import DataSource, ReadRow, Record, ResolvedSource, RowError
from unime.data.readers.mmeb import EvalQuery, read_eval

__all__ = [
    "READERS",
    "DataSource",
    "EvalQuery",
    "ReadRow",
    "ResolvedSource",
    "RowError",
    "read",
    "read_eval",
]


class Reader(NamedTuple):
    """How one format is read."""

    records: Callable[[ResolvedSource], Iterator[Record]]
    pairs: Callable[[dict[str, Any], ResolvedSource], list[Pair]]
    columns: frozenset[str] | None = None
    """Those that it knows, where they are fixed; others are named once."""


READERS: dict[str, Reader] = {
    "flagembedding": Reader(formats.records, flagembedding.pairs, flagembedding.COLUMNS),
    "folder": Reader(folder.records, folder.pairs),
    "mmeb_eval": Reader(
        formats.records,
        mmeb.eval_pairs,
        frozenset((*mmeb.EVAL_COLUMNS, *mmeb.MORE_EVAL_COLUMNS)),
    ),
    "mmeb_train": Reader(
        formats.records,
        mmeb.train_pairs,
        frozenset((*mmeb.TRAIN_COLUMNS, *mmeb.MORE_TRAIN_COLUMNS)),
    ),
    "sentence_transformers": Reader(pair_columns.records, sentence_transformers.pairs),
    "unime_v2": Reader(
        formats.records, unime_v2.pairs, frozenset((*unime_v2.COLUMNS, *unime_v2.MORE_COLUMNS))
    ),
}


def read(job: ResolvedSource) -> Iterator[ReadRow]:
    """Yield every row of a source: its pairs, or why it cannot be used. Never stops at a bad row.

    Raises:
        RecipeError: for an unknown reader.
        DataError: when a file as a whole cannot be read.
    """
    reader = lookup(READERS, job.source.reader, "reader")
    unread: set[str] = set()
    for record in islice(reader.records(job), job.source.limit):
        if reader.columns is not None and not isinstance(record.values, RowError):
            new = record.values.keys() - reader.columns - unread
            if new:
                unread |= new
                names = ", ".join(map(repr, sorted(new)))
                console.log(f"{record.file}: {job.source.reader} does not read the columns {names}")
        yield _row(record, reader, job)


def _row(record: Record, reader: Reader, job: ResolvedSource) -> ReadRow:
    file, number, values = record
    if isinstance(values, RowError):
        return ReadRow(file, number, (), values)
    try:
        return ReadRow(file, number, tuple(reader.pairs(values, job)), None)
    except RowError as error:
        return ReadRow(file, number, (), error)
