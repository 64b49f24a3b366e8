"""Contents of files as hashes, computed once: remembered by inode and times between runs.

`content_hash` (xxh3, 128 bits) guards against damage and tells contents apart; `sha256` stands in
manifests where a hash identifies a user's file. Neither is a defence against an attacker.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import xxhash

CACHE_VARIABLE = "UNIME_CACHE"
"""The environment variable that names the folder of the cache."""

COARSE_SECONDS, FINE_SECONDS = 2.0, 0.05
"""A file changed more recently is not remembered: another change within one tick of its file system's
clock would leave no trace. Some count in seconds, most in milliseconds."""

_CHUNK = 1 << 20

_lock = threading.Lock()
"""Of the one connection that all threads use."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS hashes (
    algorithm TEXT, device INTEGER, inode INTEGER, size INTEGER, modified INTEGER, changed INTEGER,
    hash TEXT, PRIMARY KEY (algorithm, device, inode)
) WITHOUT ROWID
"""


def content_hash(path: Path | str, *, fresh: bool = False) -> str:
    """Return the xxh3 hash of a file's bytes, 32 hexadecimal digits.

    Args:
        path: the file.
        fresh: read the bytes, whatever the cache knows of the file.
    """
    return content_hashes([Path(path)], fresh=fresh)[0]


def content_hashes(paths: Sequence[Path], *, fresh: bool = False) -> list[str]:
    """Return `content_hash` of many files; what is new in the cache is written once."""
    if fresh:
        return [_xxh3(path) for path in paths]
    return _remembered("xxh3", paths, _xxh3)


def sha256(path: Path | str) -> str:
    """Return the sha256 of a file's bytes as hex; remembered like `content_hash`."""
    return _remembered("sha256", [Path(path)], _sha256)[0]


def cache_folder() -> Path:
    """Return where this user's caches are: $UNIME_CACHE, or `unime` in the cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unime"


def _remembered(algorithm: str, paths: Sequence[Path], compute: Callable[[Path], str]) -> list[str]:
    values: list[str] = []
    learned: list[tuple[Any, ...]] = []
    for path in paths:
        key = (algorithm, *_state(path))
        value = _ask(key)
        if value is None:
            value = compute(path)
            # Changed while it was read: the hash is of no one state.
            if key == (algorithm, *_state(path)) and _is_settled(key[-1]):
                learned.append((*key, value))
        values.append(value)
    if learned:
        _tell(learned)
    return values


def _state(path: Path) -> tuple[int, int, int, int, int]:
    """Return what changes whenever a file's bytes do; ctime can't be set back by a program."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _is_settled(changed: int) -> bool:
    """Tell whether any later change of a file will have another time, in nanoseconds."""
    tick = COARSE_SECONDS if changed % 1_000_000 == 0 else FINE_SECONDS
    return time.time() - changed / 1e9 > tick


def _xxh3(path: Path) -> str:
    hasher = xxhash.xxh3_128()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _ask(key: tuple[Any, ...]) -> str | None:
    try:
        with _lock:
            row = (
                _cache(os.getpid(), cache_folder())
                .execute(
                    "SELECT hash FROM hashes WHERE algorithm = ? AND device = ? AND inode = ? "
                    "AND size = ? AND modified = ? AND changed = ?",
                    key,
                )
                .fetchone()
            )
    except (sqlite3.Error, OSError):
        return None  # The cache only saves time: without it every file is read.
    return None if row is None else str(row[0])


def _tell(rows: Sequence[tuple[Any, ...]]) -> None:
    try:
        with _lock, _cache(os.getpid(), cache_folder()) as cache:
            cache.executemany("INSERT OR REPLACE INTO hashes VALUES (?,?,?,?,?,?,?)", rows)
    except (sqlite3.Error, OSError):
        return


@lru_cache(maxsize=4)
def _cache(process: int, folder: Path) -> sqlite3.Connection:
    """Open the cache; a forked process needs a connection of its own."""
    del process
    folder.mkdir(parents=True, exist_ok=True)
    cache = sqlite3.connect(folder / "hashes.sqlite", timeout=5, check_same_thread=False)
    cache.execute("PRAGMA synchronous=OFF")
    cache.execute(_SCHEMA)
    return cache
