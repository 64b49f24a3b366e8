"""Which pictures of the benchmarks the models under evaluation do not take, before any compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from unime.core.errors import UnimeError
from unime.eval.encoders.registry import ModelEntry
from unime.eval.pool import Pool, PoolImage
from unime.models.model_config import ModelConfig


def unusable(models: Sequence[ModelEntry], pool: Pool) -> list[str]:
    """Return one line for each picture that a model's image processor does not take.

    Args:
        models: those whose processor is known are asked; a server's is not.
        pool: its pictures' sizes were read from the files' headers.
    """
    from unime.data.image_processor import refusals

    sizes: dict[tuple[int, int], list[PoolImage]] = {}
    for picture in pool.pictures():
        size = pool.size(picture)
        if size is not None:
            sizes.setdefault(size, []).append(picture)
    lines: dict[str, None] = {}
    for name, processor in _processors(models):
        for size, reason in refusals(processor, sizes).items():
            for picture in sizes[size]:
                place = f"{picture.root / picture.location} ({size[0]} x {size[1]} pixels)"
                lines[f"{place} cannot be used by {name}: {reason}"] = None
    return list(lines)


def _processors(models: Sequence[ModelEntry]) -> Iterator[tuple[str, Any]]:
    """Yield each model's name and image processor; what cannot be loaded says so when it is."""
    from unime.data.image_processor import image_processor_of

    for entry in models:
        for config in _configs(entry):
            try:
                processor = image_processor_of(config)
            except UnimeError:
                continue
            yield entry.name, processor


def _configs(entry: ModelEntry) -> Iterator[ModelConfig]:
    if entry.model is not None:
        yield entry.model
    elif entry.checkpoint is not None:
        yield from _start_of(entry.checkpoint.id)
    elif entry.sentence_transformers is not None:
        config = entry.sentence_transformers
        yield ModelConfig(id=config.id, revision=config.revision)
    if entry.reranker is not None:
        yield ModelConfig(id=entry.reranker.id)


def _start_of(checkpoint: str) -> Iterator[ModelConfig]:
    """Yield the model that a checkpoint's training started from."""
    from pathlib import Path

    from unime.eval.encoders.checkpoint import recipe_of

    try:
        yield ModelConfig(**recipe_of(Path(checkpoint))["model"])
    except UnimeError:
        return
