"""A model as plain transformers loads it, in the shape of the sentence-transformers modules.

Importing sentence-transformers takes longer than everything else a single search does. Where nothing
of it is needed, an embedder stands on these instead; a test holds both to the same embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
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
        return {**features, "sentence_embedding": pooled(hidden, last)}

    def get_embedding_dimension(self) -> int:
        """Return the length of an embedding."""
        backbone: Any = self[0]
        return int(backbone.model.config.get_text_config().hidden_size)


def pooled(
    hidden: Float[Tensor, "batch length dim"], last: Int[Tensor, " batch"]
) -> Float[Tensor, "batch dim"]:
    """Return each row's hidden state at its last token, of length 1."""
    rows = torch.arange(len(hidden), device=hidden.device)
    return nn.functional.normalize(hidden[rows, last], dim=1)
