"""Batches for stage 1: distinct texts with a teacher's embeddings of them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from unime.models.inputs import ModelInput
from unime.models.model_config import ModelConfig
from unime.train.batch import Layout, RelationIndices
from unime.train.chunking import estimate_sizes
from unime.train.sampler import TaskBatches


class TextLayout:
    """Batches of distinct texts with the teacher's embeddings of them.

    Args:
        texts: all of them, held out or not.
        teacher: their embeddings.
        batches: which texts make up which batch.
        model: how long an input may be.
        side: "query" or "target": whose prompt the student reads them under.
    """

    def __init__(
        self,
        texts: list[str],
        teacher: Float[np.ndarray, "texts dim"],
        batches: TaskBatches,
        model: ModelConfig,
        side: str,
    ) -> None:
        self.batches = batches
        self._texts, self._teacher, self._model, self._side = texts, teacher, model, side
        self._characters = np.array([len(text) for text in texts], dtype=np.int64)

    def layout(self, number: int) -> Layout:
        """Return what batch `number` holds."""
        rows = self.batches[number].rows
        return Layout(
            name=f"texts {rows.tolist()}",
            inputs=rows.tolist(),
            sizes=estimate_sizes(self._characters[rows], np.zeros_like(rows), self._model),
            indices=RelationIndices(torch.from_numpy(self._teacher[rows]).float()),
            counts={"rows": len(rows)},
        )

    def load(self, entry: int) -> ModelInput:
        """Return one text as an input of the student."""
        return ModelInput(self._texts[entry], None, self._side, "")
