"""Rows of a source as Parquet parts: each with its items spelled out, or with the reason it is rejected for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unime.core import console
from unime.core.provenance import Output
from unime.data import tables
from unime.data.image_check import ImageChecker
from unime.data.images import Checked, ImageError
from unime.data.items import ID_BYTES, Item, Pair, content_id_from_hash
from unime.data.readers import ReadRow, ResolvedSource, read
from unime.data.rejected import account

ROWS_PER_PART = 4096

PART_ITEM = pa.struct(
    [
        pa.field("content_id", pa.binary(ID_BYTES), nullable=False),
        pa.field("picture", pa.binary(ID_BYTES)),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("image", pa.large_string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
    ]
)
PART = pa.schema(
    [
        pa.field("file", pa.large_string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("within_row", pa.int32(), nullable=False),
        pa.field("reason", pa.large_string()),
        pa.field("task", pa.large_string()),
        pa.field("query_instruction", pa.large_string()),
        pa.field("target_instruction", pa.large_string()),
        pa.field("positives", pa.int32(), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("items", pa.list_(PART_ITEM), nullable=False),
    ]
)


def write_parts(
    job: ResolvedSource, number: int, checker: ImageChecker, out: Output
) -> Iterator[Path]:
    """Read a source part by part; parts that a run before this one wrote are kept.

    Raises:
        DataError: when a row is lost on the way.
    """
    found = console.progress(read(job), label=f"data: {job.task}", unit="rows")
    paths: list[Path] = []
    rows = 0
    while chunk := list(islice(found, ROWS_PER_PART)):
        path = out.file("parts") / f"{number:04}-{len(paths):06}.parquet"
        if not path.exists():
            tables.write_table(path, _part(chunk, checker))
        yield path
        paths.append(path)
        rows += len(chunk)
    kept, rejected = count_rows(paths)
    lost = rejected.total()
    console.log(account(f"data: {job.task}", rows, kept - lost, lost))
    job.instructions.report()


def _part(chunk: Sequence[ReadRow], checker: ImageChecker) -> pa.Table:
    locations = [
        item.image
        for row in chunk
        for pair in row.pairs
        for item in _items(pair)
        if item.image is not None
    ]
    images = checker.check(locations)
    values = [value for row in chunk for value in _part_rows(row, images)]
    return pa.Table.from_pylist(values, schema=PART)


def _part_rows(row: ReadRow, images: dict[str, Checked | ImageError]) -> list[dict[str, Any]]:
    """Return one part row for each pair of a row, or one with the reason it is rejected for."""
    place = {"file": console.printable(row.file), "row": row.number, "within_row": 0}
    reason = str(row.error) if row.error else _image_problem(row.pairs, images)
    if reason is not None:
        return [
            {
                **place,
                "reason": console.printable(reason),
                "positives": 0,
                "scores": [],
                "items": [],
            }
        ]
    return [
        {**place, "within_row": i, **_part_pair(pair, images)} for i, pair in enumerate(row.pairs)
    ]


def _image_problem(pairs: Sequence[Pair], images: dict[str, Checked | ImageError]) -> str | None:
    for pair in pairs:
        for place, item in enumerate(_items(pair)):
            problem = images.get(item.image or "")
            if isinstance(problem, ImageError):
                return f"{problem.kind}: {_role(place, pair)}: {problem.detail}"
    return None


def _role(place: int, pair: Pair) -> str:
    if place == 0:
        return "query"
    if place <= len(pair.positives):
        return f"positive {place - 1}"
    return f"negative {place - 1 - len(pair.positives)}"


def _part_pair(pair: Pair, images: dict[str, Checked | ImageError]) -> dict[str, Any]:
    query, *others = [_part_item(item, images) for item in _items(pair)]
    # A caption given twice is one positive.
    positives = {item["content_id"]: item for item in reversed(others[: len(pair.positives)])}
    kept = list(reversed(positives.values()))
    return {
        "task": pair.task,
        "query_instruction": pair.query_instruction,
        "target_instruction": pair.target_instruction,
        "positives": len(kept),
        "scores": list(pair.scores),
        "items": [query, *kept, *others[len(pair.positives) :]],
    }


def _part_item(item: Item, images: dict[str, Checked | ImageError]) -> dict[str, Any]:
    if item.image is None:
        return {"content_id": content_id_from_hash(item.text, None), "text": item.text}
    known = images[item.image]
    assert isinstance(known, Checked), known
    return {
        "content_id": content_id_from_hash(item.text, known.hash),
        "picture": known.hash,
        "text": item.text,
        "image": item.image,
        "width": known.width,
        "height": known.height,
    }


def _items(pair: Pair) -> tuple[Item, ...]:
    return (pair.query, *pair.positives, *pair.negatives)


def count_rows(parts: Sequence[Path]) -> tuple[int, Counter[str]]:
    """Return the number of rows read, and of rejected rows by kind of reason."""
    rows, rejected = 0, Counter[str]()
    for part in parts:
        table = pq.ParquetFile(part).read(columns=["within_row", "reason"])
        rows += int((table["within_row"].to_numpy() == 0).sum())
        reasons = table["reason"].drop_null().to_pylist()
        rejected.update(reason.split(":")[0] for reason in reasons)
    return rows, rejected


def rejected_rows(parts: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield {file, row, reason} of each rejected row, in reading order."""
    for part in parts:
        table = pq.ParquetFile(part).read(columns=["file", "row", "reason"])
        yield from table.filter(table["reason"].is_valid()).to_pylist()
