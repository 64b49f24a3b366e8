"""Files that a user's data names: opened only below their root, only regular ones, only up to a size.

A data folder may come from anywhere. A link in it that leads out must not bring a private file into
captions, search results or models, and a pipe in it must not stop a run for ever.
"""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from unime.core.errors import UnusableError

MAX_TEXT = 20_000_000
"""Bytes of a text file that is read as a whole, at most."""


class FileError(UnusableError):
    """A file that cannot be used."""


class OpenFile(NamedTuple):
    """A regular file inside a root."""

    path: Path
    """Links followed."""
    size: int
    version: str
    """Differs after any change of the file: device, inode, times of change in nanoseconds."""


def find(root: Path | str, name: str) -> OpenFile:
    """Find a file inside a root.

    Args:
        root: the folder that nothing leads out of.
        name: relative to it, with forward slashes.

    Raises:
        FileError: when it is missing, no regular file (a folder, pipe, socket or device), or lies
            outside the root (absolute, `..`, a link out).
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\0" in name or not pure.name:
        raise FileError("outside the data root", f"{name!r} is no path below it")
    # What is remembered is told apart by whole paths: a process may change its working directory.
    whole = Path.cwd() / root
    real_root = real(str(whole))
    path = real(str(whole / pure.parent)) / pure.name
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            path = path.resolve()
            status = path.lstat()
    except (OSError, RuntimeError):  # RuntimeError: a loop of links
        raise FileError("missing file", f"{name!r} is not in {root}") from None
    if not path.is_relative_to(real_root):
        raise FileError("outside the data root", f"{name!r} leads to {path}")
    if not stat.S_ISREG(status.st_mode):
        raise FileError("not a file", f"{name!r} is a folder, pipe, socket or device")
    version = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
    return OpenFile(path, status.st_size, "-".join(map(str, version)))


def read(root: Path | str, name: str, most: int = MAX_TEXT) -> bytes:
    """Return the bytes of a file inside a root.

    Raises:
        FileError: as `find`; when it cannot be read; when it has more than `most` bytes.
    """
    found = find(root, name)
    try:
        with open_regular(found.path) as handle:
            # A file may grow between the two, and some have no size.
            data = handle.read(most + 1) if found.size <= most else b""
    except OSError as error:
        raise FileError("unreadable file", f"{name!r}: {error.strerror or error}") from None
    if found.size > most or len(data) > most:
        raise FileError("too large", f"{name!r} has {found.size} bytes, at most {most} are read")
    return data


def read_text(root: Path | str, name: str, most: int = MAX_TEXT) -> str:
    """Return a UTF-8 text file inside a root, line ends as newlines.

    Raises:
        FileError: as `read`; when it is not UTF-8.
    """
    try:
        text = read(root, name, most).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FileError("not a text", f"{name!r} is not UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_file(path: Path, root: Path | str) -> None:
    """Refuse a file of rows that leads out of its root, is no regular file, or cannot be read.

    A path outside the root is one that the user has named, and may be a link.

    Raises:
        FileError: with what to do.
    """
    if path.is_relative_to(root):
        try:
            real = find(root, path.relative_to(root).as_posix()).path
        except FileError as error:
            advice = "; name the file itself by its absolute path, or copy it"
            outside = error.kind == "outside the data root"
            raise FileError(error.kind, f"{error.detail}{advice if outside else ''}") from None
    else:
        real = path.resolve()
        if not real.is_file():
            raise FileError("not a file", f"{path} is a folder, pipe, socket or device, or missing")
    if not os.access(real, os.R_OK):
        raise FileError("unreadable file", f"{path}: permission denied")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; a pipe or device that took its place is refused, not waited for.

    Raises:
        OSError: when it cannot be opened, or is no regular file.
    """
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    handle = os.fdopen(number, "rb")
    if not stat.S_ISREG(os.fstat(number).st_mode):
        handle.close()
        raise OSError(f"{path} is not a file")
    return handle


@lru_cache(maxsize=65536)
def real(folder: str) -> Path:
    """Return a folder with links followed; remembered, for a folder has many files."""
    return Path(folder).resolve()
