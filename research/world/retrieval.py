"""The retrieval tasks over captions: caption to picture, picture to caption, and held-out forms."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np

from research.world.edits import change_attribute, exchange_places, reshift, swap_attribute
from research.world.examples import (
    Example,
    Family,
    GenerationPlan,
    WorldContent,
    WorldTask,
    picture_of,
)
from research.world.language import mention, pick, relation_is_held, word
from research.world.planting import Corpus
from research.world.sample import is_held_colour, sample_scene, sprite_names
from research.world.scene import Scene, Spec, matches, relations

OBJECTS = (2, 3)
EDITS = ("relation_flipped", "swap", "one_attribute_off")
"""What sets the two members of an evaluation family apart."""


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """A scene and its caption."""

    scene: Scene
    spec: Spec
    text: str
    role: str = ""


def _captions(plan: GenerationPlan, to_picture: bool, held: bool) -> list[Family]:
    """Pair scenes and captions; evaluation gets families, training planted false negatives."""
    make = _training_families if plan.corpus else _eval_families
    return [
        [_example(told, to_picture) for told in family] for family in make(plan, held, to_picture)
    ]


def _example(told: Told, to_picture: bool) -> Example:
    caption, picture = WorldContent(told.text, None, told.spec), picture_of(told.scene)
    pair = (caption, picture) if to_picture else (picture, caption)
    return Example(*pair, role=told.role)


def _eval_families(plan: GenerationPlan, held: bool, to_picture: bool) -> list[list[Told]]:
    families: list[list[Told]] = []
    number = 0
    while number < plan.pairs:
        family = _family(plan, held)[: plan.pairs - number]
        if len(family) > 1 or plan.pairs - number == 1:
            families.append(family)
            number += len(family)
    return families


def _family(plan: GenerationPlan, held: bool) -> list[Told]:
    """Draw a scene and its twin after one edit, and caption both so that neither fits the other."""
    rng = plan.rng
    scene = sample_scene(rng, plan.partition, ood=held, objects=OBJECTS)
    focus = _focus(scene, rng, held)
    if focus is None:
        return []
    edit = pick(rng, EDITS)
    if edit == "relation_flipped":
        changed = exchange_places(scene, *focus)
    else:
        changed = _changed(scene, focus, edit, rng, held)
    if changed is None:
        return []
    variants = [("", scene), (edit, changed)]
    scenes = [variant for _, variant in variants]
    told = (_tell(plan, scenes, i, focus, held, role) for i, (role, _) in enumerate(variants))
    return [member for member in told if member is not None]


def _changed(
    scene: Scene, focus: tuple[int, int], edit: str, rng: np.random.Generator, held: bool
) -> Scene | None:
    """Swap an attribute of two things, or change one of one thing, where the partition allows."""
    for _ in range(30):
        if edit == "swap":
            found = swap_attribute(scene, *focus, rng, ood=held)
        else:
            found = change_attribute(scene, pick(rng, focus), rng, ood=held)
        if found is not None:
            return found[0]
    return None


def _focus(scene: Scene, rng: np.random.Generator, held: bool) -> tuple[int, int] | None:
    """Pick two things that stand in a sayable relation; held-out sprites can't be named."""
    unnamed = set(sprite_names("eval", held=True)) if held else set()
    found = []
    for relation in relations(scene):
        pair = [scene.things[relation[0]], scene.things[relation[2]]]
        novel = any(t.is_sprite and is_held_colour(t.kind, t.colour) for t in pair)
        if unnamed & {thing.kind for thing in pair}:
            continue
        if (
            relation_is_held(scene, relation) or novel
            if held
            else not relation_is_held(scene, relation)
        ):
            found.append((relation[0], relation[2]))
    return pick(rng, found) if found else None


def _tell(
    plan: GenerationPlan,
    scenes: list[Scene],
    index: int,
    focus: tuple[int, int],
    held: bool,
    role: str,
) -> Told | None:
    """Caption one member of a family; more and more detail until no other member fits."""
    scene, others = scenes[index], scenes[:index] + scenes[index + 1 :]
    for attempt in range(12):
        spec = pair_spec(scene, focus, plan.rng, 0.4 + 0.05 * attempt, held)
        if spec is not None and not any(matches(spec, other) for other in others):
            return Told(scene, spec, word(spec, plan.rng, plan.partition, held), role)
    return None


