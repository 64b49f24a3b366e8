"""Every durable change to disk: whole files by rename, logs by whole appended lines.

Nothing else in the project renames or appends, so a test that stops the process at each call of
`on_commit` has visited every state a killed run can leave behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

on_commit: Callable[[str], None] | None = None
"""Called with "before NAME" and "after NAME" around every rename and append; for fault tests."""


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary file beside `path`; it replaces `path` at the end, or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: writers such as np.save and safetensors look at it.
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        _announce("before", path)
        temporary.replace(path)
        _sync_folder(path.parent)
        _announce("after", path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it becomes `path` at the end, or not at all.

    An older folder at `path` is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    temporary.mkdir()
    try:
        yield temporary
        _announce("before", path)
        if path.exists():
            remove_folder(path)
        temporary.rename(path)
        _sync_folder(path.parent)
        _announce("after", path)
    finally:
        if temporary.exists():
            remove_folder(temporary)


def remove_folder(path: Path) -> None:
    """Remove a folder that this project wrote, under a temporary name first."""
    import shutil

    doomed = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    path.rename(doomed)
    shutil.rmtree(doomed)


def sweep_partials(folder: Path) -> None:
    """Remove what killed runs left behind under temporary names."""
    import shutil

    for leftover in sorted(folder.rglob(".*.partial*")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def append_lines(path: Path | str, lines: Iterable[str]) -> None:
    """Append whole lines to a log and flush them to the disk.

    A kill in the middle leaves at most one line without its newline; `read_lines` drops it, and
    the next append starts by cutting it off.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{line}\n" for line in lines).encode()
    with path.open("ab+") as handle:
        _cut_torn_line(handle)
        _announce("before", path)
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
        _announce("after", path)


def read_lines(path: Path | str) -> list[str]:
    """Return the whole lines of a log; a torn last line is left out."""
    path = Path(path)
    if not path.exists():
        return []
    return path.read_bytes().decode("utf-8", errors="replace").split("\n")[:-1]


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON with sorted keys: equal values give equal bytes."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=_plain)
    write_text(path, text + "\n")


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256_file(path: Path | str) -> str:
    """Return the sha256 of a file as hex."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _announce(moment: str, path: Path) -> None:
    if on_commit is not None:
        on_commit(f"{moment} {path.name}")


def _cut_torn_line(handle: Any) -> None:
    end = handle.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        handle.seek(start)
        newline = handle.read(end - start).rfind(b"\n")
        if newline >= 0:
            handle.truncate(start + newline + 1)
            return
        end = start
    handle.truncate(0)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    """Turn paths and numpy numbers into what JSON knows."""
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
