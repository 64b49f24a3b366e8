"""What a vector store does to embeddings: cut them, round them, keep their signs."""

from __future__ import annotations

import numpy as np

from unime.core.errors import RecipeError

BLOCK = 8192


def compress(embeddings: np.ndarray, dims: int | None, precision: str) -> np.ndarray:
    """Return embeddings as a store would hold them, back in float32 and of length 1.

    Args:
        embeddings: float32 `(encodes, dim)`, L2-normalised.
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
    for start in range(0, len(embeddings), BLOCK):
        part = np.array(embeddings[start : start + BLOCK, :width], dtype=np.float32)
        if precision == "int8":
            part = np.rint(127 * part / np.abs(part).max(axis=1, keepdims=True))
        elif precision == "binary":
            part = np.where(part >= 0, 1.0, -1.0).astype(np.float32)
        result[start : start + BLOCK] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return result
