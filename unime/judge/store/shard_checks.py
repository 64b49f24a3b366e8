"""What is checked before the store believes it: bytes against their hash, values against their range."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import xxhash
from jaxtyping import Bool, Float32, Int32

from unime.core.errors import DataError
from unime.judge.engine import Score

CHUNK = 1 << 22


def hash_text(text: str) -> str:
    """Return the xxh3-128 of a text as hex."""
    return xxhash.xxh3_128_hexdigest(text.encode())


def hash_stream(handle: Any, hasher: Any = None, copy: Callable[[bytes], Any] | None = None) -> str:
    """Return the hash of all that a handle still holds, as hex.

    Args:
        handle: what is read, a chunk at a time.
        hasher: xxh3-128 unless said otherwise.
        copy: gets every chunk, too.
    """
    hasher = xxhash.xxh3_128() if hasher is None else hasher
    while chunk := handle.read(CHUNK):
        hasher.update(chunk)
        if copy is not None:
            copy(chunk)
    return hasher.hexdigest()


def check_scores(judge: str, scores: Iterable[Score]) -> None:
    """Refuse what is no judgement.

    Args:
        judge: its fingerprint.
        scores: what it said.

    Raises:
        DataError: when a value is outside 0..1, or there is neither a value nor a reason.
    """
    for score in scores:
        if 0.0 <= score.value <= 1.0 or (math.isnan(score.value) and score.reason):
            continue
        got = "NaN without a reason" if math.isnan(score.value) else f"the score {score.value}"
        raise DataError(
            f"{_name(judge)} gave {got} for the pair {score.key.hex()}; expected a probability "
            "from 0 to 1, or NaN with a reason; nothing of this batch was kept"
        )


def are_judgements(
    values: Float32[np.ndarray, " rows"], reasons: Int32[np.ndarray, " rows"]
) -> Bool[np.ndarray, " rows"]:
    """Tell which rows are scores from 0 to 1, or NaN with a reason (a code of 0 or more)."""
    return ((values >= 0) & (values <= 1)) | (np.isnan(values) & (reasons >= 0))


def _name(fingerprint: str) -> str:
    """Return a judge's engine and model, as far as its fingerprint names them."""
    try:
        parts = json.loads(fingerprint)
        model = f" with the model {parts['model']}" if "model" in parts else ""
        return f"the engine {parts['engine']}{model}"
    except (ValueError, KeyError, TypeError):
        return f"the engine {fingerprint[:80]}"
