"""Candidate lists of the evaluation sets: the gold, what is near it, and others at random."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from research.world.examples import Example, Family, WorldContent, WorldTask
from research.world.scene import ThingSpec
from research.world.truth import Crop, too_close


class Listed(NamedTuple):
    """A query and its candidates with their kinds; the first is gold."""

    query: WorldContent
    candidates: list[tuple[str, WorldContent]]


def candidate_lists(
    task: WorldTask, families: Sequence[Family], length: int, rng: np.random.Generator
) -> list[Listed]:
    """List candidates for every query of an evaluation set.

    No candidate but the gold is right, or can't be told from it. Tasks with fixed classes list them
    all.
    """
    fixed = task.classes() if task.classes else None
    pool = fixed or _distinct([example.target for family in families for example in family])
    listed = []
    for family in families:
        for example in family:
            near = [] if fixed else [*example.near, *_siblings(example, family)]
            size = len(fixed) if fixed else length
            listed.append(_list(example, near, pool, size, rng))
    return listed


def _distinct(contents: Sequence[WorldContent]) -> list[WorldContent]:
    return list(dict.fromkeys(contents))


def _siblings(example: Example, family: Family) -> list[tuple[str, WorldContent]]:
    """Return the other members' targets, by what sets them apart from this one's."""
    found = []
    for other in family:
        if other is example:
            continue
        # Two edits of one scene are two steps apart.
        kind = other.role or example.role if not (other.role and example.role) else "sibling"
        if other.role == example.role:
            kind = other.role
        found.append((kind, other.target))
    return found


def _list(
    example: Example,
    near: Sequence[tuple[str, WorldContent]],
    pool: Sequence[WorldContent],
    size: int,
    rng: np.random.Generator,
) -> Listed:
    """Fill one list: gold, near ones, then the pool in random order."""
    taken = {example.target}
    candidates = [("gold", example.target)]
    shuffled = (("", pool[i]) for i in rng.permutation(len(pool)).tolist())
    for kind, content in chain(near, shuffled):
        if len(candidates) >= size:
            break
        if content in taken or too_close(example.query.meaning, content.meaning):
            continue
        taken.add(content)
        candidates.append((kind or _kind(example.target, content), content))
    return Listed(example.query, candidates)


def _kind(gold: WorldContent, other: WorldContent) -> str:
    """Tell random candidates from those that differ in a single attribute."""
    one, two = gold.meaning, other.meaning
    if isinstance(one, ThingSpec) and isinstance(two, ThingSpec):
        if not one.colour or not two.colour:
            return "random"
        fields = ((one.kind, two.kind), (one.colour, two.colour))
    elif isinstance(one, Crop) and isinstance(two, Crop):
        fields = tuple(zip(one.look, two.look, strict=True))
    else:
        return "random"
    return "one_attribute_off" if sum(a != b for a, b in fields) == 1 else "random"
