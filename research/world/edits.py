"""Change scenes by one thing at a time, inside their partition."""

from __future__ import annotations

import dataclasses

import numpy as np

from research.world.language import pick
from research.world.sample import is_held_colour, partition_of, sample_thing, sprite_names
from research.world.scene import COLOURS, NATURAL, SHAPES, SIZES, TEXTURES, Scene, Thing


def reshift(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return the same scene to any reader of words, in other pixels."""
    while True:
        shifts = rng.integers(-2, 3, (len(scene.things), 2)).tolist()
        things = tuple(
            dataclasses.replace(thing, shift=(right, down))
            for thing, (right, down) in zip(scene.things, shifts, strict=True)
        )
        if things != scene.things:
            return Scene(things, scene.background)


def allowed(thing: Thing, ood: bool = False) -> bool:
    """Tell whether a thing may stand in a scene: no held-out colour unless asked for."""
    if not thing.is_sprite:
        return thing.colour != NATURAL
    return ood or not is_held_colour(thing.kind, thing.colour)


def change_attribute(
    scene: Scene,
    index: int,
    rng: np.random.Generator,
    fields: tuple[str, ...] = ("colour", "colour", "kind", "size", "texture"),
    ood: bool = False,
) -> tuple[Scene, str] | None:
    """Give one thing another value in one of the fields.

    Returns:
        (scene, the field), or None where the result is not allowed in the partition.
    """
    thing = scene.things[index]
    field = pick(rng, fields)
    if thing.is_sprite and (field in ("size", "texture") or thing.colour == NATURAL):
        field = "kind"
    values = {"colour": COLOURS, "size": SIZES, "texture": TEXTURES, "kind": SHAPES}[field]
    if field == "kind" and thing.is_sprite:
        values = sprite_names(partition_of(scene))
    value = pick(rng, [value for value in values if value != getattr(thing, field)])
    changed = scene.replace_thing(index, **{field: value})
    if not allowed(changed.things[index], ood):
        return None
    return _kept(changed, scene, field)


def swap_attribute(
    scene: Scene, first: int, second: int, rng: np.random.Generator, ood: bool = False
) -> tuple[Scene, str] | None:
    """Exchange an attribute in which two things differ."""
    one, other = scene.things[first], scene.things[second]
    fields = [f for f in ("colour", "size", "texture") if getattr(one, f) != getattr(other, f)]
    if one.is_sprite or other.is_sprite:
        fields = [f for f in fields if f == "colour"]
    if not fields or (NATURAL in (one.colour, other.colour)):
        return None
    field = pick(rng, fields)
    changed = scene.replace_thing(first, **{field: getattr(other, field)})
    changed = changed.replace_thing(second, **{field: getattr(one, field)})
    if not all(allowed(changed.things[i], ood) for i in (first, second)):
        return None
    return _kept(changed, scene, field)


def exchange_places(scene: Scene, first: int, second: int) -> Scene:
    """Put two things where the other one was."""
    one, other = scene.things[first].cell, scene.things[second].cell
    return scene.replace_thing(first, cell=other).replace_thing(second, cell=one)


def add_thing(scene: Scene, rng: np.random.Generator) -> Scene | None:
    """Put one more thing into a free cell, on top of the others."""
    free = sorted(set(range(9)) - {thing.cell for thing in scene.things})
    partition = partition_of(scene)
    new = sample_thing(rng, partition, pick(rng, free))
    if any(new.look == thing.look for thing in scene.things):
        return None
    changed = Scene((*scene.things, new), scene.background)
    return changed if partition_of(changed) == partition else None


def remove_thing(scene: Scene, index: int) -> Scene | None:
    """Take one thing away."""
    things = tuple(thing for i, thing in enumerate(scene.things) if i != index)
    changed = Scene(things, scene.background)
    return changed if partition_of(changed) == partition_of(scene) else None


def move_thing(scene: Scene, index: int, rng: np.random.Generator) -> Scene:
    """Put one thing into a free cell."""
    free = sorted(set(range(9)) - {thing.cell for thing in scene.things})
    return scene.replace_thing(index, cell=pick(rng, free))


def _kept(changed: Scene, scene: Scene, field: str) -> tuple[Scene, str] | None:
    """Return the change if the scene stays in its partition and without twins."""
    looks = {thing.look for thing in changed.things}
    if len(looks) < len(changed.things) or partition_of(changed) != partition_of(scene):
        return None
    return changed, field
