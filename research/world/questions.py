"""Questions about scenes, with their only right answers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from research.world import words
from research.world.language import corrupt, many, mention, name, pick, relation_is_held
from research.world.scene import (
    CELLS,
    COLOURS,
    NATURAL,
    Scene,
    Spec,
    Thing,
    ThingSpec,
    fits,
    holds,
    relations,
)  # fmt: skip

KINDS = tuple(words.QUESTIONS)
_SHORTEST = (("kind",), ("colour",), ("colour", "kind"), ("size", "kind"), ("texture", "kind"))
_LONGEST = (("size", "colour", "kind"), ("size", "texture", "colour", "kind"))


class SceneQuestion(NamedTuple):
    """What is asked, the answer, and which of KINDS it is."""

    question: str
    answer: str
    kind: str


def questions(
    scene: Scene,
    rng: np.random.Generator,
    partition: str,
    held: bool = False,
    kinds: tuple[str, ...] = KINDS,
) -> list[SceneQuestion]:
    """Ask one question of each kind that can be asked of the scene.

    Args:
        scene: What is asked about.
        rng: Where all randomness comes from.
        partition: Decides the wordings.
        held: Use the held-out wordings, and held-out relations of pairs, instead.
        kinds: Which kinds to ask.
    """
    asked = (ask(scene, rng, kind, partition, held) for kind in kinds)
    return [question for question in asked if question is not None]


def ask(
    scene: Scene, rng: np.random.Generator, kind: str, partition: str, held: bool = False
) -> SceneQuestion | None:
    """Ask one question, or return None where the scene gives no occasion."""
    made = _MAKERS[kind](scene, rng, kind, held)
    if made is None:
        return None
    fields, answer = made
    wording = pick(rng, words.wordings(words.QUESTIONS[kind], partition, held))
    return SceneQuestion(wording.format(**fields), answer, kind)


_Made = tuple[dict[str, str], str] | None


def refer(
    scene: Scene, index: int, rng: np.random.Generator, without: str = ""
) -> ThingSpec | None:
    """Describe one thing so that it is the only one meant, without one of its attributes."""
    options = [_SHORTEST[i] for i in rng.permutation(len(_SHORTEST))] + [*_LONGEST]
    for fields in options:
        spec = _only(scene.things[index], fields)
        if spec is None or without in fields:
            continue
        if sum(fits(spec, other) for other in scene.things) == 1:
            return spec
    return None


def _only(thing: Thing, fields: tuple[str, ...]) -> ThingSpec | None:
    """Return a spec of just these fields, or None where one can't be said."""
    if thing.colour == NATURAL and "colour" in fields:
        return None
    if thing.is_sprite and ("size" in fields or "texture" in fields):
        return None
    return ThingSpec(**{field: getattr(thing, field) for field in fields})


def _attribute(scene: Scene, rng: np.random.Generator, kind: str, held: bool) -> _Made:
    """Ask for the colour, shape, size or texture of a thing that is clear without it."""
    field = {"colour": "colour", "shape": "kind"}.get(kind, kind)
    plain = field in ("size", "texture")
    for index in rng.permutation(len(scene.things)).tolist():
        thing = scene.things[index]
        if (plain and thing.is_sprite) or getattr(thing, field) == NATURAL:
            continue
        spec = refer(scene, index, rng, without=field)
        if spec is not None:
            return {"a": f"the {name(spec, rng)}"}, getattr(thing, field)
    return None


def _position(scene: Scene, rng: np.random.Generator, kind: str, held: bool) -> _Made:
    for index in rng.permutation(len(scene.things)).tolist():
        spec = refer(scene, index, rng)
        if spec is not None:
            return {"a": f"the {name(spec, rng)}"}, CELLS[scene.things[index].cell]
    return None


def _background(scene: Scene, rng: np.random.Generator, kind: str, held: bool) -> _Made:
    return {}, scene.background


def _count(scene: Scene, rng: np.random.Generator, kind: str, held: bool) -> _Made:
    """Count things of a colour or a kind, now and then of an absent one."""
    thing = pick(rng, scene.things)
    what = pick(
        rng, (ThingSpec(), ThingSpec(kind=thing.kind), ThingSpec(colour=pick(rng, COLOURS)))
    )
    if thing.colour != NATURAL and rng.random() < 0.5:
        what = ThingSpec(colour=thing.colour)
    number = sum(fits(what, other) for other in scene.things)
    return {"many": many(what, rng)}, words.NUMBERS[number]


def _relation(scene: Scene, rng: np.random.Generator, kind: str, held: bool) -> _Made:
    """Ask for the only thing on one side of another."""
    found = [r for r in relations(scene) if relation_is_held(scene, r) == held]
    for chosen in rng.permutation(len(found)).tolist():
        answer, relation, index = found[chosen]
        others = [thing for thing in scene.things if holds(relation, thing, scene.things[index])]
        spec = refer(scene, index, rng)
        if len(others) == 1 and spec is not None:
            fields = {
                "a": f"the {name(spec, rng)}",
                "rel": pick(rng, words.PREPOSITIONS[relation]),
            }
            return fields, full_name(scene.things[answer])
    return None


def full_name(thing: Thing) -> str:
    """Name colour and kind: "red circle"; a sprite in its own colours just by its name."""
    return thing.kind if thing.colour == NATURAL else f"{thing.colour} {thing.kind}"


def _existence(scene: Scene, rng: np.random.Generator, kind: str, held: bool) -> _Made:
    """Ask for a thing that is there, or for one with a single word wrong."""
    spec = Spec((mention(pick(rng, scene.things), rng, detail=0.5),))
    if rng.random() < 0.5:
        return {"a": words.article(name(spec.things[0], rng))}, "yes"
    wrong = corrupt(spec, scene, rng, pick(rng, ("colour", "kind", "size", "texture")))
    return wrong and ({"a": words.article(name(wrong.things[0], rng))}, "no")


def _related(scene: Scene, rng: np.random.Generator, kind: str, held: bool) -> _Made:
    """Ask whether a relation holds, half the time with relation, things or a colour wrong."""
    found = [r for r in relations(scene) if relation_is_held(scene, r) == held]
    if not found:
        return None
    first, relation, second = pick(rng, found)
    pair = tuple(mention(scene.things[i], rng, detail=0.3) for i in (first, second))
    spec: Spec | None = Spec(pair, ((0, relation, 1),))
    answer = "yes"
    if rng.random() < 0.5:
        how = pick(rng, ("relation", "exchange", "colour", "swap"))
        spec, answer = corrupt(spec, scene, rng, how), "no"
    if spec is None:
        return None
    one, _, other = spec.relations[0]
    fields = {
        "a": words.article(name(spec.things[one], rng)),
        "b": words.article(name(spec.things[other], rng)),
        "rel": pick(rng, words.PREPOSITIONS[relation]),
        "side": words.SIDES[relation],
    }
    if spec.relations[0][1] != relation:
        fields["rel"] = pick(rng, words.PREPOSITIONS[spec.relations[0][1]])
        fields["side"] = words.SIDES[spec.relations[0][1]]
    return fields, answer


_MAKERS = {
    "colour": _attribute, "shape": _attribute, "size": _attribute, "texture": _attribute,
    "position": _position, "background": _background, "count": _count, "relation": _relation,
    "existence": _existence, "related": _related,
}  # fmt: skip
