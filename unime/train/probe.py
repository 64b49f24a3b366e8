"""`budget.chunk: auto`: how much fits in memory, found by trying the worst chunk once."""

from __future__ import annotations

from collections.abc import Callable

import torch

from unime.core.console import log
from unime.core.errors import ModelError
from unime.core.processes import any_process
from unime.train.loader import Source
from unime.train.step import Chunk

LOOKED_AT = 4
"""Batches whose worst chunk is tried."""


def choose_budget(source: Source, run: Callable[[Chunk], None]) -> None:
    """Halve a source's budget until its worst chunk fits on every process; say what was chosen.

    Args:
        source: of batches; its budget is changed.
        run: takes a chunk forward and backward, and leaves nothing behind.

    Raises:
        ModelError: when not even a single encode fits.
    """
    while True:
        chunk = worst_chunk(source)
        failed = False
        try:
            run(chunk)
        except torch.OutOfMemoryError:
            failed = True
        if not any_process(failed):
            log(f"chunk: auto chose {source.budget.now()}")
            return
        if source.budget.now().items < 2:
            raise ModelError(
                "a single encode does not fit in memory; lower model.max_pixels or "
                "model.max_length, or set training.gradient_checkpointing"
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        source.budget.halve()


def worst_chunk(source: Source) -> Chunk:
    """Return the chunk with the most padded tokens, its patches counted as tokens."""
    chunks = (chunk for number in range(LOOKED_AT) for chunk in source[number].chunks)
    return max(chunks, key=_load)


def _load(chunk: Chunk) -> int:
    pictures = chunk.features.get("pixel_values")
    patches = 0 if pictures is None or pictures.ndim < 2 else len(pictures)
    return chunk.features["input_ids"].numel() + patches
