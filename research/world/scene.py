"""The scene graph: everything a picture of this world is, and nothing else.

A scene is two to five things in distinct cells of a 3 x 3 layout on a coloured background. Relations
are not stored: they follow from the cells.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SHAPES = (
    "circle", "square", "triangle", "diamond", "star",
    "cross", "ring", "heart", "moon", "arrow",
)  # fmt: skip
SIZES = ("small", "large")
TEXTURES = ("solid", "striped", "dotted")
BACKGROUNDS = ("black", "gray", "brown", "teal")
CELLS = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
NATURAL = "natural"
"""The colour of a sprite that is drawn in its own colours; never put into words."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawn shape or sprite."""

    kind: str
    """A name out of SHAPES, or the name of a sprite."""
    colour: str
    """A name out of COLOURS; sprites may also be NATURAL."""
    size: str
    """A name out of SIZES; sprites are always large."""
    texture: str
    """A name out of TEXTURES; sprites are always solid."""
    cell: int
    """Row-major place in the 3 x 3 layout, 0..8."""
    shift: tuple[int, int] = (0, 0)
    """Pixels (right, down) off the cell's centre: seen, but never described."""

    @property
    def is_sprite(self) -> bool:
        """Whether the thing is a sprite and no drawn shape."""
        return self.kind not in SHAPES

    @property
    def look(self) -> tuple[str, str, str, str]:
        """All that can be said of it without saying where it is."""
        return self.kind, self.colour, self.size, self.texture


@dataclass(frozen=True, slots=True)
class Scene:
    """Things, drawn in order, on a background."""

    things: tuple[Thing, ...]
    background: str

    def replace_thing(self, index: int, **changes: object) -> Scene:
        """Return the scene with fields of one thing changed."""
        things = list(self.things)
        things[index] = dataclasses.replace(things[index], **changes)  # type: ignore[arg-type]
        return Scene(tuple(things), self.background)

    @property
    def inventory(self) -> str:
        """Which kinds in which colours, in alphabetical order; decides the partition."""
        return ",".join(sorted(f"{thing.colour} {thing.kind}" for thing in self.things))

    @property
    def graph(self) -> tuple[object, ...]:
        """The scene as far as words can tell: no shifts, no drawing order."""
        things = sorted((thing.cell, *thing.look) for thing in self.things)
        return (self.background, *things)


@dataclass(frozen=True, slots=True)
class ThingSpec:
    """What a text says of one thing; an empty field says nothing."""

    kind: str = ""
    colour: str = ""
    size: str = ""
    texture: str = ""
    cell: int = -1


@dataclass(frozen=True, slots=True)
class Spec:
    """What a text says of a scene: true of many scenes, or of none."""

    things: tuple[ThingSpec, ...] = ()
    """Each must be a different thing of the scene; the scene may hold more."""
    relations: tuple[tuple[int, str, int], ...] = ()
    """(index into things, relation, index into things)."""
    background: str = ""
    counts: tuple[tuple[ThingSpec, int], ...] = ()
    """Exactly so many things of the scene fit."""


def holds(relation: str, first: Thing, second: Thing) -> bool:
    """Tell whether `first` stands in `relation` to `second`; diagonal neighbours are both."""
    row, column = divmod(first.cell, 3)
    other_row, other_column = divmod(second.cell, 3)
    if relation == "left of":
        return column < other_column
    if relation == "right of":
        return column > other_column
    if relation == "above":
        return row < other_row
    assert relation == "below", relation
    return row > other_row


def relations(scene: Scene) -> Iterator[tuple[int, str, int]]:
    """Yield every true (index, relation, index) of the scene."""
    for first, second in permutations(range(len(scene.things)), 2):
        for relation in RELATIONS:
            if holds(relation, scene.things[first], scene.things[second]):
                yield first, relation, second


def fits(spec: ThingSpec, thing: Thing) -> bool:
    """Tell whether everything `spec` says is true of the thing."""
    return (
        spec.kind in ("", thing.kind)
        and spec.colour in ("", thing.colour)
        and spec.size in ("", thing.size)
        and spec.texture in ("", thing.texture)
        and spec.cell in (-1, thing.cell)
    )


def matches(spec: Spec, scene: Scene) -> bool:
    """Tell whether everything `spec` says is true of the scene."""
    if spec.background not in ("", scene.background):
        return False
    for counted, number in spec.counts:
        if sum(fits(counted, thing) for thing in scene.things) != number:
            return False
    options = [[i for i, t in enumerate(scene.things) if fits(s, t)] for s in spec.things]
    return all(options) and _assign(spec, scene, options, [])


def _assign(spec: Spec, scene: Scene, options: list[list[int]], chosen: list[int]) -> bool:
    """Search for distinct things that also stand in the right relations."""
    if len(chosen) == len(options):
        things = scene.things
        return all(holds(r, things[chosen[a]], things[chosen[b]]) for a, r, b in spec.relations)
    return any(
        _assign(spec, scene, options, [*chosen, index])
        for index in options[len(chosen)]
        if index not in chosen
    )
