"""The output of `unime data`, opened for reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unime.core import files
from unime.core.errors import DataError
from unime.data.items import ID_BYTES, Item
from unime.data.table_checks import check_pairs
from unime.data.tables import PAIRS, read_table

if TYPE_CHECKING:
    from PIL import Image


class Task(NamedTuple):
    """What is known of one task of a data folder."""

    name: str
    in_batch: bool
    """Whether other queries' positives may serve as negatives."""
    meta_task: str
    pairs: int


class PairRow(NamedTuple):
    """One row of the pair table; items are row numbers of the item table."""

    task: str
    query_instruction: str
    target_instruction: str
    query: int
    positives: list[int]
    negatives: list[int]
    scores: list[float]
    split: str


@dataclass(frozen=True)
class DataFolder:
    """The output of `unime data`, opened for reading."""

    path: Path

    @classmethod
    def open(cls, folder: Path | str) -> DataFolder:
        """Open a finished data folder.

        Raises:
            DataError: when `unime data` has not finished there.
        """
        path = Path(folder)
        if not (path / "manifest.json").is_file():
            raise DataError(f"{path} is no finished data folder; run `unime data` for it first")
        return cls(path)

    def __reduce__(self) -> tuple[Any, ...]:
        """Send the path to another process, which maps the tables itself, not a copy of them."""
        return DataFolder, (self.path,)

    @cached_property
    def items(self) -> Items:
        """The distinct contents."""
        return Items(read_table(self.path / "items.parquet"))

    @cached_property
    def pairs(self) -> pa.Table:
        """The pair table (schema PAIRS).

        Raises:
            DataError: when a row number or a score in it is out of range.
        """
        path, items = self.path / "pairs.parquet", self.path / "items.parquet"
        table = read_table(path, PAIRS.names)
        check_pairs(path, table, len(self.items) if items.is_file() else None)
        return table

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The tasks by name, in the order of the recipe's sources."""
        values = files.read_json(self.path / "tasks.json")
        return {value["name"]: Task(**value) for value in values}

    @cached_property
    def root(self) -> Path:
        """The folder that image locations are relative to."""
        return Path(files.read_json(self.path / "manifest.json")["facts"]["root"])

    def __fspath__(self) -> str:
        """Return the path, so that the data can be given for its folder anywhere."""
        return str(self.path)

    def __str__(self) -> str:
        """Return the folder with its counts."""
        splits = self.pairs["split"].value_counts().to_pylist()
        counts = ", ".join(f"{split['counts']} {split['values']}" for split in splits)
        return (
            f"DataFolder({str(self.path)!r}: {self.pairs.num_rows} pairs ({counts}) of "
            f"{len(self.items)} items, tasks {', '.join(self.tasks)})"
        )

    def to_arrow(self) -> pa.Table:
        """Return the pair table; items are row numbers of `items`."""
        return self.pairs

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each pair with its contents, as `content` gives them."""
        for number in range(self.pairs.num_rows):
            pair = self.pair(number)
            sides = {
                "query": self.content(pair.query),
                "positives": [self.content(item) for item in pair.positives],
                "negatives": [self.content(item) for item in pair.negatives],
            }
            yield {**pair._asdict(), **sides}

    def content(self, item: int) -> dict[str, str | None]:
        """Return an item's text and where its image is: a path, in a table with `#row` behind it."""
        found = self.items.item(item)
        image = None if found.image is None else str(self.root / found.image)
        return {"text": found.text, "image": image}

    def split(self, name: str) -> np.ndarray:
        """Return the pair rows of a split ("train" or "dev") as int32."""
        is_of_split = pc.call_function("equal", [self.pairs["split"], name])
        return np.flatnonzero(is_of_split.to_numpy()).astype(np.int32)

    @cached_property
    def _pair_columns(self) -> dict[str, pa.Array]:
        # Arrow's own memory: as Python objects ten million pairs would take tens of GB.
        return {name: self.pairs[name].combine_chunks() for name in self.pairs.column_names}

    def pair(self, row: int) -> PairRow:
        """Return one pair by its row number."""
        return PairRow(**{n: values[row].as_py() for n, values in self._pair_columns.items()})

    def load_image(self, item: int) -> Image.Image | None:
        """Return an item's image as RGB, or None if it has none."""
        from unime.data.images import decode

        data = self.image_bytes(item)
        return None if data is None else decode(data, str(self.items.item(item).image))

    def image_bytes(self, item: int) -> bytes | None:
        """Return the file of an item's image, or None if it has none.

        Raises:
            ImageError: when it cannot be read, or was changed since `unime data`.
        """
        from unime.data.images import read_known

        found = self.items.item(item)
        if found.image is None:
            return None
        return read_known(self.root, found.image, found.text, self.items.content_id(item))


class Items:
    """The item table: row number -> content."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        # Tables of older versions hold narrow strings, of which one chunk ends at 2 GB.
        self._text = table["text"].cast(pa.large_string()).combine_chunks()
        self._image = table["image"].cast(pa.large_string()).combine_chunks()

    def __len__(self) -> int:
        """Return the number of distinct contents."""
        return self.table.num_rows

    def item(self, row: int) -> Item:
        """Return an item by its row number."""
        return Item.of(self._text[row].as_py(), self._image[row].as_py())

    def content_id(self, row: int) -> bytes:
        """Return an item's 16-byte content id."""
        return self.content_ids[row].tobytes()

    @cached_property
    def content_ids(self) -> np.ndarray:
        """All content ids, uint8 `(items, 16)`."""
        column = self.table["content_id"].combine_chunks()
        start = column.offset * ID_BYTES
        data = np.frombuffer(column.buffers()[1], dtype=np.uint8)
        return data[start : start + len(column) * ID_BYTES].reshape(-1, ID_BYTES)

    def sizes(self, rows: Sequence[int]) -> np.ndarray:
        """Return pixel counts of items (0 without image), int64."""
        pixels = np.nan_to_num(
            self.table["width"].to_numpy().astype(float) * self.table["height"].to_numpy()
        )
        return pixels[np.asarray(rows, dtype=np.int64)].astype(np.int64)
