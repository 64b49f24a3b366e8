"""Cosine similarities in float32 between rows of one model's embeddings.

Bit-identical embeddings are made one vector first. A matrix product may round equal columns
differently at different places, and then the ties of a collapsed model would be broken by luck.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np

from unime.core.errors import ModelError, RecipeError

BLOCK = 1024
"""Queries scored at once: bounds memory at BLOCK x candidates floats."""

CHECKED_AT_ONCE = 16384
"""Embeddings looked at together when they are checked."""

DENSE_UP_TO = 64
"""Score all queries against all candidates of a task up to this many times the pairs asked for:
one matrix product is faster than gathering each query's own candidates."""


@runtime_checkable
class Similarities(Protocol):
    """What a task is scored with: a model's similarities between rows of the pool."""

    def pairs(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return (n,) similarities of inputs `left` and `right`, row by row."""
        ...

    def blocks(
        self, queries: np.ndarray, candidates: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (query slice, similarities `(queries in it, candidates)`)."""
        ...

    def listed(
        self,
        queries: np.ndarray,
        candidates: np.ndarray,
        position: np.ndarray,
        offsets: np.ndarray,
    ) -> np.ndarray:
        """Return (total,) similarities of each query with its own list; see `Vectors.listed`."""
        ...


class Vectors:
    """The embeddings of all inputs of a run, checked."""

    def __init__(self, embeddings: np.ndarray, model: str) -> None:
        """Check and keep embeddings `(inputs, dim)`, L2-normalised.

        Raises:
            ModelError: for NaN or infinite values, or rows that are not of length 1.
        """
        # A memory-mapped file stays one.
        self.values = np.ascontiguousarray(embeddings, dtype=np.float32)
        check_embeddings(self.values, model)
        self.canonical = _first_equal_row(self.values)

    def pairs(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return (n,) similarities of inputs `left` and `right`, row by row."""
        products = self.values[self.canonical[left]] * self.values[self.canonical[right]]
        return products.sum(axis=1, dtype=np.float32)

    def blocks(
        self, queries: np.ndarray, candidates: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (query slice, similarities `(queries in it, candidates)`)."""
        distinct, column = np.unique(self.canonical[candidates], return_inverse=True)
        columns = self.values[distinct].T
        identity = len(distinct) == len(candidates) and bool((np.diff(column) == 1).all())
        for start in range(0, len(queries), BLOCK):
            part = slice(start, min(start + BLOCK, len(queries)))
            block = self.values[queries[part]] @ columns
            yield part, block if identity else block[:, column]

    def listed(
        self,
        queries: np.ndarray,
        candidates: np.ndarray,
        position: np.ndarray,
        offsets: np.ndarray,
    ) -> np.ndarray:
        """Return (total,) similarities of each query with the candidates of its own list.

        Args:
            queries: (n,) inputs.
            candidates: (m,) the task's distinct candidate inputs.
            position: (total,) entries of all lists, as indices into `candidates`.
            offsets: (n + 1,) where each query's list starts.
        """
        if len(queries) * len(candidates) > DENSE_UP_TO * len(position):
            return self._listed_one_by_one(queries, candidates, position, offsets)
        distinct, column = np.unique(self.canonical[candidates], return_inverse=True)
        result = np.empty(len(position), dtype=np.float32)
        for part, block in self.blocks(queries, distinct):
            entries = slice(offsets[part.start], offsets[part.stop])
            lengths = np.diff(offsets[part.start : part.stop + 1])
            row_start = np.repeat(np.arange(len(lengths)) * len(distinct), lengths)
            np.take(block.ravel(), row_start + column[position[entries]], out=result[entries])
        return result

    def _listed_one_by_one(
        self,
        queries: np.ndarray,
        candidates: np.ndarray,
        position: np.ndarray,
        offsets: np.ndarray,
    ) -> np.ndarray:
        result = np.empty(len(position), dtype=np.float32)
        for query, (start, end) in enumerate(pairwise(offsets)):
            rows = self.canonical[candidates[position[start:end]]]
            distinct, column = np.unique(rows, return_inverse=True)
            result[start:end] = (self.values[distinct] @ self.values[queries[query]])[column]
        return result


def check_embeddings(
    values: np.ndarray, model: str, describe: Callable[[int], str] = "row {}".format
) -> None:
    """Raise ModelError unless every row is finite and of length 1 (to 1 %, as bfloat16 needs).

    Args:
        values: embeddings `(rows, dim)`.
        model: the model's name, for the message.
        describe: says what a row encodes.
    """
    starts = range(0, len(values), CHECKED_AT_ONCE)
    # NaN and infinity survive the sum of squares; one pass finds both kinds of trouble.
    with np.errstate(over="ignore", invalid="ignore"):
        parts = [
            np.sqrt(np.einsum("ij,ij->i", part, part))
            for part in (values[start : start + CHECKED_AT_ONCE] for start in starts)
        ]
    lengths = np.concatenate(parts) if parts else np.ones(0)
    bad = np.flatnonzero(~np.isfinite(lengths))
    if len(bad):
        raise ModelError(
            f"model '{model}': {len(bad)} of {len(values)} embeddings hold NaN or infinite "
            f"numbers (the first is {describe(int(bad[0]))}); expected finite numbers. Look for an "
            "overflow (load the model with dtype: float32 to see) or a broken checkpoint"
        )
    wrong = np.flatnonzero(np.abs(lengths - 1.0) > 0.01)
    if len(wrong):
        raise ModelError(
            f"model '{model}': {len(wrong)} of {len(values)} embeddings are not L2-normalised "
            f"(the first is {describe(int(wrong[0]))}, of length {lengths[wrong[0]]:.4g}); similarities here "
            "are cosines, so normalise the embeddings"
        )


def _first_equal_row(values: np.ndarray) -> np.ndarray:
    """Return (n,) int64: for each row the first row with the same bytes."""
    first: dict[bytes, int] = {}
    canonical = np.empty(len(values), dtype=np.int64)
    for start in range(0, len(values), CHECKED_AT_ONCE):
        # Adding zero turns -0.0 into 0.0, which compares equal but has other bytes.
        for place, row in enumerate(values[start : start + CHECKED_AT_ONCE] + 0.0, start=start):
            key = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            canonical[place] = first.setdefault(key, place)
    return canonical


SIGN_BLOCK = 8192


def compress(embeddings: np.ndarray, dims: int | None, precision: str) -> np.ndarray:
    """Return embeddings as a store would hold them, back in float32 and of length 1.

    Args:
        embeddings: float32 `(inputs, dim)`, L2-normalised.
        dims: keep the first so many numbers (Matryoshka), normalised again.
        precision: "float32"; "int8", 127 steps either way of the largest number of each row;
            "binary", the signs, whose cosine is 1 - 2 x Hamming distance / dim.

    Raises:
        RecipeError: when the embeddings have fewer numbers.
    """
    if dims is None and precision == "float32":
        return embeddings
    width = dims or embeddings.shape[1]
    if width > embeddings.shape[1]:
        raise RecipeError(f"dims: {width}, but the embeddings have {embeddings.shape[1]} numbers")
    result = np.empty((len(embeddings), width), dtype=np.float32)
    for start in range(0, len(embeddings), SIGN_BLOCK):
        part = np.array(embeddings[start : start + SIGN_BLOCK, :width], dtype=np.float32)
        if precision == "int8":
            part = np.rint(127 * part / np.abs(part).max(axis=1, keepdims=True))
        elif precision == "binary":
            part = np.where(part >= 0, 1.0, -1.0).astype(np.float32)
        result[start : start + SIGN_BLOCK] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return result
