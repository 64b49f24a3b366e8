"""What the prompts of a batch begin with in common: found, and computed once. The one place of that code.

A hierarchical prompt puts the same system text before every input. Attention is causal, so its
hidden states are the same in every row: keys and values of one row serve all of them, forward and
backward. Short texts spend most of their tokens there, and this is exact.

Three callers differ in what they hold, not in this: an embedder's batch with its pixels (`SharedPrefix`),
questions in groups with gradient (`unime.models.prompt_batch`), next tokens with a beginning that outlives
a batch (`unime.models.next_token`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unime.models.backbones import pooled
from unime.models.hooks import Hooks, hidden_states, hooks_of, new_cache, position_ids, select_rows
from unime.models.vision_input import TowerOutput

SHORTEST = 8
"""Shorter beginnings are not worth a call of their own."""


class Stretch(NamedTuple):
    """A part of every prompt of a batch: its tokens, and what is needed to read them."""

    inputs: Mapping[str, Tensor]
    """Tokens, positions of the whole prompts, and the mask with what comes before."""
    images: TowerOutput | None = None
    """Of the images whose tokens lie in it; None without any, or where `inputs` has their pixels."""


def shared_lengths(
    ids: Int[Tensor, "batch length"],
    marks: Int[Tensor, "batch length"],
    lengths: Int[Tensor, " batch"],
    group: Int[Tensor, " batch"],
    first: Int[Tensor, " groups"],
) -> Int[Tensor, " groups"]:
    """Return how many tokens all rows of each group begin with in common.

    At least one token of each row stays outside. No image is cut: where rows differ in one, their
    marks differ from its first token on.

    Args:
        ids: tokens, padded on the right.
        marks: at image tokens which image they show; equal elsewhere.
        lengths: of the rows.
        group: of each row.
        first: any row of each group.
    """
    of_first = first[group]
    same = (ids == ids[of_first]) & (marks == marks[of_first])
    common = torch.minimum(same.long().cumprod(dim=1).sum(dim=1), lengths - 1)
    return common.new_zeros(len(first)).scatter_reduce(0, group, common, "amin", include_self=False)


def keys_and_values(backbone: Any, hooks: Hooks, beginning: Stretch) -> Any:
    """Compute what a beginning leaves for the tokens after it, with gradient if enabled.

    Args:
        backbone: the model without its head.
        hooks: what works with it.
        beginning: one row for each group.
    """
    cache = new_cache(backbone.config)
    hidden_states(backbone, hooks, beginning.images, cache, beginning.inputs)
    return cache


def continued(
    backbone: Any, hooks: Hooks, cache: Any, group: Int[Tensor, " batch"], rest: Stretch
) -> Float[Tensor, "batch length dim"]:
    """Return the last hidden states of the tokens after the beginnings.

    Args:
        backbone: the model without its head.
        hooks: what works with it.
        cache: from `keys_and_values`; the model appends to it.
        group: which beginning each row has.
        rest: the rows' own tokens.
    """
    select_rows(cache, group)
    return hidden_states(backbone, hooks, rest.images, cache, rest.inputs)


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
    is_image = ids == (-1 if image_token is None else image_token)
    lengths = torch.minimum(mask.sum(dim=1), 1 + _before_first(is_image))
    one_group, first = lengths.new_zeros(len(ids)), lengths.new_zeros(1)
    return int(shared_lengths(ids, is_image.long(), lengths, one_group, first))


def _before_first(is_image: Bool[Tensor, "batch length"]) -> Int[Tensor, " batch"]:
    """Return how many tokens of each row come before its first image."""
    return (~is_image).long().cumprod(dim=1).sum(dim=1)


def _hidden_after_prefix(
    model: Any, hooks: Hooks, features: Mapping[str, Tensor], length: int
) -> Float[Tensor, "batch rest dim"]:
    """Return the last hidden states of the tokens after the prefix."""
    ids, mask = features["input_ids"], features["attention_mask"]
    positions = position_ids(
        model, ids, mask, features.get("mm_token_type_ids"), features.get("image_grid_thw")
    )
    beginning = Stretch(
        {"input_ids": ids[:1, :length], "position_ids": positions[..., :1, :length]}
    )
    rest = {
        key: value[:, length:]
        if value.shape[:2] == ids.shape and key != "attention_mask"
        else value
        for key, value in features.items()
    }
    rest["position_ids"] = positions[..., length:]
    cache = keys_and_values(model, hooks, beginning)
    return continued(model, hooks, cache, ids.new_zeros(len(ids)), Stretch(rest))


def image_token_of(config: Any) -> int | None:
    """Return the token that stands for a part of an image, by a model's configuration."""
    return getattr(config, "image_token_id", getattr(config, "image_token_index", None))
