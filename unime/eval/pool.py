"""All distinct inputs of the selected tasks, each encoded once per model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from unime.core.errors import DataError
from unime.data.images import ImageError, load_rgb, locate, read_bytes, shown_size
from unime.data.items import content_id_from_hash, hash_image
from unime.data.video import hash_video, is_video, load_frame_grid

if TYPE_CHECKING:
    from unime.models.inputs import ModelInput

Side = Literal["query", "target"]

SHOWN = 10
"""How many bad locations an error lists."""


class Region(NamedTuple):
    """A part of a picture, in pixels; clipped to the picture."""

    location: str
    left: int
    top: int
    width: int
    height: int


class PoolImage(NamedTuple):
    """Where a picture is."""

    root: Path
    location: str
    """Below the root."""
    region: Region | None = None

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return what of a whole picture is shown: left, top, right, bottom; empty if nothing is."""
        if self.region is None:
            return 0, 0, width, height
        _, left, top, wide, high = self.region
        return max(left, 0), max(top, 0), min(left + wide, width), min(top + high, height)

    def load(self) -> Image.Image:
        """Decode it as RGB.

        Raises:
            DataError: when it cannot be used, or the region has no pixels.
        """
        if is_video(self.root, self.location):
            return load_frame_grid(self.root, self.location)
        whole = load_rgb(self.root, self.location)
        if self.region is None:
            return whole
        _, left, top, width, height = self.region
        box = self.box(*whole.size)
        if box[0] >= box[2] or box[1] >= box[3]:
            raise DataError(
                f"{self.location}: the region {left},{top} of {width} x {height} lies outside the "
                f"picture of {whole.width} x {whole.height} pixels"
            )
        return whole.crop(box)


@dataclass(frozen=True, slots=True)
class PoolEntry:
    """One distinct encode: a content, its side and its instruction."""

    text: str
    image: PoolImage | None
    side: Side
    instruction: str
    content: bytes
    """Its `content_id`."""

    def __str__(self) -> str:
        """Say what it is, in an error message."""
        picture = f"picture {self.image.location}" if self.image else ""
        text = f"text {self.text[:60]!r}" if self.text else ""
        return f"the {self.side} {' with '.join(filter(None, [picture, text]))}"


class Pool:
    """Distinct inputs by row number, and the pictures they need.

    Two places with equal picture files share one encode: identity is the content, not the path.
    """

    def __init__(self, cache_gb: float = 1.0) -> None:
        """Start empty; up to `cache_gb` of decoded pictures are kept for the next model."""
        self.entries: list[PoolEntry] = []
        self._rows: dict[tuple[bytes, Side, str], int] = {}
        self._hashes: dict[tuple[Path, str], bytes] = {}
        self._sizes: dict[tuple[Path, str], tuple[int, int]] = {}
        self._first_place: dict[bytes, tuple[Path, str]] = {}
        self._decoded: dict[PoolImage, Image.Image] = {}
        self._free_bytes = int(cache_gb * 1e9)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the decoded pictures behind when another process gets the pool."""
        return {**self.__dict__, "_decoded": {}, "_free_bytes": 0}

    def __len__(self) -> int:
        """Return the number of distinct inputs."""
        return len(self.entries)

    def add(
        self,
        texts: Sequence[str],
        images: Sequence[str | Region | None],
        instructions: Sequence[str],
        *,
        root: Path,
        side: Side,
    ) -> np.ndarray:
        """Return (n,) int32 rows of inputs, adding those not there yet.

        Args:
            texts: n texts.
            images: n image locations below `root`, or regions of such; None for no image.
            instructions: n instructions for that side.
            root: the folder the locations are relative to.
            side: "query" or "target".

        Raises:
            DataError: when pictures are missing, listing them; or an item is wholly empty.
        """
        self._hash(root, [i.location if isinstance(i, Region) else i for i in images])
        rows = [
            self._row(text, root, image, side, instruction)
            for text, image, instruction in zip(texts, images, instructions, strict=True)
        ]
        return np.array(rows, dtype=np.int32)

    def image(self, entry: PoolEntry) -> Image.Image | None:
        """Return an encode's picture as RGB."""
        if entry.image is None:
            return None
        picture = self._decoded.get(entry.image)
        if picture is None:
            picture = entry.image.load()
            size = 3 * picture.width * picture.height
            if size <= self._free_bytes:
                self._free_bytes -= size
                self._decoded[entry.image] = picture
        return picture

    def encode(self, row: int) -> ModelInput:
        """Return an entry as a model's input, its picture decoded."""
        from unime.models.inputs import ModelInput

        entry = self.entries[row]
        return ModelInput(entry.text, self.image(entry), entry.side, entry.instruction)

    def pictures(self) -> list[PoolImage]:
        """Return the distinct pictures."""
        return list(dict.fromkeys(e.image for e in self.entries if e.image is not None))

    def size(self, picture: PoolImage) -> tuple[int, int] | None:
        """Return a picture's width and height as shown; None for a video or what is no picture."""
        whole = self._sizes.get((picture.root, picture.location))
        if whole is None:
            return None
        left, top, right, bottom = picture.box(*whole)
        return (right - left, bottom - top) if right > left and bottom > top else None

    def _row(
        self, text: str, root: Path, image: str | Region | None, side: Side, instruction: str
    ) -> int:
        if not text and image is None:
            raise DataError(f"a {side} has neither text nor image; one of them must be given")
        region = image if isinstance(image, Region) else None
        location = image.location if isinstance(image, Region) else image
        file_hash = None if location is None else self._hashes[root, location]
        image_hash = file_hash
        if region is not None and file_hash is not None:
            image_hash = hash_image(file_hash + repr(region[1:]).encode())
        content = content_id_from_hash(text, image_hash)
        key = (content, side, instruction)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = len(self.entries)
            # Equal files at two places are decoded once.
            place = None if file_hash is None else self._first_place[file_hash]
            picture = None if place is None else PoolImage(*place, region)
            self.entries.append(PoolEntry(text, picture, side, instruction, content))
        return row

    def _hash(self, root: Path, images: Sequence[str | None]) -> None:
        bad: list[str] = []
        for image in dict.fromkeys(images):
            if image is None or (root, image) in self._hashes:
                continue
            try:
                if is_video(root, image):
                    digest = hash_video(root, image)
                else:
                    data = read_bytes(locate(root, image), image)
                    digest = hash_image(data)
                    # What is no picture is said when it is decoded.
                    with contextlib.suppress(ImageError):
                        self._sizes[root, image] = shown_size(data, image)
            except DataError as error:
                bad.append(str(error))
                continue
            self._hashes[root, image] = digest
            self._first_place.setdefault(digest, (root, image))
        if bad:
            more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
            listed = "\n  ".join(bad[:SHOWN])
            raise DataError(f"{len(bad)} pictures under {root} cannot be read:\n  {listed}{more}")
