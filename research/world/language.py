"""Put scenes into words: pick what to say (a Spec), then how (a wording), and how to say it wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from research.world import words
from research.world.sample import is_held_relation
from research.world.scene import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    NATURAL,
    OPPOSITE,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Spec,
    Thing,
    ThingSpec,
    fits,
    matches,
    relations,
)  # fmt: skip

T = TypeVar("T")
FORMS = ("list", "relation", "position", "count")
CORRUPTIONS = (
    "colour", "kind", "size", "texture", "background", "count", "cell",
    "relation", "exchange", "swap",
)  # fmt: skip
_CHOICES = {"colour": COLOURS, "kind": SHAPES, "size": SIZES, "texture": TEXTURES}


@dataclass(frozen=True, slots=True)
class Caption:
    """A text and what it says."""

    text: str
    spec: Spec


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Return one of the options."""
    return options[int(rng.integers(len(options)))]


def caption(
    scene: Scene,
    rng: np.random.Generator,
    partition: str,
    held: bool = False,
    form: str | None = None,
    detail: float = 0.5,
    synonyms: float = 0.15,
) -> Caption:
    """Describe a scene truly, leaving attributes out.

    Args:
        scene: What to describe.
        rng: Where all randomness comes from.
        partition: Decides the wordings.
        held: Use the held-out wordings (and held-out relations of pairs) instead.
        form: One of FORMS; by default any, relations most often.
        detail: How likely an attribute is mentioned (colours more often).
        synonyms: How likely a word is replaced by its synonym.
    """
    spec = describe(scene, rng, held=held, form=form, detail=detail)
    return Caption(word(spec, rng, partition, held, synonyms), spec)


def describe(
    scene: Scene,
    rng: np.random.Generator,
    held: bool = False,
    form: str | None = None,
    detail: float = 0.5,
) -> Spec:
    """Pick what to say of a scene; see `caption`. A relation that can't be said becomes a list."""
    form = form or pick(rng, ("list", "relation", "relation", "relation", "position", "count"))
    things = scene.things
    background = scene.background if rng.random() < detail / 2 else ""
    if form == "relation":
        sayable = [r for r in relations(scene) if relation_is_held(scene, r) == held]
        sayable = sayable or ([*relations(scene)] if held else [])
        if sayable:
            first, relation, second = pick(rng, sayable)
            pair = (mention(things[first], rng, detail), mention(things[second], rng, detail))
            return Spec(pair, ((0, relation, 1),), background)
    if form == "position":
        thing = pick(rng, things)
        spec = dataclasses.replace(mention(thing, rng, detail), cell=thing.cell)
        return Spec((spec,), background=background)
    if form == "count":
        return Spec(counts=(_count(scene, rng),), background=background)
    number = int(rng.integers(1, min(len(things), 3) + 1))
    chosen = [things[i] for i in rng.permutation(len(things))[:number]]
    return Spec(tuple(mention(thing, rng, detail) for thing in chosen), background=background)


def relation_is_held(scene: Scene, relation: tuple[int, str, int]) -> bool:
    """Tell whether this relation of the scene is out of distribution."""
    first, name, second = relation
    return is_held_relation(scene.things[first].kind, name, scene.things[second].kind)


def mention(thing: Thing, rng: np.random.Generator, detail: float) -> ThingSpec:
    """Pick what to say of one thing: its kind always, its colour often, the rest sometimes."""
    colour, size, texture = rng.random(3) < (0.5 + detail / 2, detail / 2, detail / 2)
    return ThingSpec(
        thing.kind,
        thing.colour if colour and thing.colour != NATURAL else "",
        thing.size if size and not thing.is_sprite else "",
        thing.texture if texture and not thing.is_sprite else "",
    )


