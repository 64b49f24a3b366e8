"""Retrieval by picture: a picture and an edit to the edited picture, and a picture to its twin."""

from __future__ import annotations

import dataclasses

import numpy as np

from research.world import words
from research.world.edits import (
    add_thing,
    change_attribute,
    exchange_places,
    move_thing,
    remove_thing,
    reshift,
    swap_attribute,
)  # fmt: skip
from research.world.examples import (
    Example,
    Family,
    GenerationPlan,
    ScenePicture,
    WorldContent,
    WorldTask,
    picture_of,
)
from research.world.language import name, pick
from research.world.questions import full_name, refer
from research.world.sample import sample_scene
from research.world.scene import BACKGROUNDS, CELLS, NATURAL, Scene

EDITS = ("colour", "kind", "texture", "add", "remove", "move", "background")
FAMILY = 4
WORDINGS = {
    "change": ("make the {a} {value}", "the {a} should be {value}", "turn the {a} {value}"),
    "kind": (
        "turn the {a} into {value}",
        "replace the {a} by {value}",
        "{value} instead of the {a}",
    ),
    "add": (
        "add {value} in the {place}",
        "with {value} in the {place}",
        "put {value} at the {place}",
    ),
    "remove": ("remove the {a}", "without the {a}", "take the {a} away"),
    "move": ("move the {a} to the {place}", "the {a} in the {place}", "put the {a} at the {place}"),
    "background": ("on a {value} background", "make the background {value}", "in front of {value}"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Edit:
    """What is asked for, in fields of a wording, and the scene it leads to."""

    kind: str
    fields: dict[str, str]
    goal: Scene

    def text(self, rng: np.random.Generator, avoid: str = "") -> str:
        """Word the edit, not as in `avoid`."""
        options = [w.format(**self.fields) for w in WORDINGS[self.kind]]
        return pick(rng, [text for text in options if text != avoid])


def _composed(plan: GenerationPlan) -> list[Family]:
    """Edit scenes; an evaluation family asks for several edits of one picture."""
    if plan.corpus:
        return _training(plan)
    families: list[Family] = []
    number = 0
    while number < plan.pairs:
        scene = sample_scene(plan.rng, plan.partition, objects=(2, 4))
        edits: dict[tuple[object, ...], Edit] = {}
        for _ in range(12):
            edit = _edit(scene, plan.rng)
            if edit is not None and len(edits) < min(FAMILY, plan.pairs - number):
                edits.setdefault(edit.goal.graph, edit)
        near = (
            ("query_picture", picture_of(scene)),
            ("unedited_twin", picture_of(reshift(scene, plan.rng))),
        )
        family = [_example(scene, edit, edit.text(plan.rng), near) for edit in edits.values()]
        families.append(family)
        number += len(family)
    return families


def _example(
    scene: Scene, edit: Edit, text: str, near: tuple[tuple[str, WorldContent], ...] = ()
) -> Example:
    query = WorldContent(text, ScenePicture(scene), edit.goal)
    return Example(query, picture_of(edit.goal), role="other_edit", near=near)


def _training(plan: GenerationPlan) -> list[Family]:
    """Draw edits with distinct goals, but for those planted two by two.

    Every other edit starts where the one before it ended: so pictures that are somebody's query stand
    in the corpus, as the query's own picture does in evaluation lists.
    """
    kinds = [k for k in plan.false_negative_kinds if k in ("paraphrase", "near_duplicate")]
    wanted = plan.false_negative_rate * plan.pairs if kinds else 0
    seen: set[tuple[object, ...]] = set()
    examples: list[Example] = []
    planted = 0
    before: Scene | None = None
    while len(examples) < plan.pairs:
        scene = before or sample_scene(plan.rng, plan.partition, objects=(2, 4))
        before = None
        edit = _edit(scene, plan.rng)
        if edit is None or edit.goal.graph in seen:
            continue
        seen |= {scene.graph, edit.goal.graph}
        examples.append(_example(scene, edit, edit.text(plan.rng)))
        before = edit.goal if plan.rng.random() < 0.5 else None
        if planted < wanted * len(examples) / plan.pairs and len(examples) < plan.pairs:
            kind = kinds[planted // 2 % len(kinds)]
            again = _again(plan, scene, edit, examples[-1].query.text, kind)
            if again is not None:
                examples.append(again)
                planted += 2
                for one, other in (examples[-2:], examples[:-3:-1]):
                    plan.planted.append((one.query, other.target, kind))
    return [[example] for example in examples]


def _again(plan: GenerationPlan, scene: Scene, edit: Edit, text: str, kind: str) -> Example | None:
    """Ask for the same goal in other pixels: in other words, or from another picture."""
    goal = reshift(edit.goal, plan.rng)
    if kind == "paraphrase":
        twin = dataclasses.replace(edit, goal=goal)
        return _example(reshift(scene, plan.rng), twin, edit.text(plan.rng, avoid=text))
    for _ in range(20):
        back = _edit(goal, plan.rng)
        if back is not None and back.kind == "change":
            index = next(i for i, t in enumerate(goal.things) if t != back.goal.things[i])
            spec = refer(back.goal, index, plan.rng)
            field = back.fields["field"]
            if spec is not None and getattr(goal.things[index], field) != NATURAL:
                value = getattr(goal.things[index], field)
                fields = {"a": name(spec, plan.rng), "value": value, "field": field}
                there = Edit("change", fields, goal)
                return _example(reshift(back.goal, plan.rng), there, there.text(plan.rng))
    return None


def _edit(scene: Scene, rng: np.random.Generator) -> Edit | None:
    """Draw one edit that can be said unambiguously."""
    kind = pick(rng, EDITS)
    if kind == "background":
        value = pick(rng, [ground for ground in BACKGROUNDS if ground != scene.background])
        return Edit(kind, {"value": value}, Scene(scene.things, value))
    if kind == "add":
        return _addition(scene, rng)
    index = int(rng.integers(len(scene.things)))
    spec = refer(scene, index, rng)
    return spec and _edit_of(scene, index, kind, {"a": name(spec, rng)}, rng)


def _addition(scene: Scene, rng: np.random.Generator) -> Edit | None:
    goal = add_thing(scene, rng) if len(scene.things) < 5 else None
    if goal is None:
        return None
    new = goal.things[-1]
    fields = {"value": words.article(full_name(new)), "place": CELLS[new.cell]}
    return Edit("add", fields, goal)


def _edit_of(
    scene: Scene, index: int, kind: str, fields: dict[str, str], rng: np.random.Generator
) -> Edit | None:
    """Remove, move or change one thing."""
    if kind == "remove":
        goal = remove_thing(scene, index) if len(scene.things) > 2 else None
        return goal and Edit(kind, fields, goal)
    if kind == "move":
        goal = move_thing(scene, index, rng)
        return Edit(kind, fields | {"place": CELLS[goal.things[index].cell]}, goal)
    changed = change_attribute(scene, index, rng, fields=(kind,))
    if changed is None:
        return None
    goal, field = changed
    value = getattr(goal.things[index], field)
    if field == "kind":
        return Edit(field, fields | {"value": words.article(value)}, goal)
    return Edit("change", fields | {"value": value, "field": field}, goal)


def _twins(plan: GenerationPlan) -> list[Family]:
    """Look for the same scene in other pixels among its near variants; with held-out sprites."""
    families: list[Family] = []
    number = 0
    while number < plan.pairs:
        scene = sample_scene(plan.rng, plan.partition, ood=True)
        variants = {scene.graph: ("", scene)}
        for role, variant in _variants(scene, plan.rng):
            if len(variants) < min(FAMILY, plan.pairs - number):
                variants.setdefault(variant.graph, (role, variant))
        families.append(
            [
                Example(picture_of(variant), picture_of(reshift(variant, plan.rng)), role)
                for role, variant in variants.values()
            ]
        )
        number += len(variants)
    return families


def _variants(scene: Scene, rng: np.random.Generator) -> list[tuple[str, Scene]]:
    first, second = rng.permutation(len(scene.things))[:2].tolist()
    found = [("relation_flipped", exchange_places(scene, first, second))]
    for _ in range(10):
        swapped = swap_attribute(scene, first, second, rng, ood=True)
        changed = change_attribute(scene, first, rng, ood=True)
        found += [("swap", swapped[0])] if swapped else []
        found += [("one_attribute_off", changed[0])] if changed else []
    return sorted(found, key=lambda variant: [v[0] for v in found].index(variant[0]))


TASKS = [
    WorldTask(
        name="edits",
        meta_task="retrieval",
        query_instruction="Find the picture that this one becomes by the change",
        target_instruction="Represent the given picture",
        generate=_composed,
    ),
    WorldTask(
        name="twins",
        meta_task="retrieval",
        query_instruction="Find the picture that shows the same scene",
        target_instruction="Represent the given picture",
        generate=_twins,
        trained=False,
    ),
]
