"""The truth about every query and candidate: what each means, and which fit together.

A content's meaning is one of
- a `Scene` (a picture, or the picture an edit asks for) without its shifts,
- a `Spec` (a caption),
- a `Thing` (what a question or a class asks for) or a `ThingSpec` (an answer or label naming one),
- a `Crop` (a part of a picture, or a reference to one),
- a plain string (an answer or label in its canonical word).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from research.world.scene import Scene, Spec, Thing, ThingSpec, fits, matches
from unime.core.errors import DataError
from unime.data import tables


@dataclass(frozen=True, slots=True)
class Crop:
    """One thing where it stands: what a crop shows."""

    kind: str
    colour: str
    size: str
    texture: str
    background: str
    cell: int

    @property
    def look(self) -> tuple[str, str, str, str]:
        """Everything but the place."""
        return self.kind, self.colour, self.size, self.texture


Meaning = Scene | Spec | Thing | ThingSpec | Crop | str

TRUTH = pa.schema(
    [
        pa.field("task", tables.NAME, nullable=False),
        pa.field("split", tables.NAME, nullable=False),
        pa.field("content_id", pa.binary(16), nullable=False),
        pa.field("meaning", pa.large_string(), nullable=False),
    ]
)
PLANTED = pa.schema(
    [
        pa.field("task", tables.NAME, nullable=False),
        pa.field("query", pa.binary(16), nullable=False),
        pa.field("candidate", pa.binary(16), nullable=False),
        pa.field("kind", tables.NAME, nullable=False),
    ]
)


def relevant(query: Meaning, candidate: Meaning) -> bool:
    """Tell whether a candidate is a right answer to a query."""
    match query, candidate:
        case Spec(), Scene():
            return matches(query, candidate)
        case Scene(), Spec():
            return matches(candidate, query)
        case Scene(), Scene():
            return query.graph == candidate.graph
        case Thing(), ThingSpec():
            return fits(candidate, query)
        case (Crop(), Crop()) | (str(), str()):
            return query == candidate
    return False


def too_close(query: Meaning, candidate: Meaning) -> bool:
    """Tell whether a candidate may not stand in an evaluation list beside the gold.

    It is right, or a reader of pixels couldn't tell: the same thing cropped elsewhere.
    """
    if isinstance(query, Crop) and isinstance(candidate, Crop):
        return query.look == candidate.look
    return relevant(query, candidate)


_CLASSES = {cls.__name__: cls for cls in (Scene, Spec, Thing, ThingSpec, Crop)}


def to_json(meaning: Meaning) -> str:
    """Write a meaning as compact JSON; shifts are left out."""
    if isinstance(meaning, str):
        return json.dumps(["text", meaning])
    if isinstance(meaning, Scene):
        things = [[*thing.look, thing.cell] for thing in meaning.things]
        fields = [things, meaning.background]
    elif isinstance(meaning, Thing):
        fields = [*meaning.look, meaning.cell]
    elif isinstance(meaning, Spec):
        things = [dataclasses.astuple(thing) for thing in meaning.things]
        counts = [[dataclasses.astuple(thing), number] for thing, number in meaning.counts]
        fields = [things, meaning.relations, meaning.background, counts]
    else:
        fields = dataclasses.astuple(meaning)
    return json.dumps([type(meaning).__name__, fields], separators=(",", ":"))


@lru_cache(maxsize=1 << 17)
def from_json(text: str) -> Meaning:
    """Read what `to_json` wrote."""
    name, fields = json.loads(text)
    if name == "text":
        return fields
    if name == "Scene":
        return Scene(tuple(Thing(*thing) for thing in fields[0]), fields[1])
    if name == "Spec":
        things = tuple(ThingSpec(*thing) for thing in fields[0])
        related = tuple((first, relation, second) for first, relation, second in fields[1])
        counts = tuple((ThingSpec(*thing), number) for thing, number in fields[3])
        return Spec(things, related, fields[2], counts)
    return _CLASSES[name](*fields)


class WorldTruth:
    """The truth about a built world, by content ids."""

    def __init__(self, meanings: pa.Table, planted: pa.Table) -> None:
        self._meanings: dict[str, dict[bytes, str]] = {}
        for row in meanings.to_pylist():
            self._meanings.setdefault(row["task"], {})[row["content_id"]] = row["meaning"]
        self._planted: dict[tuple[str, bytes], list[bytes]] = {}
        for row in planted.to_pylist():
            self._planted.setdefault((row["task"], row["query"]), []).append(row["candidate"])

    @classmethod
    def load(cls, folder: Path | str) -> WorldTruth:
        """Read the truth of the world built in a folder."""
        folder = Path(folder)
        return cls(
            tables.read_table(folder / "truth.parquet"),
            tables.read_table(folder / "planted.parquet"),
        )

    def meaning(self, task: str, content: bytes) -> Meaning:
        """Return what a content means in a task.

        Raises:
            DataError: when the task, or the content in it, is unknown.
        """
        if task not in self._meanings:
            known = ", ".join(sorted(self._meanings))
            raise DataError(f"the world has no task '{task}'; known: {known}")
        if content not in self._meanings[task]:
            raise DataError(f"task {task} of the world has no content {content.hex()}")
        return from_json(self._meanings[task][content])

    def relevant(self, task: str, query: bytes, candidates: Sequence[bytes]) -> np.ndarray:
        """Tell which candidates are right answers to a query: bool of shape (candidates,)."""
        wanted = self.meaning(task, query)
        return np.array([relevant(wanted, self.meaning(task, c)) for c in candidates], dtype=bool)

    def planted(self, task: str, query: bytes) -> list[bytes]:
        """Return the false negatives planted for a query in its task's training corpus."""
        return self._planted.get((task, query), [])
