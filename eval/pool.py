"""All distinct encodes of the selected tasks, each encoded once per model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from unime.errors import DataError
from unime.images import load_rgb, locate, read_bytes
from unime.records import content_id_from_hash, hash_image

Side = Literal["query", "target"]

SHOWN = 10
"""How many bad locations an error lists."""


@dataclass(frozen=True, slots=True)
class PoolEntry:
    """One distinct encode: a content, its side and its instruction."""

    text: str
    image: tuple[Path, str] | None
    """Root and location below it."""
    side: Side
    instruction: str

    def __str__(self) -> str:
        """Say what it is, in an error message."""
        picture = f"picture {self.image[1]}" if self.image else ""
        text = f"text {self.text[:60]!r}" if self.text else ""
        return f"the {self.side} {' with '.join(filter(None, [picture, text]))}"


class Pool:
    """Distinct encodes by row number, and the pictures they need.

    Two places with equal picture files share one encode: identity is the content, not the path.
    """

    def __init__(self, cache_gb: float = 1.0) -> None:
        """Start empty; up to `cache_gb` of decoded pictures are kept for the next model."""
        self.entries: list[PoolEntry] = []
        self._rows: dict[tuple[bytes, Side, str], int] = {}
        self._hashes: dict[tuple[Path, str], bytes] = {}
        self._first_place: dict[bytes, tuple[Path, str]] = {}
        self._decoded: dict[tuple[Path, str], Image.Image] = {}
        self._free_bytes = int(cache_gb * 1e9)

    def __len__(self) -> int:
        """Return the number of distinct encodes."""
        return len(self.entries)

    def add(
        self,
        texts: Sequence[str],
        images: Sequence[str | None],
        instructions: Sequence[str],
        *,
        root: Path,
        side: Side,
    ) -> np.ndarray:
        """Return (n,) int32 rows of encodes, adding those not there yet.

        Args:
            texts: n texts.
            images: n image locations below `root`, None for no image.
            instructions: n instructions for that side.
            root: the folder the locations are relative to.
            side: "query" or "target".

        Raises:
            DataError: when pictures are missing, listing them; or an item is wholly empty.
        """
        self._hash(root, images)
        rows = [
            self._row(text, None if image is None else (root, image), side, instruction)
            for text, image, instruction in zip(texts, images, instructions, strict=True)
        ]
        return np.array(rows, dtype=np.int32)

    def image(self, entry: PoolEntry) -> Image.Image | None:
        """Return an encode's picture as RGB."""
        if entry.image is None:
            return None
        picture = self._decoded.get(entry.image)
        if picture is None:
            picture = load_rgb(*entry.image)
            size = 3 * picture.width * picture.height
            if size <= self._free_bytes:
                self._free_bytes -= size
                self._decoded[entry.image] = picture
        return picture

    def pictures(self) -> list[tuple[Path, str]]:
        """Return the distinct pictures, as root and location."""
        return list(dict.fromkeys(e.image for e in self.entries if e.image is not None))

    def _row(self, text: str, place: tuple[Path, str] | None, side: Side, instruction: str) -> int:
        if not text and place is None:
            raise DataError(f"a {side} has neither text nor image; one of them must be given")
        image_hash = None if place is None else self._hashes[place]
        key = (content_id_from_hash(text, image_hash), side, instruction)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = len(self.entries)
            # Equal files at two places are decoded once.
            shared = None if image_hash is None else self._first_place[image_hash]
            self.entries.append(PoolEntry(text, shared, side, instruction))
        return row

    def _hash(self, root: Path, images: Sequence[str | None]) -> None:
        bad: list[str] = []
        for image in dict.fromkeys(images):
            if image is None or (root, image) in self._hashes:
                continue
            try:
                digest = hash_image(read_bytes(locate(root, image), image))
            except DataError as error:
                bad.append(str(error))
                continue
            self._hashes[root, image] = digest
            self._first_place.setdefault(digest, (root, image))
        if bad:
            more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
            listed = "\n  ".join(bad[:SHOWN])
            raise DataError(f"{len(bad)} pictures under {root} cannot be read:\n  {listed}{more}")
