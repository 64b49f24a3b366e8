"""The tokens that all inputs of a batch begin with, computed once for the whole batch.

A hierarchical prompt puts the same system text before every input. Attention is causal, so its
hidden states are the same in every row: keys and values of one row serve all of them, forward and
backward. Short texts spend most of their tokens there, and this is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from unime.models.backbones import pooled
from unime.models.hooks import Hooks, hidden_states, hooks_of, new_cache, position_ids
from unime.models.next_token import SHORTEST


class SharesPrefix(nn.Module):
    """A network that computes once what inputs begin with; the same result without."""

    shares_prefix: bool = True
    """Off where keys and values can't be kept, or where all processes must make the same calls."""


class SharedPrefix(SharesPrefix):
    """Stands where an embedder's sentence-transformers module stands, and gives the same result.

    Args:
        module: Transformer, last-token Pooling and Normalize.

    `shares_prefix = False` makes it the plain module.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module
        self.hooks = hooks_of(module[0].model, module[0].processor)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the features with "sentence_embedding" `(batch, dim)` in them."""
        length = (
            prefix_length(features, image_token_of(self.module[0].model.config))
            if self.shares_prefix and self.hooks.cache is not None
            else 0
        )
        if length < SHORTEST or len(features["input_ids"]) < 2:
            return self.module(dict(features))
        hidden = _hidden_after_prefix(self.module[0].model, self.hooks, features, length)
        last = features["attention_mask"].sum(dim=1) - 1 - length
        return {**features, "sentence_embedding": pooled(hidden, last)}


def prefix_length(features: Mapping[str, Tensor], image_token: int | None) -> int:
    """Return how many text tokens all rows have in common at their beginning.

    At least one token of each row stays outside, and so does everything from an image on.
    """
    ids, mask = features["input_ids"], features["attention_mask"]
    shared = ((ids == ids[:1]) & (mask == 1)).all(dim=0)
    if image_token is not None:
        shared &= ids[0] != image_token
    common = int(shared.long().cumprod(dim=0).sum())
    return min(common, int(mask.sum(dim=1).min()) - 1)


def _hidden_after_prefix(
    model: Any, hooks: Hooks, features: Mapping[str, Tensor], length: int
) -> Float[Tensor, "batch rest dim"]:
    """Return the last hidden states of the tokens after the prefix."""
    ids, mask = features["input_ids"], features["attention_mask"]
    positions = position_ids(
        model, ids, mask, features.get("mm_token_type_ids"), features.get("image_grid_thw")
    )
    cache = new_cache(model.config)
    start = {"input_ids": ids[:1, :length], "position_ids": positions[..., :1, :length]}
    hidden_states(model, hooks, None, cache, start)
    cache.batch_select_indices(ids.new_zeros(len(ids)))
    rest = {
        key: value[:, length:]
        if value.shape[:2] == ids.shape and key != "attention_mask"
        else value
        for key, value in features.items()
    }
    rest["position_ids"] = positions[..., length:]
    return hidden_states(model, hooks, None, cache, rest)


def image_token_of(config: Any) -> int | None:
    """Return the token that stands for a part of an image, by a model's configuration."""
    return getattr(config, "image_token_id", getattr(config, "image_token_index", None))
