"""What may be overwritten at a place that a user names, or that is derived from a name.

Stages have outputs of their own (`unime.core.provenance`). Everything else that is written asks here
first: a folder must be new or empty, and a file is only replaced where it carries a mark of the
command that writes it. Whatever else is there may be a user's, and stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unime.core import files, locks
from unime.core.errors import OutputError


def is_free(folder: Path) -> bool:
    """Tell whether there is nothing at a place, or an empty folder (a lock is nothing)."""
    if folder.is_dir():
        return all(child.name == locks.NAME for child in folder.iterdir())
    return not (folder.exists() or folder.is_symlink())


def check_replaceable(path: Path, is_ours: Callable[[Path], bool], written_by: str) -> None:
    """Refuse to write over a file that the same command did not write; asked before long work.

    Args:
        path: the file that will be written.
        is_ours: tells of an existing file whether the command wrote it.
        written_by: the command, for the error.

    Raises:
        OutputError: when something else is there.
    """
    if not (path.exists() or path.is_symlink()):
        return
    if not path.is_file():
        raise OutputError(f"{path} is there already and is no file; choose another place")
    try:
        ours = is_ours(path)
    except (OSError, ValueError, RecursionError):
        ours = False
    if not ours:
        raise OutputError(
            f"{path} is there already and is not as `{written_by}` writes it; it stays as it is: "
            "choose another place, or remove it first"
        )


def never(_path: Path) -> bool:
    """Whether a file is ours, where nothing in it could tell."""
    return False


def contains(mark: str) -> Callable[[Path], bool]:
    """Return a test for files with a mark somewhere in them."""
    return lambda path: mark.encode() in path.read_bytes()


def has_keys(*keys: str) -> Callable[[Path], bool]:
    """Return a test for JSON files whose top level has these keys."""

    def test(path: Path) -> bool:
        values = json.loads(path.read_text(encoding="utf-8"))
        return isinstance(values, dict) and set(keys) <= set(values)

    return test


def write_new(path: Path, text: str) -> None:
    """Write a text file where there is none, or the very same one.

    Raises:
        OutputError: when another file is there.
    """
    check_replaceable(path, lambda there: there.read_bytes() == text.encode(), "this command")
    files.write_text(path, text)


def read_mark(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file; empty when there is none, or something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
