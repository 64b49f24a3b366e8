"""A model as plain transformers loads it, in the shape of the sentence-transformers modules.

Importing sentence-transformers takes longer than everything else a single search does. Where nothing
of it is needed, an embedder stands on these instead; a test holds both to the same embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """What sentence-transformers calls Transformer: a model and its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model = model
        self.processor = processor


class PlainModules(nn.ModuleList):
    """Backbone, last token, length 1."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__([Backbone(model, processor)])

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the features with "sentence_embedding" `(batch, dim)` in them; right padded."""
        backbone: Any = self[0]
        hidden = backbone.model(**features).last_hidden_state
        last = features["attention_mask"].sum(dim=1) - 1
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return {**features, "sentence_embedding": nn.functional.normalize(pooled, dim=1)}

    def get_embedding_dimension(self) -> int:
        """Return the length of an embedding."""
        backbone: Any = self[0]
        return int(backbone.model.config.get_text_config().hidden_size)
