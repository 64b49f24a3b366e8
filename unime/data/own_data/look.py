"""Reads and checks captioned pictures, each picture's file once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unime.core import console, files
from unime.core.config import ModelConfig
from unime.core.errors import DataError, ModelError
from unime.data.image_check import ImageChecker
from unime.data.images import MAX_PIXELS, Checked, ImageError, load_rgb
from unime.data.readers import Job, Source, read
from unime.data.stage import DataRecipe, open_sources

if TYPE_CHECKING:
    from unime.data.own_data.split import Split

ROWS = 1024
"""Rows that are checked together."""
SIDE = 8
"""Pixels a side of the thumbnail that near-duplicates are told by."""


class Picture(NamedTuple):
    """One picture that can be used, with all of its captions."""

    location: str
    """Relative to the folder: a path, or a row of a Parquet file or a tar member."""
    hash: bytes
    width: int
    height: int
    captions: tuple[str, ...]
    gradient: int
    """64 bits: where brightness rises from left to right (difference hash)."""
    colours: bytes
    """An 8 x 8 RGB thumbnail."""


@dataclass
class Look:
    """What was found in a folder."""

    root: Path
    place: str
    rows: int = 0
    pictures: list[Picture] = field(default_factory=list)
    rejected: list[dict[str, object]] = field(default_factory=list)
    duplicates: int = 0
    """Rows whose picture, byte for byte, was there before; their captions were added to it."""

    def write(self, raw: Path, split: Split) -> None:
        """Write the pictures (as links where that is possible), the captions files, the rejects."""
        linked: set[str] = set()
        for picture in console.progress(self.pictures, label="data: linking", unit="pictures"):
            name = _file_of(self.root, picture.location)
            if name not in linked:
                _link((self.root / name).resolve(), raw / "images" / name)
                linked.add(name)
        for name, chosen in (("train", ~split.test), ("test", split.test)):
            lines = [
                json.dumps(
                    {"image": f"images/{p.location}", "captions": list(p.captions)},
                    ensure_ascii=False,
                )
                for p, is_in in zip(self.pictures, chosen, strict=True)
                if is_in
            ]
            files.write_text(raw / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))
        self.write_rejected(raw)

    def write_rejected(self, raw: Path) -> None:
        """Write what cannot be used, with its reason."""
        lines = [json.dumps(row, ensure_ascii=False) for row in self.rejected]
        files.write_text(raw / "rejected.jsonl", "".join(f"{line}\n" for line in lines))


def look_at(place: str, raw: Path, language: str | None, model: str | None = None) -> Look:
    """Read every row, check every picture; what cannot be used is in `rejected` with its reason.

    Args:
        place: see `prepare`.
        raw: where the data goes.
        language: which captions to take.
        model: the one that is to be trained; what its image processor does not take cannot be used.

    Raises:
        DataError: when there is nothing to read.
    """
    root, job = _job(place, raw, language)
    look = Look(root, place)
    by_hash: dict[bytes, Picture] = {}
    cache = raw.parent / ".cache" / "images.sqlite"
    checker = ImageChecker(root, MAX_PIXELS, cache, _refusal(model))
    try:
        for chunk in _chunks(job):
            _take(chunk, checker, look, by_hash)
    finally:
        checker.close()
    look.pictures = list(by_hash.values())
    return look


def _refusal(model: str | None) -> Callable[[tuple[int, int]], str | None] | None:
    """Return what says which sizes a model takes; a model that is not at hand is asked later."""
    if model is None:
        return None
    from unime.models.usable import image_processor_of, refusal

    try:
        return partial(refusal, image_processor_of(ModelConfig(id=model)))
    except ModelError as error:
        console.log(f"data: whether the model takes every picture is found out later: {error}")
        return None


def _job(place: str, raw: Path, language: str | None) -> tuple[Path, Job]:
    path = Path(place)
    if place.startswith("hub:"):
        root, source_path = raw.parent / "hub", place
        root.mkdir(parents=True, exist_ok=True)
    elif path.is_file():
        root, source_path = path.parent, path.name
    elif path.is_dir():
        root, source_path = path, "."
    else:
        raise DataError(f"{place} is neither a folder nor a file, nor hub:OWNER/NAME")
    source = Source(reader="folder", path=source_path, task="own", language=language)
    (job,) = open_sources(DataRecipe(root=str(root), sources=[source], output="unused"))
    return root, job


def _chunks(job: Job) -> Iterator[list[tuple[str, int, str, tuple[str, ...]] | dict[str, object]]]:
    """Yield rows as (file, number, image, captions), or as what is rejected."""
    chunk: list[tuple[str, int, str, tuple[str, ...]] | dict[str, object]] = []
    for row in console.progress(read(job), label="data: reading", unit="rows"):
        if row.error is not None:
            chunk.append({"file": row.file, "row": row.number, "reason": str(row.error)})
        else:
            (pair,) = row.pairs
            captions = tuple(item.text for item in pair.positives)
            assert pair.query.image is not None
            chunk.append((row.file, row.number, pair.query.image, captions))
        if len(chunk) == ROWS:
            yield chunk
            chunk = []
    yield chunk


def _take(
    chunk: list[tuple[str, int, str, tuple[str, ...]] | dict[str, object]],
    checker: ImageChecker,
    look: Look,
    by_hash: dict[bytes, Picture],
) -> None:
    """Check a chunk's pictures; add them, or their captions to what is there."""
    look.rows += len(chunk)
    images = checker.check([row[2] for row in chunk if not isinstance(row, dict)])
    for row in chunk:
        if isinstance(row, dict):
            look.rejected.append(row)
            continue
        file, number, location, captions = row
        found = images[location]
        if isinstance(found, ImageError):
            look.rejected.append({"file": file, "row": number, "reason": str(found)})
        elif (before := by_hash.get(found.hash)) is not None:
            look.duplicates += 1
            merged = tuple(dict.fromkeys(before.captions + captions))
            by_hash[found.hash] = before._replace(captions=merged)
        else:
            by_hash[found.hash] = _picture(look.root, location, found, captions)


def _picture(root: Path, location: str, found: Checked, captions: tuple[str, ...]) -> Picture:
    image = load_rgb(root, location)
    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE)), dtype=np.int16)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1])
    colours = image.resize((SIDE, SIDE)).tobytes()
    gradient = int.from_bytes(bits.tobytes(), "little")
    return Picture(location, found.hash, found.width, found.height, captions, gradient, colours)


def _file_of(root: Path, location: str) -> str:
    """Return the picture's file, or the table it lies in."""
    table = location.partition("#")[0]
    return table if (root / table).is_file() else location


def _link(source: Path, place: Path) -> None:
    """Put a file into the run: no second copy on one disk."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists() and place.samefile(source):
        return
    # What else is there is of a run that was killed, and may be half a copy, or another picture.
    place.unlink(missing_ok=True)
    try:
        os.link(source, place)
    except OSError:  # another disk, or one that knows no links
        with files.atomic_path(place) as temporary:
            shutil.copyfile(source, temporary)
