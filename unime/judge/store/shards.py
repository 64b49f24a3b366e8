"""Immutable Parquet shards on any fsspec path, named by their content.

A name is the hash of the file's bytes, and what is read is compared with it first.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unime.core import console, files
from unime.core.errors import DataError
from unime.data.items import ID_BYTES
from unime.data.tables import NAME
from unime.judge.store.shard_checks import are_judgements, hash_stream
from unime.judge.store.sorted_rows import Rows, split_keys

SHARD = pa.schema(
    [
        pa.field("key", pa.binary(ID_BYTES), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("reason", NAME),
        pa.field("judge", NAME, nullable=False),
    ]
)
ROW_GROUP = 1 << 20
IN_MEMORY = 1 << 28
"""A remote shard of more bytes is copied to a temporary file while it is hashed."""


class Shards:
    """The shards below one path."""

    def __init__(self, path: str) -> None:
        import fsspec

        self.path = path
        try:
            self._fs, root = fsspec.core.url_to_fs(path)
        except (ImportError, ValueError) as error:
            raise DataError(f"the store's path {path} cannot be used: {error}") from None
        self._root = str(root).rstrip("/")
        # Local files go through `unime.core.files`, like every durable change.
        self.is_local = "file" in np.atleast_1d(self._fs.protocol)

    def names(self) -> list[str]:
        """Return the names of all shards, sorted."""
        folder = f"{self._root}/shards"
        # Other writers add shards at any time: no listing may come from a cache.
        self._fs.invalidate_cache()
        if not self._fs.exists(folder):
            return []
        found = (str(path).rsplit("/", 1)[-1] for path in self._fs.ls(folder, detail=False))
        return sorted(n for n in found if n.endswith(".parquet") and not n.startswith("."))

    def write(self, table: pa.Table) -> str:
        """Write a shard (schema SHARD) and return its name; an equal one is written once."""
        buffer = io.BytesIO()
        # Random keys don't compress.
        repeated: Any = ["reason", "judge"]
        packed: Any = dict.fromkeys(("score", *repeated), "zstd") | {"key": "none"}
        pq.write_table(
            table,
            buffer,
            compression=packed,
            use_dictionary=repeated,
            row_group_size=ROW_GROUP,
        )
        data = buffer.getvalue()
        hasher = _hasher()
        hasher.update(data)
        name = f"{hasher.hexdigest()}.parquet"
        self._put(f"shards/{name}", data)
        return name

    def read(self, name: str) -> pa.Table:
        """Return a shard as a table.

        Raises:
            FileNotFoundError: when another process has merged it away.
            DataError: when it is damaged.
        """
        with self._verified(name) as handle, self._parsing(name):
            table = pq.read_table(handle).cast(SHARD)
            rows_of(table)
            return table

    def read_rows(self, name: str) -> Iterator[Rows]:
        """Yield a shard's rows, a row group at a time (raises like `read`)."""
        with self._verified(name) as handle, self._parsing(name):
            file = pq.ParquetFile(handle)
            for group in range(file.num_row_groups):
                yield rows_of(file.read_row_group(group, ["key", "score", "reason"]))

    def remove(self, name: str) -> None:
        """Remove a shard whose rows are in others."""
        self._fs.rm_file(f"{self._root}/shards/{name}")

    def note_judge(self, digest: str, fingerprint: str) -> None:
        """Say once what a judge's hash stands for; a note that says something else is replaced."""
        name = f"judges/{digest}.json"
        note = json.dumps({"fingerprint": fingerprint}).encode()
        place = f"{self._root}/{name}"
        if self._fs.exists(place) and self._fs.cat_file(place) != note:
            console.log(f"store: {self.path}/{name} is damaged and is written again")
            self._fs.rm_file(place)
        self._put(name, note)

    @contextlib.contextmanager
    def _verified(self, name: str) -> Iterator[Any]:
        """Open a shard whose bytes are those that its name stands for."""
        with contextlib.ExitStack() as stack:
            handle = source = stack.enter_context(
                self._fs.open(f"{self._root}/shards/{name}", "rb")
            )
            copy = None
            if not self.is_local:
                # Fetched once, and never whole in memory.
                handle = stack.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY))
                copy = handle.write
            if hash_stream(source, _hasher(), copy) != name.removesuffix(".parquet"):
                raise self._damaged(name, "its bytes are not those that its name stands for")
            handle.seek(0)
            yield handle

    @contextlib.contextmanager
    def _parsing(self, name: str) -> Iterator[None]:
        """Say which shard it was that could not be read."""
        try:
            yield
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise self._damaged(name, error) from None

    def _damaged(self, name: str, why: object) -> DataError:
        return DataError(
            f"{self.path}/shards/{name} is damaged ({why}); move it aside, its pairs are scored again"
        )

    def _put(self, name: str, data: bytes) -> None:
        target = f"{self._root}/{name}"
        if self._fs.exists(target):
            return
        if self.is_local:
            with files.atomic_path(Path(target)) as temporary:
                temporary.write_bytes(data)
            return
        # Object stores make an object visible whole or not at all.
        self._fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        self._fs.pipe_file(target, data)


def table_of(rows: Rows, judges: pa.Array) -> pa.Table:
    """Return rows and their judges as a table (schema SHARD)."""
    keys = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(ID_BYTES), len(rows), [None, pa.py_buffer(rows.keys())]
    )
    codes = pa.array(rows.reason, mask=rows.reason < 0)
    reasons = pa.DictionaryArray.from_arrays(codes, pa.array(rows.reasons, NAME.value_type))
    return pa.Table.from_arrays([keys, pa.array(rows.value), reasons, judges], schema=SHARD)


def rows_of(table: pa.Table) -> Rows:
    """Return the rows of a table (schema SHARD, judges left out).

    Raises:
        ValueError: when a row is no judgement.
    """
    column = table["key"].combine_chunks()
    if column.type != SHARD.field("key").type or column.null_count:
        raise ValueError(f"its keys are no {ID_BYTES} bytes each")
    start = column.offset * ID_BYTES
    data = memoryview(column.buffers()[1])[start : start + len(column) * ID_BYTES]
    high, low = split_keys(data)
    reasons = table["reason"].combine_chunks()
    if isinstance(reasons, pa.ChunkedArray):
        reasons = reasons.chunk(0) if reasons.num_chunks else pa.array([], NAME)
    if not isinstance(reasons, pa.DictionaryArray):
        reasons = reasons.dictionary_encode()
    codes = reasons.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    values = table["score"].to_numpy().astype(np.float32)
    wrong = np.flatnonzero(~are_judgements(values, codes))
    if len(wrong):
        raise ValueError(
            f"it holds the score {values[wrong[0]]}; expected a probability from 0 to 1, or NaN "
            "with a reason"
        )
    return Rows(high, low, values, codes, tuple(reasons.dictionary.to_pylist()))


def _hasher() -> Any:
    return hashlib.blake2b(digest_size=10)
