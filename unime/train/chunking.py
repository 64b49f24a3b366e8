"""From a global batch's distinct encodes to chunks that fit in memory and waste little padding.

The plan is a pure function of sizes, budget and the number of processes: every process computes
the same one, without a word between them. Each gets equally many chunks, image chunks at the same
places as the others: a model that is sharded over the processes (FSDP2, ZeRO-3) hangs otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from unime.core.config import Section
from unime.models.model_config import ModelConfig

PROMPT_TOKENS = 48
"""Rough length of the system text, template and instruction around a content."""
CHARACTERS_PER_TOKEN = 4
PIXELS_PER_TOKEN = 28 * 28
PIXELS_PER_PATCH = 14 * 14
PADDING_WASTE = 1.25
"""A chunk of at least SMALLEST_CHUNK encodes ends where padding would exceed a quarter of it."""
SMALLEST_CHUNK = 16
AUTO = 16


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
    chunk: Literal["auto"] | None = None
    """"auto": AUTO times the numbers above is tried when training starts, on the worst chunk at
    hand, and halved until it fits. On CPUs, which do not say when they run out, nothing is tried."""
    vision_cache_gb: float = Field(default=1.0, ge=0)
    """Features of a frozen vision tower that the first pass keeps for the second."""

    def largest(self) -> Budget:
        """Return what is tried first."""
        if self.chunk != "auto":
            return self
        return self.model_copy(
            update={key: AUTO * getattr(self, key) for key in ("tokens", "pixels", "items")}
        )

    def halved(self) -> Budget:
        """Return half of it, for a chunk that did not fit in memory."""
        smaller = {key: max(1, getattr(self, key) // 2) for key in ("tokens", "pixels", "items")}
        return self.model_copy(update=smaller)


class Cut(NamedTuple):
    """Places in the batch that go through the model together."""

    places: tuple[int, ...]
    dummy: bool = False
    """Takes part in the forward passes only: another process has a chunk here, this one none."""


class Plan(NamedTuple):
    """Of each process its chunks: text-only ones first, short before long."""

    ranks: tuple[tuple[Cut, ...], ...]
    kept: int
    """The last so many chunks of a process fit in the budget together: they keep their graph from
    the first pass and need no second. All of them, when the process's share fits."""

    def places(self, rank: int) -> list[int]:
        """Return the places a process encodes, chunk after chunk."""
        return [place for cut in self.ranks[rank] if not cut.dummy for place in cut.places]


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


def plan_chunks(sizes: Sequence[Size], budget: Budget, world: int = 1) -> Plan:
    """Cut a batch into chunks and deal them to the processes.

    A chunk holds one kind: images or plain texts, because padded together short texts would pay
    for the image's tokens; queries or targets, because their prompts differ. An encode that alone
    exceeds the budget gets a chunk of its own.

    Args:
        sizes: of each distinct encode of the global batch.
        budget: of one forward pass.
        world: how many processes share the batch.
    """
    order = sorted(range(len(sizes)), key=lambda place: (_kind(sizes[place]), sizes[place], place))
    hands: list[list[Cut]] = [[] for _ in range(world)]
    for with_image in (False, True):
        alike = [place for place in order if (sizes[place].pixels > 0) is with_image]
        _deal(_cut_for(world, alike, sizes, budget), sizes, hands)
    kept = min(_count_kept(hand, sizes, budget) for hand in hands)
    return Plan(tuple(map(tuple, hands)), kept)


def _cut_for(world: int, order: Sequence[int], sizes: Sequence[Size], budget: Budget) -> list[Cut]:
    """Cut encodes of one modality into as many chunks as the processes can share evenly.

    For several processes chunks are also of like cost, so that none waits for another. Where
    nothing can be split any more, dummies of a single encode fill up.
    """
    chunks = list(_cut(order, sizes, budget, math.inf))
    if world > 1 and chunks:
        shares = world * math.ceil(len(chunks) / world)
        costs = sum(_cost((place,), sizes) for place in order)
        # A little more than the even share, lest rounding leave a chunk of crumbs.
        chunks = list(_cut(order, sizes, budget, 1.05 * costs / shares))
    while len(chunks) % world and any(len(chunk) > 1 for chunk in chunks):
        number = max(
            (i for i, chunk in enumerate(chunks) if len(chunk) > 1),
            key=lambda i: _cost(chunks[i], sizes),
        )
        middle = len(chunks[number]) // 2
        chunks[number : number + 1] = [chunks[number][:middle], chunks[number][middle:]]
    dummies = [Cut(chunk[:1], dummy=True) for chunk in chunks[:1]] * (-len(chunks) % world)
    return [Cut(chunk) for chunk in chunks] + dummies


def _cut(
    order: Sequence[int], sizes: Sequence[Size], budget: Budget, most: float | int
) -> Iterator[tuple[int, ...]]:
    """Yield chunks of one kind that fit in the budget and cost at most `most`."""
    chunk: list[int] = []
    load = _Load()
    for place in order:
        grown = load.plus(sizes[place])
        fits = grown.fits(budget) and grown.cost <= most
        if chunk and (_kind(sizes[chunk[0]]) != _kind(sizes[place]) or not fits):
            yield tuple(chunk)
            chunk, grown = [], _Load().plus(sizes[place])
        chunk.append(place)
        load = grown
    if chunk:
        yield tuple(chunk)


def _deal(cuts: list[Cut], sizes: Sequence[Size], hands: list[list[Cut]]) -> None:
    """Deal chunks of like cost to all processes at a time, the direction turning every round."""
    if len(hands) > 1:
        cuts = sorted(cuts, key=lambda cut: 0 if cut.dummy else _cost(cut.places, sizes))
    for number, cut in enumerate(cuts):
        turn, seat = divmod(number, len(hands))
        hands[seat if turn % 2 == 0 else -1 - seat].append(cut)


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

    @property
    def cost(self) -> int:
        """Its share of the time: padded tokens, and patches in the vision tower."""
        return self.padded + self.pixels // PIXELS_PER_PATCH

    def fits(self, budget: Budget) -> bool:
        wasteful = self.items > SMALLEST_CHUNK and self.padded > PADDING_WASTE * self.tokens
        return not wasteful and _within(self.items, self.padded, self.pixels, budget)


def _kind(size: Size) -> tuple[bool, int]:
    return size.pixels > 0, size.group


def _padded(chunk: Sequence[int], sizes: Sequence[Size]) -> int:
    return len(chunk) * max(sizes[place].tokens for place in chunk)


def _cost(chunk: Sequence[int], sizes: Sequence[Size]) -> int:
    load = _Load()
    for place in chunk:
        load = load.plus(sizes[place])
    return load.cost


def _within(items: int, tokens: int, pixels: int, budget: Budget) -> bool:
    return items <= budget.items and tokens <= budget.tokens and pixels <= budget.pixels


def _count_kept(cuts: Sequence[Cut], sizes: Sequence[Size], budget: Budget) -> int:
    items = tokens = pixels = 0
    for kept, cut in enumerate(reversed(cuts)):
        items += len(cut.places)
        tokens += _padded(cut.places, sizes)
        pixels += sum(sizes[place].pixels for place in cut.places)
        # The last chunk keeps its graph whatever it costs: it would have to live anyway.
        if kept and not _within(items, tokens, pixels, budget):
            return kept
    return len(cuts)
