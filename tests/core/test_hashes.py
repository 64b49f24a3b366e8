"""Hashes of files, and the cache that spares reading them again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import xxhash

from unime.core import hashes


@pytest.fixture
def old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was not changed a moment ago, and an empty cache."""
    monkeypatch.setenv("UNIME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "FINE_SECONDS", 0.0)
    monkeypatch.setattr(hashes, "COARSE_SECONDS", 0.0)
    path = tmp_path / "file"
    path.write_bytes(b"content")
    time.sleep(0.01)
    return path


def test_the_hash_is_that_of_the_bytes(old_file: Path):
    assert hashes.content_hash(old_file) == xxhash.xxh3_128_hexdigest(b"content")
    assert hashes.sha256(old_file) == hashes.sha256(old_file)
    assert len(hashes.sha256(old_file)) == 64


def test_a_known_file_is_not_read_again_and_a_changed_one_is(
    old_file: Path, monkeypatch: pytest.MonkeyPatch
):
    first = hashes.content_hash(old_file)
    read = []
    monkeypatch.setattr(hashes, "_xxh3", lambda path: read.append(path) or "read")
    assert hashes.content_hash(old_file) == first and not read
    assert hashes.content_hash(old_file, fresh=True) == "read"
    # The same size, and a modification time that was set back: the change time tells.
    before = old_file.stat()
    old_file.write_bytes(b"CONTENT")
    os.utime(old_file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert hashes.content_hash(old_file) == "read"


def test_a_file_just_written_is_read_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UNIME_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = hashes.content_hash(path)
    monkeypatch.setattr(hashes, "_xxh3", lambda path: "read")
    assert first != "read" == hashes.content_hash(path)


def test_without_a_usable_cache_files_are_read(old_file: Path, monkeypatch: pytest.MonkeyPatch):
    (old_file.parent / "cache").write_text("a file where the folder should be")
    assert hashes.content_hash(old_file) == xxhash.xxh3_128_hexdigest(b"content")
    monkeypatch.setenv("UNIME_CACHE", str(old_file.parent / "other"))
    (old_file.parent / "other").mkdir()
    (old_file.parent / "other/hashes.sqlite").write_bytes(b"no database" * 100)
    assert hashes.content_hash(old_file) == xxhash.xxh3_128_hexdigest(b"content")