def pair_spec(
    scene: Scene,
    focus: tuple[int, int],
    rng: np.random.Generator,
    detail: float,
    held: bool = False,
) -> Spec | None:
    """Say how two things stand to each other, now and then with a third one and the background."""
    found = [r for r in relations(scene) if (r[0], r[2]) == focus]
    if not held:
        found = [r for r in found if not relation_is_held(scene, r)]
    if not found:
        return None
    chosen = [*focus]
    names_known = not held
    rest = [i for i in range(len(scene.things)) if i not in focus]
    if rest and names_known and rng.random() < detail / 2:
        chosen.append(pick(rng, rest))
    things = tuple(mention(scene.things[i], rng, detail) for i in chosen)
    background = scene.background if rng.random() < detail / 2 else ""
    return Spec(things, ((0, pick(rng, found)[1], 1),), background)


def _training_families(plan: GenerationPlan, held: bool, to_picture: bool) -> list[list[Told]]:
    """Draw pairs none of which fits another, but for those planted on purpose, two by two."""
    corpus = Corpus()
    told: list[Told] = []
    wanted = plan.false_negative_rate * plan.pairs if plan.false_negative_kinds else 0
    planted = 0
    while len(told) < plan.pairs:
        scene = sample_scene(plan.rng, plan.partition, objects=OBJECTS)
        focus = _focus(scene, plan.rng, held)
        spec = focus and pair_spec(scene, focus, plan.rng, 0.5)
        if not spec or corpus.matches(scene, spec):
            continue
        one = Told(scene, spec, word(spec, plan.rng, plan.partition))
        own = corpus.add(scene, spec)
        told.append(one)
        if planted < wanted * len(told) / plan.pairs and len(told) < plan.pairs:
            kind = plan.false_negative_kinds[planted // 2 % len(plan.false_negative_kinds)]
            other = _again(plan, one, kind)
            if other is None or corpus.matches(other.scene, other.spec) != {own}:
                continue
            corpus.add(other.scene, other.spec)
            told.append(other)
            planted += 2
            _record(plan, one, other, kind, to_picture)
    return [[member] for member in told]


def _again(plan: GenerationPlan, one: Told, kind: str) -> Told | None:
    """Make a second pair whose picture fits the first's caption and the other way round."""
    rng = plan.rng
    scene, spec = reshift(one.scene, rng), one.spec
    synonyms = 0.15
    if kind == "near_duplicate":
        focus = _focus(scene, rng, held=False)
        spec = focus and pair_spec(scene, focus, rng, 0.6)
    elif kind == "under_specified":
        spec = dataclasses.replace(_vaguer(one.spec, rng), background="")
    elif kind == "synonym":
        synonyms = 1.0
    if kind != "near_duplicate":
        scene = _elsewhere(scene, one.spec, rng)
    if not spec:
        return None
    text = word(spec, rng, plan.partition, synonyms=synonyms)
    return None if text == one.text else Told(scene, spec, text)


def _vaguer(spec: Spec, rng: np.random.Generator) -> Spec:
    """Leave one attribute out."""
    things = list(spec.things)
    places = [
        (i, field)
        for i, thing in enumerate(things)
        for field in ("colour", "size", "texture")
        if getattr(thing, field)
    ]
    if places:
        index, field = pick(rng, places)
        things[index] = dataclasses.replace(things[index], **{field: ""})
    return dataclasses.replace(spec, things=tuple(things))


def _elsewhere(scene: Scene, spec: Spec, rng: np.random.Generator) -> Scene:
    """Change what the caption leaves open: another scene of which it is true as well."""
    for _ in range(6):
        changed = change_attribute(scene, int(rng.integers(len(scene.things))), rng)
        if changed is not None and matches(spec, changed[0]):
            scene = changed[0]
    return scene


def _record(plan: GenerationPlan, one: Told, other: Told, kind: str, to_picture: bool) -> None:
    examples = [_example(told, to_picture) for told in (one, other)]
    for query, candidate in (examples, examples[::-1]):
        plan.planted.append((query.query, candidate.target, kind))


TASKS = [
    WorldTask(
        name="caption_to_picture",
        meta_task="retrieval",
        query_instruction="Find the picture that this caption describes",
        target_instruction="Represent the given picture",
        generate=partial(_captions, to_picture=True, held=False),
    ),
    WorldTask(
        name="picture_to_caption",
        meta_task="retrieval",
        query_instruction="Find the caption that describes this picture",
        target_instruction="",
        generate=partial(_captions, to_picture=False, held=False),
    ),
    WorldTask(
        name="caption_to_picture_held",
        meta_task="retrieval",
        query_instruction="Find the picture that this caption describes",
        target_instruction="Represent the given picture",
        generate=partial(_captions, to_picture=True, held=True),
        trained=False,
    ),
    WorldTask(
        name="picture_to_caption_held",
        meta_task="retrieval",
        query_instruction="Find the caption that describes this picture",
        target_instruction="",
        generate=partial(_captions, to_picture=False, held=True),
        trained=False,
    ),
]
