"""What an output or a foreign folder holds, byte for byte: identified, and checked before it is read.

The manifest of a finished output lists its files with size and hash. A flipped bit, a truncated table
or a missing file is an error of the next stage then, not another result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import xxhash

from unime.core import files, hashes, journal, locks
from unime.core.console import log, progress
from unime.core.errors import DamagedError, OutputError

MARKS = ("manifest.json", "run.json", "plan.json", journal.NAME, locks.NAME)
EDITABLE = ("README.md",)
"""Files for people, which may change: `unime push` writes results into a model card."""
VOLATILE = ("speed.jsonl", "timing.json", "results.json")
"""Files that say how long something took: equal runs write different ones."""

IMAGE_SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".avif",
        ".jp2",
        ".j2k",
        ".ppm",
        ".pgm",
        ".pbm",
        ".ico",
        ".heic",
        ".heif",
    ]
)
"""Of files that are taken for images, in small letters. HEIC is among them to be refused with a reason."""

MEDIA = IMAGE_SUFFIXES | frozenset(
    [
        ".mp4",
        ".mkv",
        ".webm",
        ".avi",
        ".mov",
        ".tar",
        ".zip",
        ".gz",
        ".mp3",
        ".wav",
    ]
)
"""Files of a foreign folder that are told apart by name and size alone: there may be terabytes."""

Contents = dict[str, tuple[int, str]]
"""Size and hash of files, by their name in a folder."""

SHOWN = 10
"""Damaged files that an error names."""


def fingerprint(place: Path) -> str:
    """Return what identifies an input: hash of a finished output's manifest, or of its bytes.

    The files of a finished output are checked on the way. A folder that this project did not write
    is identified by its files' names and bytes (media, which may be terabytes, by their sizes), a
    name that is no path (a Hub id) by itself.

    Raises:
        OutputError: when it is missing, unfinished or damaged.
    """
    # A trained model lies in a stage's output (2_warmup/model): the stage's manifest names it.
    for folder in (place, place.parent):
        if (folder / "manifest.json").is_file():
            below = "" if folder == place else place.name
            check_contents(folder, read_manifest(folder), below)
            return f"manifest:{hashes.sha256(folder / 'manifest.json')}"
        if (folder / "plan.json").is_file():
            raise OutputError(f"{folder} is unfinished; run its stage again, it will be resumed")
    if place.is_file():
        return f"sha256:{hashes.sha256(place)}"
    if place.is_dir():
        return f"tree:{_hash_tree(place)}"
    if place.is_absolute() or place.parts[:1] in {("runs",), (".",), ("..",)}:
        raise OutputError(
            f"{place} is missing (working directory {Path.cwd()}); run its stage first"
        )
    return f"name:{place.as_posix()}"


def check_folder(folder: Path) -> None:
    """Check a folder that is, or lies in, a finished output; another one is taken as it is.

    Raises:
        OutputError: naming the files that are damaged or gone.
    """
    for output in (folder, folder.parent):
        if (output / "manifest.json").is_file():
            check_contents(output, read_manifest(output), "" if output == folder else folder.name)
            return


def verify_files(folder: Path) -> str:
    """Read every byte of every finished output at or below a folder; return what was found.

    Raises:
        OutputError: when a file is damaged or gone, or there is no finished output.
    """
    outputs = sorted(path.parent for path in folder.rglob("manifest.json"))
    if not outputs:
        raise OutputError(f"{folder} holds no finished output (no manifest.json)")
    lines, wrong = [], []
    for output in progress(outputs, len(outputs), "verify", "outputs"):
        try:
            count = check_contents(output, read_manifest(output), fresh=True)
            lines.append(f"{output}: {count} files as they were written")
        except (OutputError, DamagedError) as error:
            wrong.append(str(error))
    if wrong:
        raise OutputError(
            "\n".join([f"{len(wrong)} of {len(outputs)} outputs are damaged", *wrong])
        )
    return "\n".join(lines)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a finished output.

    Raises:
        DamagedError: when it is not as it was written.
    """
    path = folder / "manifest.json"
    manifest = files.read_json(path)
    if not isinstance(manifest, dict):
        raise DamagedError(f"{path} is no manifest")
    written = manifest.pop("checksum", None)
    if written is not None and written != checksum(manifest):
        raise DamagedError(f"{path} was changed since it was written; put it back")
    return manifest


