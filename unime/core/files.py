"""Every durable change to disk: whole files by rename, logs by whole appended lines.

Nothing else in the project renames or appends, so a test that stops the process at each call of
`on_commit` has visited every state a killed run can leave behind. Changes below an output that
is being filled are noted in its journal (see `unime.core.journal`).
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unime.core.console import printable
from unime.core.errors import DamagedError
from unime.core.journal import Journal, journals

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
        with _noted(path, lambda journal, name: journal.begin_file(name, temporary)):
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
        with _noted(path, lambda journal, name: journal.begin_folder(name, temporary)):
            _announce("before", path)
            if path.exists():
                _remove(path)
            temporary.rename(path)
            _sync_folder(path.parent)
            _announce("after", path)
    finally:
        if temporary.exists():
            remove_folder(temporary)


def remove_folder(path: Path) -> None:
    """Remove a folder that this project wrote, under a temporary name first."""
    with _noted(path, Journal.begin_removal):
        _remove(path)


def remove_file(path: Path) -> None:
    """Remove a file that this project wrote, if it is there."""
    if path.exists():
        with _noted(path, Journal.begin_removal):
            path.unlink()


def _remove(path: Path) -> None:
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
    for journal in journals():
        if (name := journal.name_of(path)) is not None:
            journal.forget(name)
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
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=plain)
    write_text(path, printable(text) + "\n")


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Read a JSON file that this project wrote.

    Raises:
        DamagedError: when it is not JSON any more.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged, it is not JSON: {error}") from None


@contextmanager
def _noted(path: Path, begin: Callable[[Journal, str], str]) -> Iterator[None]:
    """Note a change before and after it, in the journal of the output that it is in."""
    changes = [
        (journal, begin(journal, name))
        for journal in journals()
        if (name := journal.name_of(path)) is not None
    ]
    yield
    for journal, change in changes:
        journal.done(change)


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


def plain(value: Any) -> Any:
    """Turn paths and numpy numbers into what JSON knows."""
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
