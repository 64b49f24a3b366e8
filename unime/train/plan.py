"""From a global batch's distinct encodes to chunks that fit in memory and waste little padding.

The plan is a pure function of sizes and budget, so every rank can compute the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from unime.config import ModelConfig, Section

PROMPT_TOKENS = 48
"""Rough length of the system text, template and instruction around a content."""
CHARACTERS_PER_TOKEN = 4
PIXELS_PER_TOKEN = 28 * 28
PADDING_WASTE = 1.25
"""A chunk of at least SMALLEST_CHUNK encodes ends where padding would exceed a quarter of it."""
SMALLEST_CHUNK = 16


class Size(NamedTuple):
    """What one encode costs, estimated before anything is tokenised or decoded."""

    tokens: int
    pixels: int = 0
    group: int = 0
    """Encodes of one group begin with the same prompt, which a chunk then computes once."""


class Budget(Section):
    """How much may be in one forward pass, and how much may keep its graph at once."""

    tokens: int = Field(default=8192, gt=0)
    """Padded tokens: the longest encode's, times the encodes."""
    pixels: int = Field(default=8_000_000, gt=0)
    items: int = Field(default=1024, gt=0)


class Plan(NamedTuple):
    """Chunks of places in the batch, text-only chunks first, short before long."""

    chunks: tuple[tuple[int, ...], ...]
    kept: int
    """The last so many chunks fit in the budget together: they keep their graph from the first
    pass and need no second. All of them, when the whole batch fits."""


def size_of(characters: int, pixels: int, model: ModelConfig, side: str = "query") -> Size:
    """Estimate the size of one encode.

    Args:
        characters: length of the text.
        pixels: width times height of the image file, 0 without image.
        model: its pixel limits say what the image is resized to.
        side: "query" or "target"; their prompts differ.
    """
    if pixels:
        pixels = min(max(pixels, model.min_pixels), model.max_pixels)
    tokens = PROMPT_TOKENS + characters // CHARACTERS_PER_TOKEN + pixels // PIXELS_PER_TOKEN
    return Size(min(tokens, model.max_length), pixels, int(side == "target"))


def plan_chunks(sizes: Sequence[Size], budget: Budget) -> Plan:
    """Cut a batch into chunks.

    A chunk holds one kind: images or plain texts, because padded together short texts would pay
    for the image's tokens; queries or targets, because their prompts differ. An encode that alone exceeds the budget gets a chunk of its own.
    """
    order = sorted(range(len(sizes)), key=lambda place: (_kind(sizes[place]), sizes[place], place))
    chunks: list[list[int]] = []
    open_chunk = _Load()
    for place in order:
        grown = open_chunk.plus(sizes[place])
        if chunks and _kind(sizes[chunks[-1][0]]) == _kind(sizes[place]) and grown.fits(budget):
            chunks[-1].append(place)
            open_chunk = grown
        else:
            chunks.append([place])
            open_chunk = _Load().plus(sizes[place])
    return Plan(tuple(map(tuple, chunks)), _count_kept(chunks, sizes, budget))


class _Load(NamedTuple):
    """What is in a chunk whose encodes come in order of size."""

    items: int = 0
    longest: int = 0
    tokens: int = 0
    pixels: int = 0

    def plus(self, size: Size) -> _Load:
        longest = max(self.longest, size.tokens)
        return _Load(self.items + 1, longest, self.tokens + size.tokens, self.pixels + size.pixels)

    @property
    def padded(self) -> int:
        return self.items * self.longest

    def fits(self, budget: Budget) -> bool:
        wasteful = self.items > SMALLEST_CHUNK and self.padded > PADDING_WASTE * self.tokens
        return not wasteful and _within(self.items, self.padded, self.pixels, budget)


def _kind(size: Size) -> tuple[bool, int]:
    return size.pixels > 0, size.group


def _within(items: int, tokens: int, pixels: int, budget: Budget) -> bool:
    return items <= budget.items and tokens <= budget.tokens and pixels <= budget.pixels


def _count_kept(chunks: Sequence[Sequence[int]], sizes: Sequence[Size], budget: Budget) -> int:
    items = tokens = pixels = 0
    for kept, chunk in enumerate(reversed(chunks)):
        items += len(chunk)
        tokens += len(chunk) * max(sizes[place].tokens for place in chunk)
        pixels += sum(sizes[place].pixels for place in chunk)
        # The last chunk keeps its graph whatever it costs: it would have to live anyway.
        if kept and not _within(items, tokens, pixels, budget):
            return kept
    return len(chunks)
