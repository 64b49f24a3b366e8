"""The student's first lessons: its vision tower learns what stands where, before any words.

A vision-language model starts from a vision tower that can see. No such weights ship in packages, so
this one is taught on scenes whose truth is known: every image token whose square holds a thing's
centre names the thing's kind, colour, size, texture and place. It costs a tenth of a worded lesson.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from research.world.base_batch import WIDTH, patches_of
from research.world.base_lessons import is_held
from research.world.base_tokenizer import SIDE
from research.world.render import centre, crop, render
from research.world.sample import sample_scene, sprite_names
from research.world.scene import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    NATURAL,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
)

NOTHING = -100  # what cross entropy leaves out
CROP_SHARE = 0.15
SCALE = 10.0  # of logits at the beginning: embeddings are small
WINDOW = 32  # pixels of a crop's side before it is doubled
FIELDS = ("kind", "colour", "size", "texture", "cell", "background")


class SightBatch(NamedTuple):
    """Pictures, and what each image token is to say."""

    patches: Float[Tensor, "images patches values"]
    present: Float[Tensor, "images tokens"]
    """1 where a thing's centre is, else 0."""
    values: Int[Tensor, "images tokens fields"]
    """Numbers of the words of FIELDS; NOTHING where there is no thing."""


class SightHeads(nn.Module):
    """What reads the image tokens, through the language model's own words.

    A token that shows a red circle is to lie near the embeddings of "red" and "circle": what the tower
    see is then said and compared in words without learning a dictionary first.
    """

    def __init__(self, words: nn.Embedding, tokenizer: Tokenizer, partition: str = "base") -> None:
        super().__init__()
        self._words = (words,)  # a tuple, so that the embedding is not saved twice
        self._tokens = [_tokens_of(field, tokenizer) for field in vocabulary(partition)]
        self.present = nn.Linear(words.embedding_dim, 1)
        self.scales = nn.Parameter(torch.full((len(self._tokens),), SCALE))

    def forward(self, features: Float[Tensor, "tokens hidden"]) -> tuple[Tensor, list[Tensor]]:
        """Return the logit of there being a thing, and one table of logits a field."""
        (words,) = self._words
        fields = [
            scale * features @ functional.embedding_bag(tokens, words.weight, offsets).T
            for (tokens, offsets), scale in zip(self._tokens, self.scales, strict=True)
        ]
        return self.present(features).squeeze(-1), fields


def _tokens_of(field: Mapping[str, int], tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Return the tokens of a field's words, one after the other, and where each begins."""
    found = [tokenizer.encode(f" {one}", add_special_tokens=False).ids for one in field]
    starts = [0, *accumulate(map(len, found))][:-1]
    return torch.tensor([token for ids in found for token in ids]), torch.tensor(starts)


@lru_cache(maxsize=2)
def vocabulary(partition: str) -> tuple[dict[str, int], ...]:
    """Number the words of every field; kinds are the shapes and the partition's own sprites."""
    kinds = (*SHAPES, *sprite_names(partition))
    fields = (kinds, (*COLOURS, NATURAL), SIZES, TEXTURES, CELLS, BACKGROUNDS)
    return tuple({word: number for number, word in enumerate(words)} for words in fields)


def sight_batches(
    rng: np.random.Generator,
    size: int,
    number: int,
    objects: tuple[int, int] = (1, 5),
    held: bool = False,
    partition: str = "base",
) -> list[SightBatch]:
    """Draw `size` pictures and split them into `number` batches.

    Args:
        rng: Where all randomness comes from.
        size: Pictures in all.
        number: Batches.
        objects: Least and most number of things in a scene.
        held: Take scenes that are kept for evaluation, else others.
        partition: Whose scenes and sprites.
    """
    drawn = [_picture(rng, objects, held, partition) for _ in range(size)]
    part = -(-size // number)
    known = vocabulary(partition)
    return [_collate(drawn[start : start + part], known) for start in range(0, size, part)]


def sight_loss(
    heads: SightHeads, features: Float[Tensor, "tokens hidden"], batch: SightBatch
) -> Tensor:
    """Return the mean loss a picture, in nats a token and a field."""
    present, fields = heads(features)
    loss = functional.binary_cross_entropy_with_logits(present, batch.present.flatten())
    for logits, target in zip(fields, batch.values.flatten(0, 1).unbind(-1), strict=True):
        named = (target != NOTHING).sum().clamp(min=1)  # crops alone have no places
        total = functional.cross_entropy(logits, target, ignore_index=NOTHING, reduction="sum")
        loss = loss + total / named
    return loss


def sight_accuracy(
    heads: SightHeads, features: Float[Tensor, "tokens hidden"], batch: SightBatch
) -> dict[str, float]:
    """Return how often each field of a thing is named right."""
    _, fields = heads(features)
    found = {}
    for name, logits, target in zip(
        FIELDS, fields, batch.values.flatten(0, 1).unbind(-1), strict=True
    ):
        kept = target != NOTHING
        right = logits[kept].argmax(-1) == target[kept]
        found[name] = round(float(right.float().mean()), 4)
    return found


class _Seen(NamedTuple):
    """A picture and its things with their places in it, in pixels."""

    pixels: np.ndarray
    things: list[tuple[Thing, int, int]]
    background: str
    whole: bool
    """Whether it is the whole scene: in a crop, a thing's place is another one."""


def _picture(
    rng: np.random.Generator, objects: tuple[int, int], held: bool, partition: str
) -> _Seen:
    """Draw a scene, whole or cropped to one of its things."""
    scene = sample_scene(rng, partition, objects=objects)
    while is_held(scene) != held:
        scene = sample_scene(rng, partition, objects=(max(2, objects[0]), max(2, objects[1])))
    things = [(thing, *centre(thing)) for thing in scene.things]
    if rng.random() >= CROP_SHARE:
        return _Seen(render(scene), things, scene.background, whole=True)
    return _cropped(scene, things, int(rng.integers(len(things))))


def _cropped(scene: Scene, things: Sequence[tuple[Thing, int, int]], index: int) -> _Seen:
    """Crop to one thing; others stay as far as their centres are inside."""
    thing, column, row = things[index]
    left, top = (min(max(place - WINDOW // 2, 0), SIDE - WINDOW) for place in (column, row))
    zoom = SIDE // WINDOW
    inside = [
        (other, zoom * (x - left), zoom * (y - top))
        for other, x, y in things
        if 0 <= x - left < WINDOW and 0 <= y - top < WINDOW
    ]
    return _Seen(crop(render(scene), thing, WINDOW), inside, scene.background, whole=False)


def _collate(drawn: Sequence[_Seen], known: tuple[dict[str, int], ...]) -> SightBatch:
    tokens, square = WIDTH * WIDTH, SIDE // WIDTH
    present = np.zeros((len(drawn), tokens), np.float32)
    values = np.full((len(drawn), tokens, len(FIELDS)), NOTHING, np.int64)
    kinds, colours, sizes, textures, cells, backgrounds = known
    for number, seen in enumerate(drawn):
        values[number, :, -1] = backgrounds[seen.background]
        for thing, column, row in seen.things:
            token = row // square * WIDTH + column // square
            present[number, token] = 1
            values[number, token, :-1] = (
                kinds[thing.kind],
                colours[thing.colour],
                sizes[thing.size],
                textures[thing.texture],
                cells[CELLS[thing.cell]] if seen.whole else NOTHING,
            )
    return SightBatch(
        patches_of(np.stack([seen.pixels for seen in drawn])),
        torch.from_numpy(present),
        torch.from_numpy(values),
    )
