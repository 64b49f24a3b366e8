"""Prompts as a language model reads them: tokens, and the blocks of their images in place of the placeholders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unime.models.image_blocks import ImageBlock, KeyedImage
from unime.models.processor import tokenizing


class Prompt(NamedTuple):
    """A whole prompt, rendered by the wrapped chat template."""

    text: str
    """One placeholder for each image."""
    pictures: tuple[KeyedImage, ...] = ()


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as the language model reads it."""

    ids: Int[Tensor, " length"]
    owner: Int[Tensor, " length"]
    """At image tokens which image they show, and at which of the prompt's places, as a number that
    all prompts of a call share; 0 elsewhere."""
    seen: tuple[ImageBlock, ...]
    prompt: Prompt | None = None
    """What they were made of, for a model that is only given pixels."""

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)


def token_ids(processor: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return the tokens of prompts, one image token for each image."""
    with tokenizing():
        return processor.tokenizer(
            [prompt.text for prompt in prompts],
            add_special_tokens=_begins(processor, prompts[0].text),
            verbose=False,
        )["input_ids"]


def plain_inputs(processor: Any, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Return the inputs of prompts as transformers' users prepare them, padded on the right."""
    images = [[picture.open() for picture in prompt.pictures] for prompt in prompts]
    text = {
        "padding": True,
        "padding_side": "right",
        "truncation": False,
        "add_special_tokens": _begins(processor, prompts[0].text),
        "verbose": False,
    }
    with tokenizing():
        batch = processor(
            text=[prompt.text for prompt in prompts],
            images=images if any(images) else None,
            text_kwargs=text,
            common_kwargs={"return_tensors": "pt"},
        )
    return dict(batch)


def plain_hidden(backbone: Any, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch dim"]:
    """Return the hidden states of prompts' last tokens, of the model as anyone calls it."""
    hidden = backbone(**inputs, use_cache=False).last_hidden_state
    last = inputs["attention_mask"].sum(dim=1) - 1
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def _begins(processor: Any, text: str) -> bool:
    """Tell whether the tokenizer has to write the begin token: a template's own is no second one."""
    begin = processor.tokenizer.bos_token
    return begin is None or not text.startswith(begin)


def place_blocks(
    ids: Sequence[int], blocks: Sequence[tuple[Tensor, Tensor]], image_token: int, outside: int
) -> tuple[Int[Tensor, " length"], Int[Tensor, " length"]]:
    """Put pictures' blocks where their placeholders are; return tokens and marks.

    A block begins and ends with special tokens, at which a tokenizer splits: the ids on both sides
    are those of the whole text.

    Args:
        ids: tokens with one image token for each image.
        blocks: of each image its tokens, and a mark for each of them.
        image_token: the placeholder.
        outside: the mark of text.
    """
    text = torch.tensor(ids)
    places = (text == image_token).nonzero().flatten().tolist()
    assert len(places) == len(blocks), f"{len(places)} placeholders, {len(blocks)} pictures"
    tokens, marks, start = [], [], 0
    for place, (block, marked) in zip(places, blocks, strict=True):
        tokens += [text[start:place], block]
        marks += [torch.full((place - start,), outside), marked]
        start = place + 1
    tokens.append(text[start:])
    marks.append(torch.full((len(text) - start,), outside))
    return torch.cat(tokens), torch.cat(marks)
