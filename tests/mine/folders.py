"""Small data, mined and judged folders, written as the stages write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from unime.core.files import write_json
from unime.data.data_folder import DataFolder
from unime.data.items import content_id
from unime.data.tables import ITEMS, MINED, PAIRS, write_table


def write_data(
    folder: Path, texts: Sequence[str], pairs: Sequence[dict], images: Sequence[str | None] = ()
) -> DataFolder:
    """Write items (`texts`, image locations under `folder/images`) and pairs (PAIRS' columns)."""
    root = folder / "images"
    images = list(images) or [None] * len(texts)
    ids, sizes = [], []
    for text, location in zip(texts, images, strict=True):
        data = None if location is None else (root / location).read_bytes()
        ids.append(content_id(text, data))
        sizes.append((None, None) if location is None else Image.open(root / location).size)
    items = {
        "content_id": pa.array(ids, pa.binary(16)),
        "text": list(texts),
        "image": pa.array(images, pa.large_string()),
        "width": pa.array([width for width, _ in sizes], pa.int32()),
        "height": pa.array([height for _, height in sizes], pa.int32()),
    }
    defaults = {
        "task": "task",
        "query_instruction": "find it",
        "target_instruction": "",
        "negatives": [],
        "scores": [],
        "split": "train",
    }
    rows = [{**defaults, **pair} for pair in pairs]
    write_table(folder / "items.parquet", pa.table(items).cast(ITEMS))
    write_table(folder / "pairs.parquet", pa.Table.from_pylist(rows, schema=PAIRS))
    names = list(dict.fromkeys(row["task"] for row in rows))
    tasks = [
        {
            "name": name,
            "in_batch": True,
            "meta_task": "retrieval",
            "pairs": sum(row["task"] == name for row in rows),
        }
        for name in names
    ]
    write_json(folder / "tasks.json", tasks)
    write_json(folder / "manifest.json", {"facts": {"root": str(root)}})
    return DataFolder.open(folder)


def write_mined(folder: Path, candidates: Sequence[Sequence[int]]) -> pa.Table:
    """Write a mined table whose row i belongs to pair i; similarities fall from 0.9."""
    rows = [
        {
            "pair": pair,
            "candidates": list(items),
            "similarities": [np.float16(0.9 - 0.01 * place) for place in range(len(items))],
            "positive_similarity": np.float16(0.8),
            "positive_rank": 1,
        }
        for pair, items in enumerate(candidates)
    ]
    table = pa.Table.from_pylist(rows, schema=MINED)
    write_table(folder / "mined.parquet", table)
    write_json(folder / "manifest.json", {"facts": {}})
    return table