def check_contents(
    folder: Path, manifest: Mapping[str, Any], below: str = "", *, fresh: bool = False
) -> int:
    """Check that the files of a finished output are as they were written.

    Args:
        folder: the output.
        manifest: its own.
        below: only this file, or the files in this folder.
        fresh: read every byte, even of files that the cache of hashes knows.

    Returns:
        How many files were checked.

    Raises:
        OutputError: naming the files that are damaged or gone.
    """
    if "files" not in manifest:
        _say_unchecked(folder)
        return 0
    listed = dict(manifest["files"])
    if not below:
        run = folder / "run.json"
        listed |= files.read_json(run).get("files", {}) if run.is_file() else {}
    wrong: dict[str, str] = {}
    whole: list[str] = []
    for name, (size, _) in sorted(listed.items()):
        is_outside = below and name != below and not name.startswith(f"{below}/")
        if is_outside or name.rpartition("/")[2] in EDITABLE:
            continue
        path = folder / name
        if not path.is_file():
            wrong[name] = "is gone"
        elif (found := path.stat().st_size) != size:
            wrong[name] = f"has {found} bytes, {size} were written"
        else:
            whole.append(name)
    found_hashes = hashes.content_hashes([folder / name for name in whole], fresh=fresh)
    for name, found_hash in zip(whole, found_hashes, strict=True):
        if found_hash != listed[name][1]:
            wrong[name] = "has other contents than were written"
    if wrong:
        lines = [f"{name} {problem}" for name, problem in sorted(wrong.items())]
        rest = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        raise OutputError(
            "\n  ".join([f"{folder} was changed since it was finished:", *lines[:SHOWN], *rest])
            + "\nput these files back, or run its stage again with --restart"
        )
    return len(whole)


@cache
def _say_unchecked(folder: Path) -> None:
    log(f"{folder} was written before outputs had hashes of their files; they are not checked")


def _hash_tree(folder: Path) -> str:
    """Hash names and bytes of a folder's files."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    hasher = xxhash.xxh3_128()
    for name in progress(names, len(names), f"reading {folder}", "files"):
        path = folder / name
        by_size = path.suffix.lower() in MEDIA
        value = f"{path.stat().st_size} bytes" if by_size else hashes.content_hash(path)
        hasher.update(f"{name}\0{value}\n".encode("utf-8", "surrogateescape"))
    return hasher.hexdigest()


def hash_listing(folder: Path) -> str:
    """Hash names and sizes of a folder's files: what identified it before its bytes did."""
    import hashlib

    hasher = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        hasher.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\n".encode())
    return hasher.hexdigest()


def names_in(folder: Path) -> list[str]:
    """Return the names of all files of an output but its marks."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return [name for name in names if name not in MARKS]


def state_of(path: Path) -> tuple[int, str]:
    """Return size and hash of a file, its bytes read now."""
    return path.stat().st_size, hashes.content_hash(path, fresh=True)


def is_volatile(name: str) -> bool:
    """Tell whether equal runs write a file of this name differently."""
    return name.rpartition("/")[2] in VOLATILE


def checksum(manifest: Mapping[str, Any]) -> str:
    """Return the hash of a manifest without its "checksum"."""
    # As it is read back: keys that are numbers are text then, and sort as text.
    values = json.loads(json.dumps(manifest, default=files.plain))
    text = json.dumps(values, sort_keys=True)
    return xxhash.xxh3_128_hexdigest(text.encode())
