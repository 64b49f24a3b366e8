"""Check many images once: in parallel, remembered by (path, size, modification time)."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from unime.core import console
from unime.core.processes import cores
from unime.data.images import Checked, ImageError, ImageLocation, check, locate

RULES = 3
"""Of what makes an image usable; what was found good under other rules is looked at again."""

LOCATIONS_PER_TASK = 64
"""Threads pay off for photographs (decoders release the interpreter lock), not one icon at a
time."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS images (
    path TEXT, member TEXT, size INTEGER, version TEXT,
    hash BLOB, width INTEGER, height INTEGER,
    PRIMARY KEY (path, member)
) WITHOUT ROWID
"""


class ImageChecker:
    """Hashes and decode-checks images; what was found good before is not read again.

    Args:
        root: the data root.
        max_pixels: cap on width x height.
        cache: the SQLite file that remembers good images.
        refusal: says why a model does not take images of a (width, height); None where it does.
    """

    def __init__(
        self,
        root: Path | str,
        max_pixels: int,
        cache: Path,
        refusal: Callable[[tuple[int, int]], str | None] | None = None,
    ) -> None:
        self.root = Path(root)
        self._refusal = functools.cache(refusal) if refusal is not None else None
        self.max_pixels = max_pixels
        self.cache = _open_cache(cache)
        self.decoded = 0
        self.pool = ThreadPoolExecutor(cores())

    def close(self) -> None:
        """Give the threads and the cache file back."""
        self.pool.shutdown()
        self.cache.close()

    def check(self, locations: Iterable[str]) -> dict[str, Checked | ImageError]:
        """Return what is known of each image, or why it cannot be used."""
        found: dict[str, Checked | ImageError] = {}
        todo: list[tuple[str, ImageLocation]] = []
        for location in dict.fromkeys(locations):
            try:
                place = locate(self.root, location)
            except ImageError as error:
                found[location] = error
                continue
            known = self._look_up(place)
            if known is None:
                todo.append((location, place))
            else:
                found[location] = self._within_cap(known, location)
        found.update(self._decode(todo))
        return {location: self._fits(known, location) for location, known in found.items()}

    def _fits(self, known: Checked | ImageError, location: str) -> Checked | ImageError:
        """Hold an image's size against what the model takes."""
        if self._refusal is None or isinstance(known, ImageError):
            return known
        reason = self._refusal((known.width, known.height))
        if reason is None:
            return known
        detail = f"{location!r} has {known.width} x {known.height} pixels: {reason}"
        return ImageError("refused by the model", detail)

    def _decode(self, todo: Sequence[tuple[str, ImageLocation]]) -> dict[str, Checked | ImageError]:
        locations = [location for location, _ in todo]
        tasks = [
            locations[start : start + LOCATIONS_PER_TASK]
            for start in range(0, len(locations), LOCATIONS_PER_TASK)
        ]
        results = [result for task in self.pool.map(self._check_some, tasks) for result in task]
        self.decoded += len(results)
        rows = [
            (_key(place), place.member, place.size, place.version, *result)
            for (_, place), result in zip(todo, results, strict=True)
            if isinstance(result, Checked)
        ]
        with self.cache:
            self.cache.executemany("INSERT OR REPLACE INTO images VALUES (?,?,?,?,?,?,?)", rows)
        return dict(zip(locations, results, strict=True))

    def _check_some(self, locations: Sequence[str]) -> list[Checked | ImageError]:
        return [self._check_one(location) for location in locations]

    def _check_one(self, location: str) -> Checked | ImageError:
        try:
            return check(self.root, location, self.max_pixels)
        except ImageError as error:
            return error

    def _look_up(self, place: ImageLocation) -> Checked | None:
        row = self.cache.execute(
            "SELECT hash, width, height FROM images "
            "WHERE path = ? AND member = ? AND size = ? AND version = ?",
            (_key(place), place.member, place.size, place.version),
        ).fetchone()
        return None if row is None else Checked(*row)

    def _within_cap(self, known: Checked, location: str) -> Checked | ImageError:
        """Hold a remembered image against this run's cap, which may be another."""
        if known.width * known.height <= self.max_pixels:
            return known
        return self._check_one(location)


def _key(place: ImageLocation) -> str:
    """Return a file's path as SQLite takes it: the bytes of a folder's name may be no UTF-8."""
    return console.printable(str(place.path))


def _open_cache(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        console.log(f"{path} is damaged ({error}); every image is checked again")
        path.unlink()
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60)
    # A killed process loses nothing by this, only a power cut could: then images are read again.
    connection.execute("PRAGMA synchronous=OFF")
    if connection.execute("PRAGMA user_version").fetchone()[0] != RULES:
        connection.execute("DROP TABLE IF EXISTS images")
        connection.execute(f"PRAGMA user_version={RULES}")
    connection.execute(_SCHEMA)
    return connection