def _count(scene: Scene, rng: np.random.Generator) -> tuple[ThingSpec, int]:
    """Pick something to count, present in the scene."""
    thing = pick(rng, scene.things)
    options = [ThingSpec(), ThingSpec(kind=thing.kind), ThingSpec(texture="striped")]
    if thing.colour != NATURAL:
        options += [ThingSpec(colour=thing.colour)] * 2
    what = pick(rng, options)
    return what, sum(fits(what, thing) for thing in scene.things)


def word(
    spec: Spec,
    rng: np.random.Generator,
    partition: str,
    held: bool = False,
    synonyms: float = 0.15,
) -> str:
    """Put a spec into one of the partition's wordings."""
    if spec.counts:
        what, number = spec.counts[0]
        verb = pick(rng, words.wordings(words.COUNTED, partition, held))
        text = verb.format(count=_counted(what, number, rng, synonyms))
        text = text.replace("there are one", "there is one")
    elif spec.relations:
        text = _related(spec, rng, partition, held, synonyms)
    elif len(spec.things) == 1 and spec.things[0].cell >= 0:
        wording = pick(rng, words.wordings(words.PLACED, partition, held))
        phrase = words.article(name(spec.things[0], rng, synonyms))
        text = wording.format(a=phrase, place=CELLS[spec.things[0].cell])
    else:
        phrases = [words.article(name(thing, rng, synonyms)) for thing in spec.things]
        wording = pick(rng, words.wordings(words.LISTS, partition, held))
        text = wording.format(list=join(phrases))
    if spec.background:
        wording = pick(rng, words.wordings(words.GROUNDED, partition, held))
        text = wording.format(text=text, ground=spec.background)
    return text


def _related(
    spec: Spec, rng: np.random.Generator, partition: str, held: bool, synonyms: float
) -> str:
    """Word the first relation, and append the things it leaves over."""
    first, relation, second = spec.relations[0]
    phrases = [words.article(name(thing, rng, synonyms)) for thing in spec.things]
    text = pick(rng, words.wordings(words.RELATED, partition, held)).format(
        a=phrases[first],
        b=phrases[second],
        rel=pick(rng, words.PREPOSITIONS[relation]),
        side=words.SIDES[relation],
    )
    rest = [phrase for i, phrase in enumerate(phrases) if i not in (first, second)]
    return f"{text} , and {join(rest)}" if rest else text


def name(spec: ThingSpec, rng: np.random.Generator, synonyms: float = 0.0) -> str:
    """Return "large striped red circle", without an article."""
    parts = [spec.size, spec.texture, spec.colour, spec.kind or "object"]
    return " ".join(_synonym(part, rng, synonyms) for part in parts if part)


def join(phrases: Sequence[str]) -> str:
    """Return "a", "a and b" or "a , b and c"."""
    if len(phrases) < 2:
        return "".join(phrases)
    return f"{' , '.join(phrases[:-1])} and {phrases[-1]}"


def _synonym(part: str, rng: np.random.Generator, synonyms: float) -> str:
    return words.SYNONYMS.get(part, part) if synonyms and rng.random() < synonyms else part


def _counted(what: ThingSpec, number: int, rng: np.random.Generator, synonyms: float) -> str:
    """Return "two red objects"."""
    noun = name(what, rng, synonyms)
    return f"{words.NUMBERS[number]} {noun if number == 1 else words.plural(noun)}"


def many(what: ThingSpec, rng: np.random.Generator, synonyms: float = 0.0) -> str:
    """Return "red objects"."""
    return words.plural(name(what, rng, synonyms))


def statement(
    scene: Scene, rng: np.random.Generator, partition: str, held: bool = False, **options: Any
) -> tuple[str, bool, str]:
    """Say something true or, as often, something nearly true.

    Returns:
        (text, whether it is true, "true" or the name of the corruption).
    """
    spec = describe(scene, rng, held=held, **options)
    if rng.random() < 0.5:
        return word(spec, rng, partition, held), True, "true"
    for index in rng.permutation(len(CORRUPTIONS)).tolist():
        wrong = corrupt(spec, scene, rng, CORRUPTIONS[index])
        if wrong is not None:
            return word(wrong, rng, partition, held), False, CORRUPTIONS[index]
    return statement(scene, rng, partition, held, **options)


