"""From a global batch's distinct inputs to chunks that fit in memory and waste little padding.

The plan is a pure function of sizes, budget and the number of processes: every process computes
the same one, without a word between them. Each gets equally many chunks, image chunks at the same
places as the others: a model that is sharded over the processes (FSDP2, ZeRO-3) hangs otherwise.

Sizes are an int64 array `(inputs, 3)`, estimated before anything is tokenised or decoded:

* `TOKENS`: of text and image together;
* `PIXELS`: of the resized image, 0 without one;
* `GROUP`: inputs of one group begin with the same prompt, which a chunk then computes once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int
from pydantic import Field

from unime.core.config import Section
from unime.models.model_config import ModelConfig

TOKENS, PIXELS, GROUP = range(3)
"""Columns of an array of sizes."""
PROMPT_TOKENS = 48
"""Rough length of the system text, template and instruction around a content."""
CHARACTERS_PER_TOKEN = 4
PIXELS_PER_TOKEN = 28 * 28
PIXELS_PER_PATCH = 14 * 14
PADDING_WASTE = 1.25
"""A chunk of at least SMALLEST_CHUNK inputs ends where padding would exceed a quarter of it."""
SMALLEST_CHUNK = 16
AUTO = 16


class ChunkBudget(Section):
    """How much may be in one forward pass, and how much may keep its graph at once."""

    tokens: int = Field(default=8192, gt=0)
    """Padded tokens: the longest input's, times the inputs."""
    pixels: int = Field(default=8_000_000, gt=0)
    items: int = Field(default=1024, gt=0)
    chunk: Literal["auto"] | None = None
    """"auto": AUTO times the numbers above is tried when training starts, on the worst chunk at
    hand, and halved until it fits. On CPUs, which do not say when they run out, nothing is tried."""
    vision_cache_gb: float = Field(default=1.0, ge=0)
    """Features of a frozen vision tower that the first pass keeps for the second."""

    def largest(self) -> ChunkBudget:
        """Return what is tried first."""
        if self.chunk != "auto":
            return self
        return self.model_copy(
            update={key: AUTO * getattr(self, key) for key in ("tokens", "pixels", "items")}
        )

    def halved(self) -> ChunkBudget:
        """Return half of it, for a chunk that did not fit in memory."""
        smaller = {key: max(1, getattr(self, key) // 2) for key in ("tokens", "pixels", "items")}
        return self.model_copy(update=smaller)


class ChunkPlan(NamedTuple):
    """Of each rank its chunks: text-only ones first, short before long."""

    chunks: tuple[tuple[tuple[int, ...], ...], ...]
    """Of each rank, of each chunk, the places of its inputs in the batch."""
    dummies: tuple[tuple[bool, ...], ...]
    """Whether a chunk only takes part in the forward passes: another rank has a chunk here, this
    one none. It holds one input that counts elsewhere."""
    kept: int
    """The last so many chunks of a rank fit in the budget together: they keep their graph from the
    first pass and need no second. All of them, when the rank's part fits."""

    def places(self, rank: int) -> list[int]:
        """Return the places a rank encodes, chunk after chunk."""
        chunks = zip(self.chunks[rank], self.dummies[rank], strict=True)
        return [place for chunk, is_dummy in chunks if not is_dummy for place in chunk]


def estimate_sizes(
    characters: Int[np.ndarray, " inputs"],
    pixels: Int[np.ndarray, " inputs"],
    model: ModelConfig,
    side: str = "query",
) -> Int[np.ndarray, "inputs 3"]:
    """Estimate the sizes of inputs.

    Args:
        characters: length of each text, instruction included.
        pixels: width times height of each image file, 0 without image.
        model: its pixel limits say what an image is resized to.
        side: "query" or "target"; their prompts differ.
    """
    resized = np.where(pixels > 0, np.clip(pixels, model.min_pixels, model.max_pixels), 0)
    tokens = PROMPT_TOKENS + characters // CHARACTERS_PER_TOKEN + resized // PIXELS_PER_TOKEN
    group = np.full(len(tokens), int(side == "target"))
    sizes = np.stack([np.minimum(tokens, model.max_length), resized, group], axis=1)
    return sizes.astype(np.int64)


def plan_chunks(
    sizes: Int[np.ndarray, "inputs 3"], budget: ChunkBudget, world: int = 1
) -> ChunkPlan:
    """Cut a batch into chunks and assign them to the ranks.

    A chunk holds one kind: images or plain texts, because padded together short texts would pay
    for the image's tokens; queries or targets, because their prompts differ. An input that alone
    exceeds the budget gets a chunk of its own.

    Args:
        sizes: of each distinct input of the global batch.
        budget: of one forward pass.
        world: how many ranks share the batch.
    """
    # Plain tuples: what follows goes through the inputs one by one.
    known = [_Size(*row) for row in sizes.tolist()]
    order = sorted(range(len(known)), key=lambda place: (_kind(known[place]), known[place], place))
    per_rank: list[list[_Planned]] = [[] for _ in range(world)]
    for with_image in (False, True):
        alike = [place for place in order if (known[place].pixels > 0) is with_image]
        _assign(_cut_for(world, alike, known, budget), known, per_rank)
    return ChunkPlan(
        chunks=tuple(tuple(chunk.places for chunk in chunks) for chunks in per_rank),
        dummies=tuple(tuple(chunk.is_dummy for chunk in chunks) for chunks in per_rank),
        kept=min(_count_kept(chunks, known, budget) for chunks in per_rank),
    )


class _Size(NamedTuple):
    tokens: int
    pixels: int
    group: int


class _Planned(NamedTuple):
    places: tuple[int, ...]
    is_dummy: bool = False


def _cut_for(
    world: int, order: Sequence[int], sizes: Sequence[_Size], budget: ChunkBudget
) -> list[_Planned]:
    """Cut inputs of one modality into as many chunks as the ranks can share evenly.

    For several ranks chunks are also of like cost, so that none waits for another. Where nothing
    can be split any more, dummies of a single input fill up.
    """
    chunks = list(_cut(order, sizes, budget, math.inf))
    if world > 1 and chunks:
        count = world * math.ceil(len(chunks) / world)
        costs = sum(_cost((place,), sizes) for place in order)
        # A little more than the mean, lest rounding leave a very small chunk over.
        chunks = list(_cut(order, sizes, budget, 1.05 * costs / count))
    while len(chunks) % world and any(len(chunk) > 1 for chunk in chunks):
        number = max(
            (i for i, chunk in enumerate(chunks) if len(chunk) > 1),
            key=lambda i: _cost(chunks[i], sizes),
        )
        middle = len(chunks[number]) // 2
        chunks[number : number + 1] = [chunks[number][:middle], chunks[number][middle:]]
    dummies = [_Planned(chunk[:1], is_dummy=True) for chunk in chunks[:1]] * (-len(chunks) % world)
    return [_Planned(chunk) for chunk in chunks] + dummies


def _cut(
    order: Sequence[int], sizes: Sequence[_Size], budget: ChunkBudget, most: float | int
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


def _assign(chunks: list[_Planned], sizes: Sequence[_Size], per_rank: list[list[_Planned]]) -> None:
    """Give every rank one chunk of like cost a round, the direction turning every round."""
    world = len(per_rank)
    if world > 1:
        chunks = sorted(chunks, key=lambda c: 0 if c.is_dummy else _cost(c.places, sizes))
    for number, chunk in enumerate(chunks):
        round_, place = divmod(number, world)
        per_rank[place if round_ % 2 == 0 else -1 - place].append(chunk)


class _Load(NamedTuple):
    """What is in a chunk whose inputs come in order of size."""

    items: int = 0
    longest: int = 0
    tokens: int = 0
    pixels: int = 0

    def plus(self, size: _Size) -> _Load:
        longest = max(self.longest, size.tokens)
        return _Load(self.items + 1, longest, self.tokens + size.tokens, self.pixels + size.pixels)

    @property
    def padded(self) -> int:
        return self.items * self.longest

    @property
    def cost(self) -> int:
        """Its share of the time: padded tokens, and patches in the vision tower."""
        return self.padded + self.pixels // PIXELS_PER_PATCH

    def fits(self, budget: ChunkBudget) -> bool:
        wasteful = self.items > SMALLEST_CHUNK and self.padded > PADDING_WASTE * self.tokens
        return not wasteful and _within(self.items, self.padded, self.pixels, budget)


def _kind(size: _Size) -> tuple[bool, int]:
    return size.pixels > 0, size.group


def _padded(chunk: Sequence[int], sizes: Sequence[_Size]) -> int:
    return len(chunk) * max(sizes[place].tokens for place in chunk)


def _cost(chunk: Sequence[int], sizes: Sequence[_Size]) -> int:
    load = _Load()
    for place in chunk:
        load = load.plus(sizes[place])
    return load.cost


def _within(items: int, tokens: int, pixels: int, budget: ChunkBudget) -> bool:
    return items <= budget.items and tokens <= budget.tokens and pixels <= budget.pixels


def _count_kept(chunks: Sequence[_Planned], sizes: Sequence[_Size], budget: ChunkBudget) -> int:
    items = tokens = pixels = 0
    for kept, chunk in enumerate(reversed(chunks)):
        items += len(chunk.places)
        tokens += _padded(chunk.places, sizes)
        pixels += sum(sizes[place].pixels for place in chunk.places)
        # The last chunk keeps its graph whatever it costs: it would have to live anyway.
        if kept and not _within(items, tokens, pixels, budget):
            return kept
    return len(chunks)
