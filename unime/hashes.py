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
from collections.abc import Callable
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
        fresh: read the bytes even if the cache knows the file.
    """
    return _remembered("xxh3", Path(path), _xxh3, fresh)


def sha256(path: Path | str) -> str:
    """Return the sha256 of a file's bytes as hex; remembered like `content_hash`."""
    return _remembered("sha256", Path(path), _sha256, False)


def cache_folder() -> Path:
    """Return where this user's caches are: $UNIME_CACHE, or `unime` in the cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unime"


def _remembered(algorithm: str, path: Path, compute: Callable[[Path], str], fresh: bool) -> str:
    key = (algorithm, *_state(path))
    known = None if fresh else _ask(key)
    if known is not None:
        return known
    value = compute(path)
    # Changed while it was read: the hash is of no one state.
    if key == (algorithm, *_state(path)) and _is_settled(key[-1]):
        _tell(key, value)
    return value


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


def _tell(key: tuple[Any, ...], value: str) -> None:
    try:
        with _lock, _cache(os.getpid(), cache_folder()) as cache:
            cache.execute("INSERT OR REPLACE INTO hashes VALUES (?,?,?,?,?,?,?)", (*key, value))
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
