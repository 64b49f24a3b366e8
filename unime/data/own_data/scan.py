"""Captioned images: read and checked, each file once; near-duplicates found; the test set chosen.

No copy, no near-copy and no caption of a test image stays in training.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from unime.core import console
from unime.core.errors import DataError, ModelError
from unime.data.dev_split import choose_dev, components
from unime.data.image_check import ImageChecker
from unime.data.image_processor import ModelSection, image_processor_of, refusal
from unime.data.images import MAX_PIXELS, Checked, ImageError, load_rgb
from unime.data.readers import DataSource, ResolvedSource, read
from unime.data.readers.base import Quoting
from unime.data.stage import DataRecipe, open_sources

ROWS = 1024
"""Rows that are checked together."""
SIDE = 8
"""Pixels a side of the thumbnail that near-duplicates are told by."""


class CaptionedImage(NamedTuple):
    """One image that can be used, with all of its captions."""

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
class FolderScan:
    """What was found in a folder."""

    root: Path
    place: str
    rows: int = 0
    pictures: list[CaptionedImage] = field(default_factory=list)
    rejected: list[dict[str, object]] = field(default_factory=list)
    duplicates: int = 0
    """Rows whose image, byte for byte, was there before; their captions were added to it."""


def scan_folder(
    place: str,
    raw: Path,
    language: str | None,
    model: str | None = None,
    encoding: str | None = None,
    quoting: Quoting = "auto",
) -> FolderScan:
    """Read every row, check every image; what cannot be used is in `rejected` with its reason.

    Args:
        place: see `prepare`.
        raw: where the data goes.
        language: which captions to take.
        model: the one that is to be trained; what its image processor does not take cannot be used.
        encoding: of text files.
        quoting: of CSV and TSV.

    Raises:
        DataError: when there is nothing to read.
    """
    source = DataSource(
        reader="folder", path="", task="own", language=language, encoding=encoding, quoting=quoting
    )
    root, job = _job(place, raw, source)
    scan = FolderScan(root, place)
    by_hash: dict[bytes, CaptionedImage] = {}
    cache = raw.parent / ".cache" / "images.sqlite"
    checker = ImageChecker(root, MAX_PIXELS, cache, _refusal(model))
    try:
        for chunk in _chunks(job):
            _take(chunk, checker, scan, by_hash)
    finally:
        checker.close()
    scan.pictures = list(by_hash.values())
    return scan


def _refusal(model: str | None) -> Callable[[tuple[int, int]], str | None] | None:
    """Return what says which sizes a model takes; a model that is not at hand is asked later."""
    if model is None:
        return None
    try:
        return partial(refusal, image_processor_of(ModelSection(id=model)))
    except ModelError as error:
        console.log(f"data: whether the model takes every picture is found out later: {error}")
        return None


def _job(place: str, raw: Path, source: DataSource) -> tuple[Path, ResolvedSource]:
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
    source = source.model_copy(update={"path": source_path})
    (job,) = open_sources(DataRecipe(root=str(root), sources=[source], output="unused"))
    return root, job


def _chunks(
    job: ResolvedSource,
) -> Iterator[list[tuple[str, int, str, tuple[str, ...]] | dict[str, object]]]:
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
    scan: FolderScan,
    by_hash: dict[bytes, CaptionedImage],
) -> None:
    """Check a chunk's images; add them, or their captions to what is there."""
    scan.rows += len(chunk)
    images = checker.check([row[2] for row in chunk if not isinstance(row, dict)])
    for row in chunk:
        if isinstance(row, dict):
            scan.rejected.append(row)
            continue
        file, number, location, captions = row
        found = images[location]
        if isinstance(found, ImageError):
            scan.rejected.append({"file": file, "row": number, "reason": str(found)})
        elif (before := by_hash.get(found.hash)) is not None:
            scan.duplicates += 1
            merged = tuple(dict.fromkeys(before.captions + captions))
            by_hash[found.hash] = before._replace(captions=merged)
        else:
            by_hash[found.hash] = _picture(scan.root, location, found, captions)


def _picture(
    root: Path, location: str, found: Checked, captions: tuple[str, ...]
) -> CaptionedImage:
    image = load_rgb(root, location)
    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE)), dtype=np.int16)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1])
    colours = image.resize((SIDE, SIDE)).tobytes()
    gradient = int.from_bytes(bits.tobytes(), "little")
    return CaptionedImage(
        location, found.hash, found.width, found.height, captions, gradient, colours
    )


