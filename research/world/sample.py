"""Draw scenes at random, in partitions that never share an inventory of things."""

from __future__ import annotations

import zlib

import numpy as np

from research.world import sprites
from research.world.scene import (
    BACKGROUNDS,
    COLOURS,
    NATURAL,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
)

PARTITIONS = ("base", "judge", "train", "eval")
_SHARES = ("base",) * 4 + ("judge",) * 2 + ("train",) * 2 + ("eval",) * 2
SPRITE_SHARE = 0.15
"""How many things are sprites: each has a name of its own, seen a few times only."""
_SIZE_ODDS, _TEXTURE_ODDS = (0, 1, 1), (0, 0, 1, 2)  # large and solid are twice as common


def partition_of(scene: Scene) -> str:
    """Return the only partition that may hold this scene; moving things never changes it."""
    return _SHARES[zlib.crc32(scene.inventory.encode()) % len(_SHARES)]


def is_held_colour(sprite: str, colour: str) -> bool:
    """Tell whether a sprite in this colour is kept for out-of-distribution evaluation."""
    return colour != NATURAL and zlib.crc32(f"{colour} {sprite}".encode()) % 5 == 0


def is_held_relation(first: str, relation: str, second: str) -> bool:
    """Tell whether this pair of kinds in this relation is never put into words in training."""
    axis = "across" if relation in ("left of", "right of") else "along"
    pair = " ".join(sorted((first, second)))
    return zlib.crc32(f"{axis} {pair}".encode()) % 8 == 0


def sprite_names(partition: str, held: bool = False) -> tuple[str, ...]:
    """Return the sprites of a partition; "base" and "judge" share none.

    Training and evaluation use both of theirs and some more; the held ones nobody trains on.
    """
    if held:
        return _sprite_groups()["held"]
    own = ("base", "judge", "train") if partition in ("train", "eval") else (partition,)
    return tuple(name for group in own for name in _sprite_groups()[group])


def _sprite_groups() -> dict[str, tuple[str, ...]]:
    """Deal the atlas, in alphabetical order, over the groups."""
    cycle = ("base", "judge", "train", "held")
    names = sorted(sprites.load())
    return {g: tuple(names[i::4]) for i, g in enumerate(cycle)}


def sample_scene(
    rng: np.random.Generator,
    partition: str,
    ood: bool = False,
    objects: tuple[int, int] = (2, 5),
    sprite_share: float = SPRITE_SHARE,
) -> Scene:
    """Draw a scene of the partition.

    Args:
        rng: Where all randomness comes from.
        partition: One of PARTITIONS.
        ood: Whether at least one thing is a held-out sprite, or a known sprite in a colour held out
            for it; without it there is none.
        objects: Least and most number of things.
        sprite_share: How likely a thing is a sprite, as far as there are sprites.

    Returns:
        A scene whose `partition_of` is the partition.
    """
    assert partition in PARTITIONS, partition
    while True:
        number = int(rng.integers(objects[0], objects[1] + 1))
        cells = rng.permutation(9)[:number]
        things = [sample_thing(rng, partition, int(cell), sprite_share) for cell in cells]
        if ood:
            things[0] = sample_held_sprite(rng, int(cells[0]))
            order = rng.permutation(number)
            things = [things[i] for i in order]
        scene = Scene(tuple(things), BACKGROUNDS[rng.integers(len(BACKGROUNDS))])
        looks = {thing.look for thing in things}
        if len(looks) == number and partition_of(scene) == partition:
            return scene


def sample_thing(
    rng: np.random.Generator, partition: str, cell: int, sprite_share: float = SPRITE_SHARE
) -> Thing:
    """Draw one thing for a cell: a shape, or a sprite of the partition."""
    names = sprite_names_cached(partition)
    kind, colour, size, texture, right, down = rng.integers(1 << 30, size=6).tolist()
    shift = (right % 5 - 2, down % 5 - 2)
    if names and rng.random() < sprite_share:
        name = names[kind % len(names)]
        tint = COLOURS[colour % len(COLOURS)] if colour % 3 else NATURAL
        if is_held_colour(name, tint):
            tint = NATURAL
        return Thing(name, tint, "large", "solid", cell, shift)
    return Thing(
        SHAPES[kind % len(SHAPES)],
        COLOURS[colour % len(COLOURS)],
        SIZES[_SIZE_ODDS[size % len(_SIZE_ODDS)]],
        TEXTURES[_TEXTURE_ODDS[texture % len(_TEXTURE_ODDS)]],
        cell,
        shift,
    )


def sample_held_sprite(rng: np.random.Generator, cell: int) -> Thing:
    """Draw a held-out sprite, or a training sprite in a colour held out for it."""
    shift = (int(rng.integers(-2, 3)), int(rng.integers(-2, 3)))
    if rng.random() < 0.5:
        held = sprite_names("eval", held=True)
        return Thing(held[rng.integers(len(held))], NATURAL, "large", "solid", cell, shift)
    known = sprite_names_cached("eval")
    while True:
        name, colour = known[rng.integers(len(known))], COLOURS[rng.integers(len(COLOURS))]
        if is_held_colour(name, colour):
            return Thing(name, colour, "large", "solid", cell, shift)


_NAMES: dict[str, tuple[str, ...]] = {}


def sprite_names_cached(partition: str) -> tuple[str, ...]:
    """Like `sprite_names`, looked up once."""
    if partition not in _NAMES:
        _NAMES[partition] = sprite_names(partition)
    return _NAMES[partition]
