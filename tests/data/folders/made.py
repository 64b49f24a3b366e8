"""What a folder is made of, and what must come out of it.

Each case is a function that writes a small folder as people have it and returns an `Outcome`: the
pictures that are usable with their captions, how many rows are rejected for which kind of reason, and
what is said. `Refused` is the beginning of the one sentence in place of all that.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

PROSE = (
    "a dog runs along the beach",
    "two children on a red swing",
    "an old bridge in the fog",
    "a bowl of soup and some bread",
    "a cyclist waits at the lights",
    "the harbour at night",
    "a cat asleep on a keyboard",
    "snow on the roofs of a village",
    "a market with fruit and flowers",
    "a train leaves the station",
)


ANY = "any"


@dataclass
class Outcome:
    """What must come out of a folder."""

    pictures: dict[str, tuple[str, ...]]
    """Location to captions, of all that can be used."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Rows by kind of reason; under ANY where more than one kind would be right."""
    merged: int = 0
    """Rows of a picture that was there before."""
    says: tuple[str, ...] = ()
    """What the log must contain."""
    language: str | None = None
    place: str = ""
    """The file to name in place of the folder."""


@dataclass
class Refused:
    """The one sentence that must come out; {folder} stands for the folder's path."""

    begins: str
    place: str = ""


Case = Callable[[Path], Outcome | Refused]
FOLDERS: dict[str, Case] = {}


def folder(build: Case) -> Case:
    """Add a case."""
    assert build.__name__ not in FOLDERS, build.__name__
    FOLDERS[build.__name__] = build
    return build


def image_bytes(number: int, kind: str = "PNG", size: tuple[int, int] = (24, 16)) -> bytes:
    """Return a picture; no two numbers give the same."""
    buffer = io.BytesIO()
    colour = (number * 37 % 256, number * 101 % 256, number // 256)
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def draw(place: Path, number: int, kind: str = "PNG") -> Path:
    """Write a picture."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(image_bytes(number, kind))
    return place


def pictures(place: Path, count: int = len(PROSE), below: str = "") -> list[str]:
    """Write some pictures; return their names, relative to `place`."""
    names = [f"{below}{number:02}.png" for number in range(count)]
    for number, name in enumerate(names):
        draw(place / name, number)
    return names


def each(names: Iterable[str], captions: Iterable[str] = PROSE) -> dict[str, tuple[str, ...]]:
    """Return one caption for each name."""
    return {name: (caption,) for name, caption in zip(names, captions, strict=True)}


def naive(
    place: Path,
    rows: Iterable[Sequence[str]],
    separator: str = ",",
    end: str = "\n",
    encoding: str = "utf-8",
) -> Path:
    """Write a table as a join of its cells, without a thought of quotes."""
    text = "".join(separator.join(row) + end for row in rows)
    place.write_bytes(text.encode(encoding))
    return place


def by_csv(place: Path, rows: Iterable[Sequence[Any]], **options: Any) -> Path:
    """Write a table as Python's csv module does."""
    with place.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **options).writerows(rows)
    return place


def with_caption(number: int, caption: str, captions: Sequence[str] = PROSE) -> list[str]:
    """Return the usual captions but for one."""
    changed = list(captions)
    changed[number] = caption
    return changed


def titled(names: Sequence[str], captions: Sequence[str]) -> list[Sequence[str]]:
    """Return the rows of a table with its header."""
    return [("image", "caption"), *zip(names, captions, strict=True)]
