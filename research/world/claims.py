"""Simple claims about scenes: what a judge learns to match before it judges candidates.

From random weights, real candidates teach nothing for thousands of steps: too much has to be right before
an answer is better than a guess. A word is matched with what is seen after a hundred steps, and the
rest grows out of that: a word, a thing with its attributes, a caption. What two things have to do with
each other it does not, and is claimed in kinds of its own: a relation, whose attribute is whose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np

from research.world.edits import (
    change_attribute,
    exchange_places,
    move_thing,
    reshift,
    swap_attribute,
)
from research.world.examples import ScenePicture, WorldContent, crop_meaning, crop_of, picture_of
from research.world.language import CORRUPTIONS, corrupt, describe, mention, name, pick, word
from research.world.questions import refer
from research.world.sample import partition_of, sample_scene, sprite_names
from research.world.scene import (
    COLOURS,
    NATURAL,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Spec,
    ThingSpec,
    fits,
    matches,
)

ABOUT_A_PICTURE = 16
"""Claims about one picture, half of them true."""
ABOUT_A_CLAIM = 6
"""Pictures that one claim is asked of; it is true of one at least."""
TRIES = 20
"""Draws for each claim that is wanted: some can't be said of a scene."""
OF_TWO = ("relation", "swap")
"""Kinds that need two things."""
FIELDS = ("kind", "colour", "size", "texture")


def claims_about_a_picture(
    rng: np.random.Generator, objects: tuple[int, int], kind: str, partition: str
) -> tuple[WorldContent, list[WorldContent]]:
    """Return a picture, and claims about it; true ones are at most one more than false ones."""
    scene, _ = _sayable(rng, objects, kind, partition)
    found: dict[bool, list[WorldContent]] = {True: [], False: []}
    for _ in range(TRIES * ABOUT_A_PICTURE):
        true = len(found[True]) <= len(found[False])
        spec = KINDS[kind](scene, rng, true)
        if spec is not None and matches(spec, scene) == true:
            found[true].append(_said(spec, rng, partition))
        if len(found[True]) + len(found[False]) == ABOUT_A_PICTURE:
            break
    return WorldContent("", ScenePicture(scene), scene), [*found[True], *found[False]]


def pictures_of_a_claim(
    rng: np.random.Generator, objects: tuple[int, int], kind: str, partition: str
) -> tuple[WorldContent, list[WorldContent]]:
    """Return a claim, and pictures: of the first it is true, of the others (changed or new) seldom."""
    scene, spec = _sayable(rng, objects, kind, partition)
    changed = [one for one in _changed(scene, 2 * ABOUT_A_CLAIM, rng) if one.graph != scene.graph]
    right = [one for one in changed if matches(spec, one)]
    wrong = [one for one in changed if not matches(spec, one)]
    others = [sample_scene(rng, partition, objects=objects) for _ in range(ABOUT_A_CLAIM)]
    scenes = [scene, *right[:1], *wrong[: ABOUT_A_CLAIM - 3], *others][:ABOUT_A_CLAIM]
    return _said(spec, rng, partition), [WorldContent("", ScenePicture(one), one) for one in scenes]


def _sayable(
    rng: np.random.Generator, objects: tuple[int, int], kind: str, partition: str
) -> tuple[Scene, Spec]:
    """Draw a scene of which something of this kind is true; not all can be said of every scene."""
    if kind in OF_TWO:
        objects = (max(2, objects[0]), max(2, objects[1]))
    while True:
        scene = sample_scene(rng, partition, objects=objects)
        for _ in range(TRIES):
            spec = KINDS[kind](scene, rng, True)
            if spec is not None:
                return scene, spec


def _word(scene: Scene, rng: np.random.Generator, true: bool) -> Spec | None:
    """Name one attribute of one thing, or one that may be nowhere."""
    field = pick(rng, ("kind", "kind", "colour", "colour", "size", "texture"))
    value = getattr(pick(rng, scene.things), field) if true else _any(field, scene, rng)
    spec = dataclasses.replace(ThingSpec(), **{field: value})
    return None if value == NATURAL else Spec((spec,))


def _thing(scene: Scene, rng: np.random.Generator, true: bool) -> Spec | None:
    """Name a thing with some of its attributes; a wrong one is as often another thing's."""
    thing = mention(pick(rng, scene.things), rng, detail=0.5)
    if not true:
        other = mention(pick(rng, scene.things), rng, detail=0.5)
        field = pick(rng, FIELDS)
        value = getattr(other, field) if rng.random() < 0.5 else _any(field, scene, rng)
        thing = dataclasses.replace(thing, **{field: value})
    return Spec((thing,))


def _any(field: str, scene: Scene, rng: np.random.Generator) -> str:
    """Draw a value that an attribute may have; sprites' names too, or they would never be false."""
    if field == "kind":
        names = sprite_names(partition_of(scene))
        return pick(rng, pick(rng, (SHAPES, names)))
    return pick(rng, {"colour": COLOURS, "size": SIZES, "texture": TEXTURES}[field])