MAX_BITS = 6
"""Near-copies differ in at most so many of 64 gradient bits ..."""


MAX_COLOUR = 10.0
"""... and by at most so much, of 255, in their thumbnails' colours on average."""


GENERIC_SHARE = 0.02
"""A caption of more than this share of the images says nothing about which one is meant."""


BLOCK = 1024
"""Pictures that are compared with all others at once."""


class Split(NamedTuple):
    """Which images are for the test, and what was found on the way."""

    test: Bool[np.ndarray, " pictures"]
    near: Int[np.ndarray, "pairs 2"]
    """Pairs of images that look alike."""
    generic: list[str]
    """Captions that too many images share; they hold nothing together."""
    largest_group: int
    """Pictures that are connected and had to stay on one side."""


def split_pictures(pictures: Sequence[CaptionedImage], share: float) -> Split:
    """Choose the test images by content: the same data in another order gives the same choice.

    Images are connected when they look alike or share a caption; a group stays on one side.
    """
    near = near_duplicates(pictures)
    shared, generic = _shared_captions(pictures)
    edges = np.concatenate([near, shared])
    groups = components(edges[:, 0], edges[:, 1], len(pictures))
    ids = np.frombuffer(b"".join(p.hash for p in pictures), dtype=np.uint8).reshape(-1, 16)
    wanted = max(1, round(share * len(pictures)))
    test = choose_dev(groups, np.zeros(len(pictures), dtype=np.int64), ids, [wanted])
    sizes = np.unique(groups, return_counts=True)[1]
    return Split(test, near, generic, int(sizes.max()))


def near_duplicates(pictures: Sequence[CaptionedImage]) -> Int[np.ndarray, "pairs 2"]:
    """Return pairs of images that look alike: scaled, compressed or slightly changed copies."""
    gradients = np.array([p.gradient for p in pictures], dtype=np.uint64)
    colours = np.array([np.frombuffer(p.colours, dtype=np.uint8) for p in pictures], dtype=np.int16)
    found = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(pictures), BLOCK):
        block = gradients[start : start + BLOCK, None] ^ gradients[None, start:]
        a, b = np.nonzero(np.bitwise_count(block) <= MAX_BITS)
        a, b = a[a < b] + start, b[a < b] + start
        alike = np.abs(colours[a] - colours[b]).mean(axis=1) <= MAX_COLOUR
        found.append(np.stack([a[alike], b[alike]], axis=1))
    return np.concatenate(found)


def leaks(pictures: Sequence[CaptionedImage], split: Split) -> dict[str, int]:
    """Count what test and training have in common, after the split."""
    sides = [
        {text for p, t in zip(pictures, split.test, strict=True) if t == side for text in _plain(p)}
        for side in (True, False)
    ]
    generic = {plain(text) for text in split.generic}
    crossing = split.test[split.near[:, 0]] != split.test[split.near[:, 1]]
    return {
        "near_duplicates": int(crossing.sum()),
        "captions": len((sides[0] & sides[1]) - generic),
        "generic_captions": len(sides[0] & sides[1] & generic),
    }


def plain(caption: str) -> str:
    """Return a caption as it is compared: small letters, no punctuation, single spaces."""
    text = unicodedata.normalize("NFKC", caption).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in text).split()) or caption


def _plain(picture: CaptionedImage) -> Iterator[str]:
    return (plain(caption) for caption in picture.captions)


def _shared_captions(
    pictures: Sequence[CaptionedImage],
) -> tuple[Int[np.ndarray, "pairs 2"], list[str]]:
    owners: dict[str, list[int]] = defaultdict(list)
    for number, picture in enumerate(pictures):
        for caption in dict.fromkeys(_plain(picture)):
            owners[caption].append(number)
    most = max(3, GENERIC_SHARE * len(pictures))
    generic = sorted(caption for caption, numbers in owners.items() if len(numbers) > most)
    edges = [
        (numbers[0], other)
        for caption, numbers in owners.items()
        if len(numbers) <= most
        for other in numbers[1:]
    ]
    return np.array(edges, dtype=np.int64).reshape(-1, 2), generic
