"""Encoding a pool with one model: every distinct encode once, in blocks that survive a kill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, overload, runtime_checkable

import numpy as np

from eval.pool import Pool
from eval.similarity import check_embeddings
from unime import files
from unime.config import ModelConfig
from unime.models import Embedder, Encode

BLOCK = 4096
"""Encodes a block: what a killed run has to do again at most, and how many pictures lie decoded."""


@runtime_checkable
class Encoder(Protocol):
    """A model under evaluation: `unime.models.Embedder`, or anything that encodes alike."""

    def encode(
        self, encodes: Sequence[Encode], batch_size: int = 64, label: str = "encoding"
    ) -> np.ndarray:
        """Return L2-normalised embeddings `(encodes, dim)`."""
        ...


def load_encoder(config: ModelConfig) -> Encoder:
    """Load a model under evaluation."""
    return Embedder.load(config)


def encode_pool(
    encoder: Encoder, pool: Pool, model: str, folder: Path, batch_size: int = 64
) -> np.ndarray:
    """Return the embeddings of all encodes of a pool, float32 `(encodes, dim)`.

    Args:
        encoder: the model.
        pool: the distinct encodes.
        model: the model's name, for messages.
        folder: finished blocks are kept here and not encoded again.
        batch_size: how many the model encodes at once.

    Raises:
        ModelError: when an embedding is not finite or not of length 1.
    """
    order = _by_kind_and_length(pool)
    embeddings = None
    for number, start in enumerate(range(0, len(order), BLOCK)):
        rows = order[start : start + BLOCK]
        path = folder / f"block{number:04d}.npy"
        if path.is_file():
            block = np.load(path)
        else:
            label = f"{model}: encodes {start + 1} to {start + len(rows)} of {len(order)}"
            block = encoder.encode(_Lazy(pool, rows), batch_size=batch_size, label=label)
            block = np.asarray(block, dtype=np.float32)
            assert len(block) == len(rows), (block.shape, len(rows))
            check_embeddings(block, model, lambda row, rows=rows: str(pool.entries[rows[row]]))
            with files.atomic_path(path) as temporary:
                np.save(temporary, block)
        if embeddings is None:
            embeddings = np.empty((len(order), block.shape[1]), dtype=np.float32)
        embeddings[rows] = block
    assert embeddings is not None, "an empty pool"
    return embeddings


class _Lazy(Sequence[Encode]):
    """Encodes whose pictures are decoded when they are asked for."""

    def __init__(self, pool: Pool, rows: np.ndarray) -> None:
        self._pool = pool
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Encode: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Encode]: ...

    def __getitem__(self, place: int | slice) -> Encode | Sequence[Encode]:
        if isinstance(place, slice):
            return [self[index] for index in range(len(self))[place]]
        entry = self._pool.entries[self._rows[place]]
        return Encode(entry.text, self._pool.image(entry), entry.side, entry.instruction)


def _by_kind_and_length(pool: Pool) -> np.ndarray:
    """Return all rows, alike ones together: blocks then hold batches with little padding."""
    keys = [
        (entry.image is not None, len(entry.instruction) + len(entry.text), row)
        for row, entry in enumerate(pool.entries)
    ]
    return np.array([row for _, _, row in sorted(keys)], dtype=np.int64)