def _caption(scene: Scene, rng: np.random.Generator, true: bool) -> Spec | None:
    """Describe the scene, or spoil a description by one word or an exchange."""
    spec = describe(scene, rng)
    return spec if true else corrupt(spec, scene, rng, pick(rng, CORRUPTIONS))


def _relation(scene: Scene, rng: np.random.Generator, true: bool) -> Spec | None:
    """Say how two things stand to each other, or the other way round."""
    spec = describe(scene, rng, form="relation", detail=0.3)
    wrong = corrupt(spec, scene, rng, pick(rng, ("relation", "exchange")))
    return _one_of(spec, wrong, true)


def _swap(scene: Scene, rng: np.random.Generator, true: bool) -> Spec | None:
    """Say what two things look like, or give each an attribute of the other's."""
    spec = describe(scene, rng, form=pick(rng, ("relation", "list")), detail=0.8)
    wrong = corrupt(spec, scene, rng, "swap")
    return _one_of(spec, wrong, true)


def _one_of(spec: Spec, wrong: Spec | None, true: bool) -> Spec | None:
    # What can't be said wrong is not said at all: its form alone would tell that it is true.
    return spec if true and wrong is not None else wrong


def the_same_scene(
    rng: np.random.Generator, objects: tuple[int, int], partition: str
) -> tuple[WorldContent, list[WorldContent]]:
    """Return a picture, and pictures: the same scene in other pixels twice, changed ones, others."""
    scene = sample_scene(rng, partition, objects=objects)
    changed = _changed(scene, 2, rng)
    others = [sample_scene(rng, partition, objects=objects) for _ in range(2)]
    wrong = [one for one in (*changed, *others) if one.graph != scene.graph]
    shown = [*(reshift(scene, rng) for _ in range(2)), *(reshift(one, rng) for one in wrong)]
    return picture_of(scene), [picture_of(one) for one in shown]


def _changed(scene: Scene, number: int, rng: np.random.Generator) -> list[Scene]:
    """Return the scene with one thing other or elsewhere each time; some changes change nothing."""
    found = []
    for _ in range(number):
        index, other = rng.integers(len(scene.things), size=2).tolist()
        changes: tuple[Callable[[], Scene], ...] = (
            partial(_edited, change_attribute, scene, index, rng),
            partial(move_thing, scene, index, rng),
            partial(exchange_places, scene, index, other),
            partial(_edited, swap_attribute, scene, index, other, rng),
        )
        found.append(pick(rng, changes)())
    return found


def _edited(
    edit: Callable[..., tuple[Scene, str] | None], scene: Scene, *arguments: object
) -> Scene:
    """Return the edited scene, or the scene itself where the edit is not allowed in the partition."""
    changed = edit(scene, *arguments)
    return scene if changed is None else changed[0]


def crops_of_a_name(
    rng: np.random.Generator, objects: tuple[int, int], partition: str
) -> tuple[WorldContent, list[WorldContent]]:
    """Return a name, mostly with the picture it is about, and crops; the first is what it names."""
    while True:
        scene = sample_scene(rng, partition, objects=objects)
        index = int(rng.integers(len(scene.things)))
        spec = refer(scene, index, rng)
        if spec is not None:
            break
    others = [sample_scene(rng, partition, objects=objects) for _ in range(3)]
    wrong = [(one, i) for one in (scene, *others) for i in range(len(one.things))]
    wrong = [(one, i) for one, i in wrong if not fits(spec, one.things[i])]
    kept = [wrong[i] for i in rng.permutation(len(wrong))[: ABOUT_A_CLAIM - 1].tolist()]
    picture = ScenePicture(scene) if rng.random() < 0.7 else None
    query = WorldContent(name(spec, rng), picture, crop_meaning(scene, index))
    return query, [crop_of(one, i) for one, i in ((scene, index), *kept)]


Asked = tuple[WorldContent, list[WorldContent]]
"""A query and its candidates."""

PICTURED: dict[str, Callable[[np.random.Generator, tuple[int, int], str], Asked]] = {
    "same": the_same_scene,
    "crop": crops_of_a_name,
}
"""Kinds whose candidates are always pictures."""

KINDS: dict[str, Callable[[Scene, np.random.Generator, bool], Spec | None]] = {
    "word": _word,
    "thing": _thing,
    "caption": _caption,
    "relation": _relation,
    "swap": _swap,
}


def _said(spec: Spec, rng: np.random.Generator, partition: str) -> WorldContent:
    bare = len(spec.things) == 1 and spec.things[0].cell < 0 and not spec.background
    text = name(spec.things[0], rng) if bare else word(spec, rng, partition)
    return WorldContent(text, None, spec)