def corrupt(spec: Spec, scene: Scene, rng: np.random.Generator, how: str) -> Spec | None:
    """Make a hard negative: change one word, or exchange two, so that the spec becomes false.

    Args:
        spec: What is said.
        scene: Of which the result must not be true.
        rng: Where all randomness comes from.
        how: One of CORRUPTIONS: replace an attribute, a background, a count or a cell; turn the
            "relation" round; "exchange" the things of a relation; "swap" two things' colours (or
            sizes or textures).

    Returns:
        The false spec, or None where the change is impossible or leaves it true.
    """
    for _ in range(3):
        wrong = _changed(spec, rng, how)
        if wrong is not None and wrong != spec and not matches(wrong, scene):
            return wrong
    return None


def _changed(spec: Spec, rng: np.random.Generator, how: str) -> Spec | None:
    """Apply one corruption, true or not."""
    if how in _CHOICES:
        return _replaced(spec, rng, how)
    return _CHANGES[how](spec, rng)


def _replaced(spec: Spec, rng: np.random.Generator, field: str) -> Spec | None:
    """Give a thing another value in a field that it mentions."""
    having = [i for i, thing in enumerate(spec.things) if getattr(thing, field)]
    if not having:
        return None
    index = pick(rng, having)
    old = getattr(spec.things[index], field)
    return with_thing(
        spec, index, **{field: pick(rng, [value for value in _CHOICES[field] if value != old])}
    )


def _other_background(spec: Spec, rng: np.random.Generator) -> Spec | None:
    if not spec.background:
        return None
    other = [ground for ground in BACKGROUNDS if ground != spec.background]
    return dataclasses.replace(spec, background=pick(rng, other))


def _miscounted(spec: Spec, rng: np.random.Generator) -> Spec | None:
    if not spec.counts:
        return None
    what, number = spec.counts[0]
    new = pick(rng, [n for n in (number - 1, number + 1) if 0 <= n < len(words.NUMBERS)])
    return dataclasses.replace(spec, counts=((what, new),))


def _moved(spec: Spec, rng: np.random.Generator) -> Spec | None:
    if not spec.things or spec.things[0].cell < 0:
        return None
    return with_thing(spec, 0, cell=int(rng.integers(9)))


def _turned(spec: Spec, rng: np.random.Generator) -> Spec | None:
    if not spec.relations:
        return None
    first, relation, second = spec.relations[0]
    return dataclasses.replace(spec, relations=((first, OPPOSITE[relation], second),))


def _exchanged(spec: Spec, rng: np.random.Generator) -> Spec | None:
    if not spec.relations:
        return None
    first, relation, second = spec.relations[0]
    return dataclasses.replace(spec, relations=((second, relation, first),))


def _swapped(spec: Spec, rng: np.random.Generator) -> Spec | None:
    """Exchange one attribute that both of the first two things mention."""
    if len(spec.things) < 2:
        return None
    first, second = spec.things[:2]
    fields = [f for f in ("colour", "size", "texture") if getattr(first, f) and getattr(second, f)]
    if not fields:
        return None
    field = pick(rng, fields)
    spec = with_thing(spec, 0, **{field: getattr(second, field)})
    return with_thing(spec, 1, **{field: getattr(first, field)})


_CHANGES = {
    "background": _other_background, "count": _miscounted, "cell": _moved,
    "relation": _turned, "exchange": _exchanged, "swap": _swapped,
}  # fmt: skip


def with_thing(spec: Spec, index: int, **changes: object) -> Spec:
    """Return the spec with fields of one thing changed."""
    things = list(spec.things)
    things[index] = dataclasses.replace(things[index], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(spec, things=tuple(things))
