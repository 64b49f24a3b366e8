"""Lessons for the student: short chats about one scene, harder with time.

All that is said is true, and all randomness comes from (seed, step): a lesson can be made again.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from research.world import base_prompts as prompts
from research.world.language import CORRUPTIONS, caption, corrupt, describe, pick, statement, word
from research.world.questions import full_name, questions
from research.world.render import crop, render
from research.world.sample import partition_of, sample_scene
from research.world.scene import CELLS, Scene, Spec, Thing


@dataclass(frozen=True, slots=True)
class Turn:
    """One question with its answer."""

    question: str
    answer: str
    kind: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """A chat: maybe a system text, maybe a picture, and turns."""

    system: str
    pictures: tuple[np.ndarray, ...]
    """None or one, uint8 (64, 64, 3), shown at the start of the first user turn."""
    turns: tuple[Turn, ...]
    scene: Scene
    """What it is about."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Which candidates are what a query asks for, each asked as the judge is asked."""

    prompts: tuple[str, ...]
    """One a candidate, rendered by the chat template up to where the answer begins."""
    pictures: tuple[np.ndarray, ...]
    """The query's once, then the candidates', in their order in the prompts."""
    answers: tuple[str, ...]
    """"Yes" or "No"."""
    kind: str
    """"pair" and the task."""
    query_pictures: int
    """How many pictures are the query's: none or one."""


def is_held(scene: Scene) -> bool:
    """Tell whether a scene is kept for evaluating the student; never one with a single thing."""
    return len(scene.things) > 1 and zlib.crc32(f"held {scene.inventory}".encode()) % 16 == 0


def make_lesson(
    rng: np.random.Generator,
    objects: tuple[int, int],
    text_share: float,
    sprite_share: float,
    listing_share: float = 0.33,
    held: bool = False,
    partition: str = "base",
) -> Lesson:
    """Make one lesson.

    Args:
        rng: Where all randomness comes from.
        objects: Least and most number of things in the scene.
        text_share: How many lessons have no picture.
        sprite_share: How likely a thing is a sprite.
        listing_share: How many lessons on pictures name everything: they teach most a second.
        held: Take a scene that is kept for evaluation, else one that is not.
        partition: Whose scenes, sprites and wordings.
    """
    scene = sample_scene(rng, partition, objects=objects, sprite_share=sprite_share)
    while is_held(scene) != held:
        scene = sample_scene(rng, partition, objects=objects, sprite_share=sprite_share)
    if rng.random() < text_share:
        return Lesson(_system(rng), (), pick(rng, _TEXT_LESSONS)(scene, rng), scene)
    if rng.random() < 0.08:
        return _crop_lesson(scene, rng)
    makers: tuple[_Maker, ...] = (_asking, _asking, _judging, _captioning)
    first = _listing if rng.random() < listing_share else pick(rng, makers)
    turns = first(scene, rng)
    if first is _captioning:
        turns += pick(rng, (_asking, _judging))(scene, rng)[:2]
    return Lesson(_system(rng), (render(scene),), turns, scene)


def full_listing(scene: Scene, places: bool) -> str:
    """Name every thing in reading order, completely and in only one way."""
    things = sorted(scene.things, key=lambda thing: thing.cell)
    if places:
        return " , ".join(f"{CELLS[thing.cell]} : {_whole(thing)}" for thing in things)
    return " , ".join(full_name(thing) for thing in things)


def _whole(thing: Thing) -> str:
    if thing.is_sprite:
        return full_name(thing)
    return f"{thing.size} {thing.texture} {thing.colour} {thing.kind}"


def _system(rng: np.random.Generator) -> str:
    """Return no system text in most of the lessons: they cost tokens."""
    return "" if rng.random() < 0.75 else pick(rng, prompts.SYSTEMS)


_Maker = Callable[[Scene, np.random.Generator], tuple[Turn, ...]]


def _listing(scene: Scene, rng: np.random.Generator) -> tuple[Turn, ...]:
    places = rng.random() < 0.7
    wording = pick(rng, prompts.LIST_PLACES if places else prompts.LIST_LOOKS)
    return (Turn(wording, full_listing(scene, places), "listing"),)


