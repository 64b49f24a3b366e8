"""The embedding cache on disk: blocks of embeddings by `encode_id`, one folder a model.

A block is one `.npz` file, written whole or not at all, so a killed run loses what it was just
encoding and nothing else. Several processes may write into one folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unime.core import files
from unime.data.items import ID_BYTES


class EmbeddingStore:
    """What is known of one model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, ids: Sequence[bytes], values: np.ndarray) -> None:
        """Write a block of embeddings, float32 `(ids, dim)`."""
        assert len(ids) == len(values), (len(ids), values.shape)
        name = hashlib.blake2b(b"".join(ids), digest_size=12).hexdigest()
        table = np.frombuffer(b"".join(ids), dtype=np.uint8).reshape(-1, ID_BYTES)
        with files.atomic_path(self.folder / f"{name}.npz") as temporary:
            np.savez(temporary, ids=table, values=np.asarray(values, dtype=np.float32))

    def known(self) -> set[bytes]:
        """Return the ids that have an embedding."""
        return {key for path in self._blocks() for key in self._ids(path)}

    def fill(self, ids: Sequence[bytes], path: Path) -> np.ndarray:
        """Return embeddings `(ids, dim)` in this order, memory-mapped from a file written here.

        Memory stays bounded by one block. Every id must be known.
        """
        places = {key: row for row, key in enumerate(ids)}
        matrix: np.ndarray | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        for block in self._blocks():
            pairs = [(places[k], row) for row, k in enumerate(self._ids(block)) if k in places]
            if not pairs:
                continue
            with np.load(block) as content:
                values = content["values"]
            if matrix is None:
                shape = (len(ids), values.shape[1])
                matrix = np.lib.format.open_memmap(path, "w+", dtype=np.float32, shape=shape)
            to, of = np.array(pairs).T
            matrix[to] = values[of]
        assert matrix is not None, f"no embeddings in {self.folder}"
        return matrix

    def _blocks(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("*.npz") if not p.name.startswith("."))

    def _ids(self, path: Path) -> list[bytes]:
        with np.load(path) as content:
            table = content["ids"].tobytes()
        return [table[at : at + ID_BYTES] for at in range(0, len(table), ID_BYTES)]
