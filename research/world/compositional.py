"""Seven categories of captions made false by a small change, in SugarCrepe's terms.

Two scenes and two captions, each true of its own scene only, make two items: each caption is once the
right one and once the negative. The texts alone therefore tell nothing. For the same reason the add_*
categories compare a caption that adds something present with one that adds something absent, and not
a shorter with a longer one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from research.world.edits import change_attribute, exchange_places, swap_attribute
from research.world.language import mention, pick, relation_is_held, with_thing, word
from research.world.sample import partition_of, sample_scene
from research.world.scene import (
    COLOURS,
    OPPOSITE,
    SHAPES,
    Scene,
    Spec,
    Thing,
    ThingSpec,
    matches,
    relations,
)


class CaptionedSide(NamedTuple):
    """A scene and what is true of it, and false of the other side's scene."""

    scene: Scene
    spec: Spec


class CompositionalExample(NamedTuple):
    """One test: the caption is true of the scene, the negative is not."""

    scene: Scene
    caption: str
    negative: str
    negative_spec: Spec


Sides = tuple[CaptionedSide, CaptionedSide] | None


def items(
    category: str, count: int, partition: str, rng: np.random.Generator
) -> list[CompositionalExample]:
    """Draw the items of a category."""
    made: list[CompositionalExample] = []
    while len(made) < count:
        scene = sample_scene(rng, partition, sprite_share=0.15)
        first, second = rng.permutation(len(scene.things))[:2].tolist()
        said = _say(scene, first, second, rng)
        sides = said and CATEGORIES[category](CaptionedSide(scene, said), (first, second), rng)
        if sides is not None and _sound(sides, partition):
            made += _both_ways(sides, partition, rng)
    return made[:count]


def _sound(sides: tuple[CaptionedSide, CaptionedSide], partition: str) -> bool:
    """Check that each caption is true of its own scene only, and both scenes are allowed."""
    (scene, spec), (other_scene, other_spec) = sides
    return (
        matches(spec, scene)
        and matches(other_spec, other_scene)
        and not matches(spec, other_scene)
        and not matches(other_spec, scene)
        and partition_of(other_scene) == partition
    )


def _both_ways(
    sides: tuple[CaptionedSide, CaptionedSide], partition: str, rng: np.random.Generator
) -> list[CompositionalExample]:
    """Word both captions alike, and make an item of each scene."""
    wording = int(rng.integers(1 << 30))
    one, other = (
        word(side.spec, np.random.default_rng(wording), partition, synonyms=0.0) for side in sides
    )
    return [
        CompositionalExample(sides[0].scene, one, other, sides[1].spec),
        CompositionalExample(sides[1].scene, other, one, sides[0].spec),
    ]


def _say(scene: Scene, first: int, second: int, rng: np.random.Generator) -> Spec | None:
    """Describe two things, in a relation where one is sayable."""
    pair = tuple(mention(scene.things[i], rng, 0.5) for i in (first, second))
    found = [r for r in relations(scene) if (r[0], r[2]) == (first, second)]
    found = [r for r in found if not relation_is_held(scene, r)]
    if not found:
        return None
    return Spec(pair, ((0, pick(rng, found)[1], 1),))


def _replace_attribute(
    side: CaptionedSide, pair: tuple[int, int], rng: np.random.Generator
) -> Sides:
    """Another colour, size or texture for one thing."""
    fields = ("colour", "size", "texture")
    named = [f for f in fields if getattr(side.spec.things[0], f)]
    return _replaced(side, pair[0], (pick(rng, named),), rng) if named else None


def _replace_object(side: CaptionedSide, pair: tuple[int, int], rng: np.random.Generator) -> Sides:
    """Another kind for one thing."""
    return _replaced(side, pair[0], ("kind",), rng)


def _replaced(
    side: CaptionedSide, index: int, fields: tuple[str, ...], rng: np.random.Generator
) -> Sides:
    changed = change_attribute(side.scene, index, rng, fields)
    if changed is None or changed[1] not in fields:
        return None
    scene, field = changed
    value = getattr(scene.things[index], field)
    return side, CaptionedSide(scene, with_thing(side.spec, 0, **{field: value}))


