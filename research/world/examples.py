"""What the tasks generate before anything is drawn: contents, examples, families of siblings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from research.world.scene import Scene, Thing
from research.world.truth import Crop, Meaning


@dataclass(frozen=True)
class ScenePicture:
    """A scene to draw, whole or cropped to one of its things."""

    scene: Scene
    thing: int | None = None

    @cached_property
    def _hash(self) -> int:
        return hash((self.scene, self.thing))

    def __hash__(self) -> int:
        """Hash once: pictures are looked up hundreds of times each."""
        return self._hash


@dataclass(frozen=True)
class WorldContent:
    """A text, a picture, or both, and what it means in its task."""

    text: str
    picture: ScenePicture | None
    meaning: Meaning

    @cached_property
    def _hash(self) -> int:
        return hash((self.text, self.picture, self.meaning))

    def __hash__(self) -> int:
        """Hash once: contents are looked up hundreds of times each."""
        return self._hash


@dataclass(frozen=True, slots=True)
class Example:
    """A query and its gold answer."""

    query: WorldContent
    target: WorldContent
    role: str = ""
    """What was changed to make this member of its family; empty for the first."""
    near: tuple[tuple[str, WorldContent], ...] = ()
    """Further (kind, content) that belong into this query's list."""


Family = list[Example]
"""Examples that are hard distractors for each other."""


@dataclass
class GenerationPlan:
    """What a task is asked to generate."""

    rng: np.random.Generator
    pairs: int
    partition: str
    """Whose scenes, sprites and wordings."""
    false_negative_rate: float = 0.0
    false_negative_kinds: tuple[str, ...] = ()
    corpus: bool = False
    """As training has it: one corpus, with false negatives; else families of siblings."""
    planted: list[tuple[WorldContent, WorldContent, str]] = field(default_factory=list)
    """(query, candidate, kind), filled by the generator."""


@dataclass(frozen=True)
class WorldTask:
    """One data set of the world."""

    name: str
    meta_task: str
    query_instruction: str
    target_instruction: str
    generate: Callable[[GenerationPlan], list[Family]]
    trained: bool = True
    """Whether there is a training set (IND) or not (OOD)."""
    in_batch: bool = True
    classes: Callable[[], list[WorldContent]] | None = None
    """The fixed candidate list, for tasks that have one."""


def picture_of(scene: Scene) -> WorldContent:
    """A whole picture that means its scene."""
    return WorldContent("", ScenePicture(scene), scene)


def crop_of(scene: Scene, index: int) -> WorldContent:
    """A picture cropped to one thing."""
    return WorldContent("", ScenePicture(scene, index), crop_meaning(scene, index))


def crop_meaning(scene: Scene, index: int) -> Crop:
    """What a crop of one thing shows."""
    thing: Thing = scene.things[index]
    return Crop(*thing.look, scene.background, thing.cell)