def _captioning(scene: Scene, rng: np.random.Generator) -> tuple[Turn, ...]:
    return (
        Turn(pick(rng, prompts.CAPTION), caption(scene, rng, partition_of(scene)).text, "caption"),
    )


def _asking(scene: Scene, rng: np.random.Generator) -> tuple[Turn, ...]:
    """Ask up to four questions, each of another kind."""
    asked = questions(scene, rng, partition_of(scene))
    order = rng.permutation(len(asked)).tolist()
    # Places and relations are learned last: they come more often than their share.
    order.sort(key=lambda i: asked[i].kind not in ("position", "relation", "related"))
    keep = sorted(order[:2] + order[2 : 3 + int(rng.integers(2))])
    chosen = [asked[i] for i in rng.permutation(keep).tolist()]
    return tuple(Turn(q.question, q.answer, q.kind) for q in chosen)


def _judging(scene: Scene, rng: np.random.Generator) -> tuple[Turn, ...]:
    """Judge two statements, one wording for all of them."""
    wording = pick(rng, prompts.TRUE)
    made = [statement(scene, rng, partition_of(scene)) for _ in range(2)]
    return tuple(
        Turn(wording.format(text=text), "Yes" if true else "No", f"judge_{kind}")
        for text, true, kind in made
    )


def _crop_lesson(scene: Scene, rng: np.random.Generator) -> Lesson:
    thing = pick(rng, scene.things)
    turn = Turn(pick(rng, prompts.CROP), _whole(thing), "crop")
    return Lesson(_system(rng), (crop(render(scene), thing),), (turn,), scene)


def _reading(scene: Scene, rng: np.random.Generator) -> tuple[Turn, ...]:
    """Answer questions from a complete description."""
    text = full_listing(scene, places=True)
    asked = questions(scene, rng, partition_of(scene), kinds=_READABLE)
    if not asked:
        return _paraphrasing(scene, rng)
    chosen = [asked[i] for i in rng.permutation(len(asked))[:2].tolist()]
    wording = pick(rng, prompts.ASK_TEXT)
    first, *others = (Turn(q.question, q.answer, f"text_{q.kind}") for q in chosen)
    question = wording.format(text=text, question=first.question)
    return (dataclasses.replace(first, question=question), *others)


def _paraphrasing(scene: Scene, rng: np.random.Generator) -> tuple[Turn, ...]:
    spec = describe(scene, rng)
    text, other = (word(spec, rng, partition_of(scene), synonyms=0.3) for _ in range(2))
    wording = pick(rng, prompts.PARAPHRASE)
    return (Turn(wording.format(text=text), other, "paraphrase"),)


def _comparing(scene: Scene, rng: np.random.Generator) -> tuple[Turn, ...]:
    """Tell whether two texts say the same: one paraphrased or made false by a word."""
    wording = pick(rng, prompts.SAME)
    turns = []
    for _ in range(2):
        spec = other = describe(scene, rng)
        answer = "Yes" if rng.random() < 0.5 else "No"
        if answer == "No":
            other = _corrupted(spec, scene, rng)
        query, candidate = (word(s, rng, partition_of(scene), synonyms=0.3) for s in (spec, other))
        question = wording.format(query=query, candidate=candidate)
        turns.append(Turn(question, answer, "text_same"))
    return tuple(turns)


def _corrupted(spec: Spec, scene: Scene, rng: np.random.Generator) -> Spec:
    """Make a spec false, or where that can't be done, another one."""
    for index in rng.permutation(len(CORRUPTIONS)).tolist():
        wrong = corrupt(spec, scene, rng, CORRUPTIONS[index])
        if wrong is not None:
            return wrong
    return _corrupted(describe(scene, rng), scene, rng)


_READABLE = ("colour", "shape", "size", "texture", "position", "relation", "existence", "related")
_TEXT_LESSONS: tuple[_Maker, ...] = (_reading, _paraphrasing, _comparing)