def _replace_relation(
    side: CaptionedSide, pair: tuple[int, int], rng: np.random.Generator
) -> Sides:
    """The opposite relation."""
    first, relation, second = side.spec.relations[0]
    turned = dataclasses.replace(side.spec, relations=((first, OPPOSITE[relation], second),))
    return side, CaptionedSide(exchange_places(side.scene, *pair), turned)


def _swap_object(side: CaptionedSide, pair: tuple[int, int], rng: np.random.Generator) -> Sides:
    """The kinds of two shapes exchanged."""
    one, other = (side.scene.things[i] for i in pair)
    if one.kind == other.kind or one.is_sprite or other.is_sprite:
        return None
    scene = side.scene.replace_thing(pair[0], kind=other.kind)
    scene = scene.replace_thing(pair[1], kind=one.kind)
    spec = with_thing(with_thing(side.spec, 0, kind=other.kind), 1, kind=one.kind)
    return side, CaptionedSide(scene, spec)


def _swap_attribute(side: CaptionedSide, pair: tuple[int, int], rng: np.random.Generator) -> Sides:
    """The colours, sizes or textures of two things exchanged."""
    changed = swap_attribute(side.scene, *pair, rng)
    if changed is None:
        return None
    scene, field = changed
    one, other = (getattr(side.scene.things[i], field) for i in pair)
    said = with_thing(with_thing(side.spec, 0, **{field: one}), 1, **{field: other})
    swapped = with_thing(with_thing(side.spec, 0, **{field: other}), 1, **{field: one})
    return CaptionedSide(side.scene, said), CaptionedSide(scene, swapped)


def _add_object(side: CaptionedSide, pair: tuple[int, int], rng: np.random.Generator) -> Sides:
    """A third thing: one that is there, or one that is not."""
    rest = [i for i in range(len(side.scene.things)) if i not in pair]
    if not rest:
        return None
    index = pick(rng, rest)
    there = side.scene.things[index]
    if there.is_sprite:
        return None
    absent = dataclasses.replace(there, kind=pick(rng, SHAPES), colour=_another_colour(there, rng))
    if absent.kind == there.kind:
        return None
    scene = side.scene.replace_thing(index, kind=absent.kind, colour=absent.colour)
    return CaptionedSide(side.scene, _with(side.spec, there)), CaptionedSide(
        scene, _with(side.spec, absent)
    )


def _another_colour(thing: Thing, rng: np.random.Generator) -> str:
    return pick(rng, [colour for colour in COLOURS if colour != thing.colour])


def _with(spec: Spec, thing: Thing) -> Spec:
    return dataclasses.replace(spec, things=(*spec.things, ThingSpec(thing.kind, thing.colour)))


def _add_attribute(side: CaptionedSide, pair: tuple[int, int], rng: np.random.Generator) -> Sides:
    """One more attribute: a true one of the first thing, or a false one of the second."""
    if any(side.scene.things[i].is_sprite for i in pair):
        return None
    options = ("colour", "size", "texture")
    one = pick(rng, options)
    other = pick(rng, options)
    second = change_attribute(side.scene, pair[1], rng, (other,))
    both = second and change_attribute(second[0], pair[0], rng, (one,))
    if not both:
        return None
    scene = both[0]
    bare = with_thing(with_thing(side.spec, 0, **{one: ""}), 1, **{other: ""})
    value = getattr(side.scene.things[pair[0]], one)
    new = getattr(scene.things[pair[1]], other)
    said = with_thing(bare, 0, **{one: value})
    added = with_thing(bare, 1, **{other: new})
    return CaptionedSide(side.scene, said), CaptionedSide(scene, added)


CATEGORIES: dict[str, Callable[[CaptionedSide, tuple[int, int], np.random.Generator], Sides]] = {
    "replace_obj": _replace_object,
    "replace_att": _replace_attribute,
    "replace_rel": _replace_relation,
    "swap_obj": _swap_object,
    "swap_att": _swap_attribute,
    "add_obj": _add_object,
    "add_att": _add_attribute,
}
