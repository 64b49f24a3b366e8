"""Small data folders for the readers' tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from unime.data.readers import ReadRow, read
from unime.data.stage import DataRecipe, open_sources


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def json_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def rows_of(root: Path, **source: Any) -> list[ReadRow]:
    """Read one source below `root`."""
    recipe = DataRecipe.model_validate({"output": "none", "root": str(root), "sources": [source]})
    return [row for job in open_sources(recipe) for row in read(job)]
