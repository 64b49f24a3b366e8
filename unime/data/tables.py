"""The tables on disk: normalised Parquet, one row a query, int32 row numbers between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unime.core import files
from unime.core.errors import DataError
from unime.data.items import ID_BYTES, Item

if TYPE_CHECKING:
    from PIL import Image

NAME = pa.dictionary(pa.int32(), pa.string())
ROWS_OF_ITEMS = pa.list_(pa.int32())

ITEMS = pa.schema(
    [
        pa.field("content_id", pa.binary(ID_BYTES), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("image", pa.string()),
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
        from unime.data.table_checks import check_pairs

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
        self._text = table["text"].combine_chunks()
        self._image = table["image"].combine_chunks()

    def __len__(self) -> int:
        """Return the number of distinct contents."""
        return self.table.num_rows

    def item(self, row: int) -> Item:
        """Return an item by its row number."""
        return Item(self._text[row].as_py(), self._image[row].as_py())

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
