"""Prompts as one batch of tensors: each distinct image once, and what a group begins with once.

A reranker is trained on many questions about one query. The instruction, the query and its image
come first and are the same in all of them: their keys and values are computed once for the group,
forward and backward, and each question pays for its candidate alone. Attention is causal, so this
is exact. `unime.models.next_token` does the same without gradient.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unime.models.hooks import Hooks, hidden_states, hooks_of, position_ids
from unime.models.image_blocks import image_token_id, looks_alone, prepare_pictures
from unime.models.prompt_tokens import Prompt, place_blocks, plain_hidden, plain_inputs, token_ids
from unime.models.shared_prefix import SHORTEST, Stretch, continued, keys_and_values, shared_lengths
from unime.models.vision_input import TowerOutput, tower_output

NOT_PIXELS = (
    "input_ids", "attention_mask", "position_ids", "seen",
    "group", "first", "shared", "start", "rest", "seen_start", "seen_rest",
)  # fmt: skip
"""What a batch holds beside the vision tower's inputs."""


def prompt_batch(
    prompts: Sequence[Prompt], groups: Sequence[Hashable], processor: Any, backbone: Any
) -> dict[str, Tensor]:
    """Return a batch for `last_hidden`, on the CPU, padded on the right.

    Args:
        prompts: rendered by the wrapped chat template.
        groups: equal where prompts begin alike.
        processor: makes patches of images and tokens of texts.
        backbone: numbers the positions as it would itself.
    """
    if hooks_of(backbone, processor).layout is None:
        return plain_inputs(processor, prompts)
    keys = [
        [(picture.key, looks_alone(processor, len(prompt.pictures))) for picture in prompt.pictures]
        for prompt in prompts
    ]
    distinct = {
        key: picture
        for row, prompt in zip(keys, prompts, strict=True)
        for key, picture in zip(row, prompt.pictures, strict=True)
    }
    order = sorted(distinct, key=lambda key: not key[1])
    number = {key: place for place, key in enumerate(order)}
    pixels, blocks = prepare_pictures(
        processor, [distinct[key].open() for key in order], sum(alone for _, alone in order)
    )
    image_token = image_token_id(processor)
    numbered = _numbered(blocks, image_token)
    rows = [
        place_blocks(ids, [numbered[number[key]] for key in row], image_token, outside=-1)
        for ids, row in zip(token_ids(processor, prompts), keys, strict=True)
    ]
    # The last token fills: any but the image token, which models count.
    filler = int(rows[0][0][-1])
    ids = pad_sequence([row for row, _ in rows], batch_first=True, padding_value=filler)
    shows = pad_sequence([shown for _, shown in rows], batch_first=True, padding_value=-1)
    lengths = torch.tensor([len(row) for row, _ in rows])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    grids = pixels.get("image_grid_thw")
    if grids is not None:
        grids = grids[[number[key] for row in keys for key in row]]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": position_ids(backbone, ids, mask, (shows >= 0).int(), grids),
        "seen": shows[shows >= 0],
        **_shared(ids, shows, lengths, groups),
        **pixels,
    }


def last_hidden(
    backbone: Any, hooks: Hooks, batch: Mapping[str, Tensor], *, share: bool
) -> Float[Tensor, "batch dim"]:
    """Return the hidden states of the prompts' last tokens.

    Args:
        backbone: the model without its head.
        hooks: what works with it.
        batch: from `prompt_batch`, on the model's device.
        share: compute once what groups begin with; the result is the same.
    """
    if hooks.layout is None:
        return plain_hidden(backbone, batch)
    pixels = {name: value for name, value in batch.items() if name not in NOT_PIXELS}
    looked = tower_output(backbone, pixels)[0] if pixels else None
    ids, mask, positions = (batch[k] for k in ("input_ids", "attention_mask", "position_ids"))
    rows, last = torch.arange(len(ids), device=ids.device), mask.sum(dim=1) - 1
    if not share or hooks.cache is None or "group" not in batch:
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        seen = _at(looked, batch["seen"])
        return hidden_states(backbone, hooks, seen, None, inputs)[rows, last]

    group, first, shared = batch["group"], batch["first"], batch["shared"]
    places = batch["start"]
    begins = places < shared[:, None]
    beginning = {
        # What follows a shorter beginning may be an image, which is not for this pass.
        "input_ids": ids[first, : len(places)].where(begins, ids[first, last[first]][:, None]),
        "attention_mask": begins.to(mask.dtype),
        "position_ids": positions[..., first, : len(places)],
    }
    start = Stretch(beginning, _at(looked, batch["seen_start"]))
    cache = keys_and_values(backbone, hooks, start)
    places = shared[group][:, None] + batch["rest"]
    inside = places <= last[:, None]
    places = places.minimum(last[:, None])
    rest = {
        "input_ids": ids.gather(1, places),
        "attention_mask": torch.cat([begins[group], inside], dim=1).to(mask.dtype),
        "position_ids": positions.gather(-1, places.expand(*positions.shape[:-1], -1)),
    }
    after = Stretch(rest, _at(looked, batch["seen_rest"]))
    hidden = continued(backbone, hooks, cache, group, after)
    return hidden[rows, last - shared[group]]


def _at(looked: TowerOutput | None, places: Int[Tensor, " chosen"]) -> TowerOutput | None:
    """Return what some image tokens show; None where there are none."""
    if looked is None or len(places) == 0:
        return None
    return TowerOutput(looked.features[places], tuple(layer[places] for layer in looked.deep))


def _numbered(blocks: Sequence[Tensor], token_id: int) -> list[tuple[Tensor, Tensor]]:
    """Return each picture's tokens, and which of all pictures' features each of them shows."""
    numbered, count = [], 0
    for block in blocks:
        is_image = block == token_id
        shows = torch.where(is_image, count + is_image.long().cumsum(0) - 1, -1)
        numbered.append((block, shows))
        count += int(is_image.sum())
    return numbered


def _shared(
    ids: Int[Tensor, "batch length"],
    shows: Int[Tensor, "batch length"],
    lengths: Int[Tensor, " batch"],
    groups: Sequence[Hashable],
) -> dict[str, Tensor]:
    """Return how long the groups' common beginnings are; nothing where none is worth a call.

    A group of one begins with all but its last token.
    """
    numbers = {key: place for place, key in enumerate(dict.fromkeys(groups))}
    if len(numbers) == len(groups):
        return {}
    group = torch.tensor([numbers[key] for key in groups])
    first = torch.tensor([groups.index(key) for key in numbers])
    shared = shared_lengths(ids, shows, lengths, group, first)
    if int(shared.min()) < SHORTEST:
        return {}
    place = torch.arange(ids.shape[1])
    is_start = place < shared[group][:, None]
    return {
        "group": group,
        "first": first,
        "shared": shared,
        "start": torch.arange(int(shared.max())),
        "rest": torch.arange(int((lengths - shared[group]).max())),
        "seen_start": shows[first][is_start[first] & (shows[first] >= 0)],
        "seen_rest": shows[~is_start & (shows >= 0)],
    }
