"""The question tasks: picture and question on one side, the answer on the other."""

from __future__ import annotations

import zlib
from functools import lru_cache, partial

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
from research.world.questions import SceneQuestion, ask, full_name
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
    ThingSpec,
)  # fmt: skip
from research.world.truth import Meaning

ATTRIBUTES = ("colour", "shape", "texture", "position", "count", "background", "size")
SPRITE_ANSWERS = 160


def _attributes(plan: GenerationPlan, held: bool) -> list[Family]:
    """Ask for one attribute of a thing, or of the whole."""
    asked = []
    while len(asked) < plan.pairs:
        scene = sample_scene(plan.rng, plan.partition, ood=held, objects=(2, 4))
        kind = pick(plan.rng, ATTRIBUTES)
        question = ask(scene, plan.rng, kind, plan.partition, held)
        if question is not None and question.answer in _attribute_answers():
            asked.append((scene, question, question.answer))
    return _families(plan, asked)


def _neighbours(plan: GenerationPlan, held: bool) -> list[Family]:
    """Ask for the only thing on one side of another."""
    asked = []
    while len(asked) < plan.pairs:
        scene = sample_scene(plan.rng, plan.partition, objects=(2, 4))
        found = _neighbour(scene, plan, held)
        if found is not None:
            asked.append((scene, *found))
    return _families(plan, asked)


def _neighbour(
    scene: Scene, plan: GenerationPlan, held: bool
) -> tuple[SceneQuestion, Thing] | None:
    question = ask(scene, plan.rng, "relation", plan.partition, held)
    if question is None:
        return None
    thing = next(thing for thing in scene.things if full_name(thing) == question.answer)
    # "cat" would be a second right name of a "red cat".
    return None if thing.is_sprite and thing.colour != NATURAL else (question, thing)


def _families(
    plan: GenerationPlan, asked: list[tuple[Scene, SceneQuestion, Meaning]]
) -> list[Family]:
    synonyms = Synonyms(plan, [question.answer for _, question, _ in asked])
    families = []
    for scene, question, wanted in asked:
        said = wanted if isinstance(wanted, str) else _phrase(wanted)
        query = WorldContent(question.question, ScenePicture(scene), wanted)
        families.append([Example(query, synonyms.say(question.answer, said))])
    synonyms.record([example for family in families for example in family])
    return families


def _phrase(thing: Meaning) -> ThingSpec:
    assert isinstance(thing, Thing), thing
    return ThingSpec(thing.kind, "" if thing.colour == NATURAL else thing.colour)


@lru_cache(maxsize=1)
def _sprites() -> tuple[str, ...]:
    names = sorted(sprite_names("eval"), key=lambda name: zlib.crc32(b"vqa" + name.encode()))
    return tuple(names[:SPRITE_ANSWERS])


@lru_cache(maxsize=1)
def _attribute_answers() -> dict[str, None]:
    numbers = words.NUMBERS
    fixed = (*COLOURS, *SHAPES, *SIZES, *TEXTURES, *CELLS, *BACKGROUNDS, *numbers)
    return dict.fromkeys((*fixed, *_sprites()))


def _attribute_classes() -> list[WorldContent]:
    return [WorldContent(text, None, text) for text in _attribute_answers()]


def _neighbour_classes() -> list[WorldContent]:
    shapes = [ThingSpec(kind, colour) for colour in COLOURS for kind in SHAPES]
    named = shapes + [ThingSpec(name) for name in sprite_names("eval")]
    return [WorldContent(f"{said.colour} {said.kind}".strip(), None, said) for said in named]


TASKS = [
    WorldTask(
        name="attributes",
        meta_task="vqa",
        query_instruction="Answer the question about one object or the whole picture",
        target_instruction="",
        generate=partial(_attributes, held=False),
        classes=_attribute_classes,
    ),
    WorldTask(
        name="neighbors",
        meta_task="vqa",
        query_instruction="Answer the question about an object and what is beside it",
        target_instruction="",
        generate=partial(_neighbours, held=False),
        classes=_neighbour_classes,
    ),
    WorldTask(
        name="attributes_held",
        meta_task="vqa",
        query_instruction="Answer the question about one object or the whole picture",
        target_instruction="",
        generate=partial(_attributes, held=True),
        trained=False,
        classes=_attribute_classes,
    ),
    WorldTask(
        name="neighbors_held",
        meta_task="vqa",
        query_instruction="Answer the question about an object and what is beside it",
        target_instruction="",
        generate=partial(_neighbours, held=True),
        trained=False,
        classes=_neighbour_classes,
    ),
]
