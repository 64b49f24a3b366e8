"""The classification tasks: one thing stands out, and its name, place or colour is the label."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from research.world import words
from research.world.examples import (
    Example,
    Family,
    GenerationPlan,
    ScenePicture,
    WorldContent,
    WorldTask,
)
from research.world.language import pick
from research.world.planting import Synonyms
from research.world.sample import is_held_colour, partition_of, sample_thing, sprite_names
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
    ThingSpec,
)
from research.world.truth import Meaning

CLASSES = 100
"""Most labels a list may hold."""

_UNSTRIPED = tuple(texture for texture in TEXTURES if texture != "striped")

MakeThing = Callable[[np.random.Generator, str], Thing]
"""Draws the thing that stands out in a partition; its cell is replaced."""


def _striped(rng: np.random.Generator, partition: str) -> Thing:
    return Thing(pick(rng, SHAPES), pick(rng, COLOURS), pick(rng, SIZES), "striped", 0)


def _shape(rng: np.random.Generator, partition: str) -> Thing:
    return Thing(pick(rng, SHAPES), pick(rng, COLOURS), "large", pick(rng, TEXTURES), 0)


def _sprite(rng: np.random.Generator, partition: str) -> Thing:
    names = sprite_classes() if partition in ("train", "eval") else sprite_names(partition)
    name, colour = pick(rng, names), pick(rng, COLOURS)
    tinted = rng.random() < 0.4 and not is_held_colour(name, colour)
    return Thing(name, colour if tinted else NATURAL, "large", "solid", 0)


def _coloured_sprite(rng: np.random.Generator, partition: str) -> Thing:
    colour, name = pick(rng, coloured_sprite_classes())
    return Thing(name, colour, "large", "solid", 0)


@lru_cache(maxsize=1)
def sprite_classes() -> tuple[str, ...]:
    """The sprites whose names are labels."""
    return tuple(
        sorted(sprite_names("train"), key=lambda name: zlib.crc32(name.encode()))[:CLASSES]
    )


@lru_cache(maxsize=1)
def coloured_sprite_classes() -> tuple[tuple[str, str], ...]:
    """(colour, sprite) pairs never seen together in training; several share a sprite."""
    held = [(c, name) for name in sprite_classes() for c in COLOURS if is_held_colour(name, c)]
    return tuple(held[:CLASSES])


def standing_out(rng: np.random.Generator, partition: str, make: MakeThing) -> tuple[Scene, int]:
    """Draw a scene with one thing that stands out; return it and that thing's index.

    It is the only striped one, or else the only large one.
    """
    while True:
        number = int(rng.integers(2, 6))
        cells = rng.permutation(9)[:number].tolist()
        things = [sample_thing(rng, partition, cell, 0.0) for cell in cells]
        if make is _striped:
            things = [dataclasses.replace(t, texture=pick(rng, _UNSTRIPED)) for t in things]
        else:
            things = [dataclasses.replace(thing, size="small") for thing in things]
        shift = (int(rng.integers(-2, 3)), int(rng.integers(-2, 3)))
        things[0] = dataclasses.replace(make(rng, partition), cell=cells[0], shift=shift)
        order = rng.permutation(number).tolist()
        scene = Scene(tuple(things[i] for i in order), pick(rng, BACKGROUNDS))
        if partition_of(scene) == partition and len({t.look for t in things}) == number:
            return scene, order.index(0)


def _generate(
    plan: GenerationPlan,
    make: MakeThing,
    label: Callable[[Scene, int], tuple[str, Meaning, Meaning]],
) -> list[Family]:
    """Draw pictures and label them; a share of the classes also go by a synonym."""
    drawn = [standing_out(plan.rng, plan.partition, make) for _ in range(plan.pairs)]
    labels = [label(scene, index) for scene, index in drawn]
    synonyms = Synonyms(plan, [text for text, _, _ in labels])
    families = []
    for (scene, _), (text, wanted, said) in zip(drawn, labels, strict=True):
        query = WorldContent("", ScenePicture(scene), wanted)
        families.append([Example(query, synonyms.say(text, said))])
    synonyms.record([example for family in families for example in family])
    return families


def _full_name(scene: Scene, index: int) -> tuple[str, Meaning, Meaning]:
    thing = scene.things[index]
    return f"{thing.colour} {thing.kind}", thing, ThingSpec(thing.kind, thing.colour)


def _kind(scene: Scene, index: int) -> tuple[str, Meaning, Meaning]:
    thing = scene.things[index]
    return thing.kind, thing, ThingSpec(thing.kind)


def _layout(scene: Scene, index: int) -> tuple[str, Meaning, Meaning]:
    text = _place(CELLS[scene.things[index].cell], len(scene.things) - 1)
    return text, text, text


def _place(cell: str, others: int) -> str:
    return f"{cell} with {words.NUMBERS[others]}"


def _labels(pairs: Sequence[tuple[str, str]]) -> list[WorldContent]:
    return [WorldContent(f"{c} {kind}", None, ThingSpec(kind, c)) for c, kind in pairs]


def _layout_labels() -> list[WorldContent]:
    texts = [_place(cell, others) for cell in CELLS for others in range(1, 5)]
    return [WorldContent(text, None, text) for text in texts]


TASKS = [
    WorldTask(
        name="shapes",
        meta_task="classification",
        query_instruction="Name the color and the shape of the only striped object in the picture",
        target_instruction="",
        generate=lambda plan: _generate(plan, _striped, _full_name),
        in_batch=False,
        classes=lambda: _labels([(colour, kind) for colour in COLOURS for kind in SHAPES]),
    ),
    WorldTask(
        name="sprites",
        meta_task="classification",
        query_instruction="Recognize the large object among the small shapes",
        target_instruction="",
        generate=lambda plan: _generate(plan, _sprite, _kind),
        in_batch=False,
        classes=lambda: [WorldContent(name, None, ThingSpec(name)) for name in sprite_classes()],
    ),
    WorldTask(
        name="layout",
        meta_task="classification",
        query_instruction="Tell the place of the large object and how many small ones there are",
        target_instruction="",
        generate=lambda plan: _generate(plan, _shape, _layout),
        in_batch=False,
        classes=_layout_labels,
    ),
    WorldTask(
        name="sprite_colors",
        meta_task="classification",
        query_instruction="Name the color and the kind of the large object in the picture",
        target_instruction="",
        generate=lambda plan: _generate(plan, _coloured_sprite, _full_name),
        trained=False,
        in_batch=False,
        classes=lambda: _labels(coloured_sprite_classes()),
    ),
]
