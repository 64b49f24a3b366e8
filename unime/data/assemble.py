"""Put the parts of `unime data` together: number the contents, split, write the tables.

A part holds some thousand rows, each with its items spelled out. Texts and locations are only
ever in memory one part at a time; for the whole there are numbers: 16 bytes and some integers an
item slot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unime.core import files
from unime.data import tables
from unime.data.dev_split import NEGATIVE, NONE, POSITIVE, QUERY, Slots, foreign_negatives
from unime.data.items import ID_BYTES

ROWS_PER_GROUP = 65536


class Contents(NamedTuple):
    """What is known of all parts together, as numbers."""

    slots: Slots
    tasks: np.ndarray
    """int64 `(pairs,)`: task numbers."""
    names: list[str]
    """Task names, in the order they first appear."""
    first_slots: np.ndarray
    """int64 `(items,)`: the slot where each item appears first; items are numbered by it."""
    query_ids: np.ndarray
    """uint8 `(pairs, 16)`."""
    sources: list[int]
    """For each task, the number of the source it first appears in."""


def read_contents(parts: Sequence[Path], source_of: Callable[[Path], int]) -> Contents:
    """Number items, images and tasks over all parts."""
    ids, pictures, has_picture, lengths, positives, tasks = [], [], [], [], [], []
    numbers: dict[str, int] = {}
    sources: list[int] = []
    for part in parts:
        table = _pairs_of(part, ["reason", "task", "positives", "items.list.element.content_id",
                                 "items.list.element.picture"])  # fmt: skip
        for task in table["task"].unique().to_pylist():
            if task not in numbers:
                numbers[task] = len(numbers)
                sources.append(source_of(part))
        tasks.append(np.array([numbers[task] for task in table["task"].to_pylist()], np.int64))
        positives.append(table["positives"].to_numpy().astype(np.int64))
        column = table["items"].combine_chunks()
        lengths.append(column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64))
        items = column.flatten()
        ids.append(_id_bytes(items.field("content_id")))
        picture = items.field("picture")
        has_picture.append(picture.is_valid().to_numpy(zero_copy_only=False))
        pictures.append(_id_bytes(picture.drop_null()))
    all_ids = np.concatenate(ids)
    item, first_slots = number_by_first(all_ids)
    pair, role = _roles(np.concatenate(lengths), np.concatenate(positives))
    picture = np.full(len(all_ids), NONE, dtype=np.int64)
    picture[np.concatenate(has_picture)] = number_by_first(np.concatenate(pictures))[0]
    slots = Slots(pair, item.astype(np.int32), picture, role)
    return Contents(
        slots, np.concatenate(tasks), list(numbers), first_slots, all_ids[role == QUERY], sources
    )


def write_items(parts: Sequence[Path], contents: Contents, path: Path) -> None:
    """Write the item table: each content as it appears first."""

    def batches() -> Iterator[pa.Table]:
        start = 0
        for part in parts:
            items = _pairs_of(part, ["reason", "items"])["items"].combine_chunks().flatten()
            low, high = np.searchsorted(contents.first_slots, [start, start + len(items)])
            here = items.take(pa.array(contents.first_slots[low:high] - start))
            # Parts of a run that an older version began hold texts of the narrow type.
            columns = [here.field(field.name).cast(field.type) for field in tables.ITEMS]
            yield pa.Table.from_arrays(columns, schema=tables.ITEMS)
            start += len(items)

    _write(path, tables.ITEMS, batches())


def write_pairs(parts: Sequence[Path], contents: Contents, dev: np.ndarray, path: Path) -> int:
    """Write the pair table; return how many negatives were taken out because they leak."""
    slots = contents.slots
    foreign = foreign_negatives(slots, dev)
    starts = np.searchsorted(slots.pair, np.arange(len(dev) + 1))

    def batches() -> Iterator[pa.Table]:
        pair = 0
        for part in parts:
            table = _pairs_of(
                part, ["reason", "task", "query_instruction", "target_instruction", "scores"]
            )
            last = pair + table.num_rows
            span = slice(starts[pair], starts[last])
            yield _pair_table(
                table, Slots(*(a[span] for a in slots)), foreign[span], dev[pair:last], pair
            )
            pair = last

    _write(path, tables.PAIRS, batches())
    return int(foreign.sum())


def number_by_first(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number distinct ids in the order of their first appearance.

    Args:
        ids: uint8 `(n, 16)`.

    Returns:
        the number of each, int64 `(n,)`, and where each number appears first, int64 `(distinct,)`.
    """
    words = np.ascontiguousarray(ids).view("<u8").reshape(-1, 2)
    order = np.lexsort((words[:, 1], words[:, 0]))
    ordered = words[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    # lexsort is stable, so the first of each run is the earliest.
    firsts = order[new]
    by_place = np.argsort(firsts)
    number = np.empty(len(firsts), dtype=np.int64)
    number[by_place] = np.arange(len(firsts))
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = number[np.cumsum(new) - 1]
    return numbers, firsts[by_place]


def _pairs_of(part: Path, columns: list[str]) -> pa.Table:
    """Return the rows of a part that were not rejected."""
    table = pq.ParquetFile(part).read(columns=columns)
    return table.filter(table["reason"].is_null())


def _id_bytes(column: Any) -> np.ndarray:
    start = column.offset * ID_BYTES
    data = np.frombuffer(column.buffers()[1] or b"", dtype=np.uint8)
    return data[start : start + len(column) * ID_BYTES].reshape(-1, ID_BYTES)


def _roles(lengths: np.ndarray, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pair and the role of each slot."""
    pair = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(pair)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    role = np.where(place == 0, QUERY, np.where(place <= positives[pair], POSITIVE, NEGATIVE))
    return pair, role.astype(np.uint8)


def _pair_table(
    table: pa.Table, slots: Slots, foreign: np.ndarray, dev: np.ndarray, first_pair: int
) -> pa.Table:
    pairs = len(dev)
    pair = slots.pair - first_pair
    kept = (slots.role == NEGATIVE) & ~foreign
    columns = {
        "query": pa.array(slots.item[slots.role == QUERY]),
        "positives": _lists(slots.item, pair, slots.role == POSITIVE, pairs),
        "negatives": _lists(slots.item, pair, kept, pairs),
        "scores": _scores(table["scores"].combine_chunks(), pair, slots.role, foreign),
        "split": pa.array(np.where(dev, "dev", "train")),
    }
    for name in ("task", "query_instruction", "target_instruction"):
        columns[name] = table[name].combine_chunks()
    columns = {n: _as(columns[n], tables.PAIRS.field(n).type) for n in tables.PAIRS.names}
    return pa.table(columns, schema=tables.PAIRS)


def _as(column: Any, kind: pa.DataType) -> Any:
    if not pa.types.is_dictionary(kind):
        return column.cast(kind)
    return column.cast(kind.value_type).dictionary_encode()


def _lists(values: np.ndarray, pair: np.ndarray, chosen: np.ndarray, pairs: int) -> Any:
    counts = np.bincount(pair[chosen], minlength=pairs)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[chosen]))


def _scores(scores: Any, pair: np.ndarray, role: np.ndarray, foreign: np.ndarray) -> Any:
    """Drop the scores of negatives that were taken out; pairs without scores have none."""
    lengths = scores.value_lengths().to_numpy(zero_copy_only=False)
    scored = (role == NEGATIVE) & (lengths[pair] > 0)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    keep = np.ones(len(owner), dtype=bool)
    # Both run over negatives pair by pair, in the same order.
    keep[place > 0] = ~foreign[scored]
    return _lists(scores.flatten().to_numpy(zero_copy_only=False), owner, keep, len(lengths))


def _write(path: Path, schema: pa.Schema, batches: Iterator[pa.Table]) -> None:
    """Write a table piece by piece; equal rows give equal bytes, however they come in pieces."""
    with files.atomic_path(path) as temporary:
        writer = pq.ParquetWriter(temporary, schema, compression="zstd")
        waiting: list[pa.Table] = []
        for batch in batches:
            waiting.append(batch)
            while sum(table.num_rows for table in waiting) >= ROWS_PER_GROUP:
                table = pa.concat_tables(waiting)
                writer.write_table(_whole(table.slice(0, ROWS_PER_GROUP)))
                waiting = [table.slice(ROWS_PER_GROUP)]
        writer.write_table(_whole(pa.concat_tables(waiting)))
        writer.close()


def _whole(table: pa.Table) -> pa.Table:
    """Bring chunks and their dictionaries together, so that pieces leave no trace in the file."""
    return table.unify_dictionaries().combine_chunks()
