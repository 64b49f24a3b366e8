"""The grounding tasks: a picture and words for one of its things, to the crop that shows it."""

from __future__ import annotations

from functools import partial

from research.world import words
from research.world.edits import reshift
from research.world.examples import (
    Example,
    Family,
    GenerationPlan,
    ScenePicture,
    WorldContent,
    WorldTask,
    crop_meaning,
    crop_of,
    picture_of,
)
from research.world.language import name, pick, relation_is_held
from research.world.questions import refer
from research.world.sample import sample_scene
from research.world.scene import OPPOSITE, Scene, holds, relations
from research.world.truth import Crop

FAMILY = 3
WHOLE = 0.5
"""How often a training scene is also asked for as a whole."""
WORDINGS = ("the {a}", "{a}", "where the {a} is")


def _point(plan: GenerationPlan, related: bool) -> list[Family]:
    """Refer to things of scenes; all referred to in one scene make a family."""
    if plan.corpus:
        return _training(plan)
    families: list[Family] = []
    number = 0
    while number < plan.pairs:
        scene = sample_scene(plan.rng, plan.partition, ood=related, objects=(2, 4))
        near = (
            ("query_picture", picture_of(scene)),
            ("unedited_twin", picture_of(reshift(scene, plan.rng))),
        )
        family = []
        for index in plan.rng.permutation(len(scene.things)).tolist():
            text = _related(scene, index, plan, True) if related else _named(scene, index, plan)
            if text is not None and len(family) < min(FAMILY, plan.pairs - number):
                family.append(_example(scene, index, text, near))
        families.append(family)
        number += len(family)
    return families


def _example(
    scene: Scene, index: int, text: str, near: tuple[tuple[str, WorldContent], ...] = ()
) -> Example:
    query = WorldContent(text, ScenePicture(scene), crop_meaning(scene, index))
    return Example(query, crop_of(scene, index), role="same_picture", near=near)


def _named(scene: Scene, index: int, plan: GenerationPlan) -> str | None:
    """Name a thing so that no other of the scene is meant."""
    spec = refer(scene, index, plan.rng)
    return spec and pick(plan.rng, WORDINGS).format(a=name(spec, plan.rng))


def _related(scene: Scene, index: int, plan: GenerationPlan, held: bool) -> str | None:
    """Say only where a thing stands to another: "the object to the left of the star"."""
    for anchor, relation, other in relations(scene):
        if other != index or relation_is_held(scene, (anchor, relation, other)) != held:
            continue
        side = OPPOSITE[relation]
        meant = [thing for thing in scene.things if holds(side, thing, scene.things[anchor])]
        spec = refer(scene, anchor, plan.rng)
        if spec is not None and len(meant) == 1:
            return (
                f"the object {pick(plan.rng, words.PREPOSITIONS[side])} the {name(spec, plan.rng)}"
            )
    return None


def _training(plan: GenerationPlan) -> list[Family]:
    """Draw references to distinct crops, but for those planted two by two.

    Of every scene two things are asked for and, now and then, the whole: so crops of the same picture
    and whole pictures stand in the corpus, as they do in evaluation lists.
    """
    wanted = plan.false_negative_rate * plan.pairs
    if "near_duplicate" not in plan.false_negative_kinds:
        wanted = 0
    seen: set[Crop] = set()
    examples: list[Example] = []
    planted = 0
    while len(examples) < plan.pairs:
        scene = sample_scene(plan.rng, plan.partition, objects=(2, 4))
        found = [
            _example(scene, index, text)
            for index in plan.rng.permutation(len(scene.things)).tolist()[:2]
            if (text := _training_text(scene, index, plan)) is not None
        ]
        if not found or any(example.target.meaning in seen for example in found):
            continue
        seen.update(crop_meaning(scene, index) for index in range(len(scene.things)))
        if plan.rng.random() < WHOLE:
            found.append(_whole(scene, plan))
        left = plan.pairs - len(examples)
        if left > len(found) and planted < wanted * len(examples) / plan.pairs:
            found.append(_again(scene, found[0], plan))
            planted += 2
            for one, other in ((found[0], found[-1]), (found[-1], found[0])):
                plan.planted.append((one.query, other.target, "near_duplicate"))
        examples += found[:left]
    return [[example] for example in examples]


def _whole(scene: Scene, plan: GenerationPlan) -> Example:
    """Ask for the picture as it is."""
    query = WorldContent(
        pick(plan.rng, ("the whole picture", "everything")), ScenePicture(scene), scene
    )
    return Example(query, picture_of(scene))


def _again(scene: Scene, example: Example, plan: GenerationPlan) -> Example:
    """Ask for the same thing of the same scene in other pixels."""
    assert example.target.picture is not None and example.target.picture.thing is not None
    index = example.target.picture.thing
    text = _training_text(scene, index, plan) or example.query.text
    return _example(reshift(scene, plan.rng), index, text)


def _training_text(scene: Scene, index: int, plan: GenerationPlan) -> str | None:
    """Name a thing; where possible, in a quarter of the cases, say where it stands instead."""
    text = _related(scene, index, plan, held=False) if plan.rng.random() < 0.25 else None
    return text or _named(scene, index, plan)


TASKS = [
    WorldTask(
        name="pointing",
        meta_task="grounding",
        query_instruction="Cut out of the picture what the words name",
        target_instruction="Represent the given part of a picture",
        generate=partial(_point, related=False),
    ),
    WorldTask(
        name="pointing_held",
        meta_task="grounding",
        query_instruction="Cut out of the picture what the words name",
        target_instruction="Represent the given part of a picture",
        generate=partial(_point, related=True),
        trained=False,
    ),
]
