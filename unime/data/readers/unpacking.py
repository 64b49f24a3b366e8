"""Archives of somebody else's (zip, tar), unpacked below a folder: whole files, and none that leads out of it."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from unime.core import console
from unime.core.errors import DataError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""Of archives that can be unpacked, in small letters."""

BLOCK = 1 << 20
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a compression that Python does not know
    RuntimeError,  # encrypted
)


class Member(NamedTuple):
    """One file in an archive."""

    name: str
    open: Callable[[], Any]
    """Returns a file of its bytes."""


def is_archive(name: str) -> bool:
    """Tell whether a file can be unpacked, by its name."""
    return name.lower().endswith(SUFFIXES)


def unpack_archive(archive: Path, name: str, place: Path, scratch: Path) -> int:
    """Unpack every file of an archive; return how many there are.

    Each file is written beside and renamed, so a killed call leaves whole files, and the same call goes on.

    Args:
        archive: the file; its name tells the format.
        name: what errors and progress call it.
        place: the folder that its files go to.
        scratch: a file on the same disk that no one else writes, for the one that is being written.

    Raises:
        DataError: when it is damaged, has a link, a device or a file that leads out of the folder, or a
            file that is there with other bytes (of another archive); when the disk has too little space.
    """
    opened = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    count = 0
    try:
        members = opened(archive, name, place)
        for member in console.progress(members, label=f"unpacking {name}", unit="files"):
            _write(member, name, place, scratch)
            count += 1
    except _DAMAGED as error:
        raise DataError(
            f"{name} cannot be unpacked: {type(error).__name__}: {' '.join(str(error).split())}; if the file "
            f"is damaged, remove {archive.resolve()} and run this again"
        ) from None
    finally:
        scratch.unlink(missing_ok=True)
    return count


def _zip_members(archive: Path, name: str, place: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        listed = [info for info in opened.infolist() if not info.is_dir()]
        _check_space(sum(info.file_size for info in listed), name, place)
        for info in listed:
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise _refused(name, info.filename)
            yield Member(info.filename, partial(opened.open, info))


def _tar_members(archive: Path, name: str, place: Path) -> Iterator[Member]:
    _check_space(archive.stat().st_size, name, place)
    with tarfile.open(archive) as opened:
        for info in opened:
            if info.isdir():
                continue
            if not info.isreg():
                raise _refused(name, info.name)
            yield Member(info.name, partial(opened.extractfile, info))
            # A tar file keeps every header that it has read: millions, for pictures.
            opened.members = []  # pyright: ignore[reportAttributeAccessIssue]


def _write(member: Member, archive: str, place: Path, scratch: Path) -> None:
    """Write one file, unless it is there."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\0" in member.name or not path.name:
        raise _refused(archive, member.name)
    if path.parts[0] == "__MACOSX":
        return
    target = place / path
    if target.is_file():
        with member.open() as source, target.open("rb") as there:
            if not _same(source, there):
                raise DataError(
                    f"{archive}: {member.name!r} is in {place} already, with other bytes; give archives "
                    "that hold different files of one name a folder each, or a source each"
                )
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, scratch.open("wb") as handle:
            shutil.copyfileobj(source, handle, BLOCK)
        scratch.replace(target)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise DataError(f"{archive}: {member.name!r} is a file and a folder at once") from None


def _same(one: Any, other: Any) -> bool:
    while True:
        block = one.read(BLOCK)
        if block != other.read(BLOCK):
            return False
        if not block:
            return True


def _refused(archive: str, member: str) -> DataError:
    return DataError(
        f"{archive}: {member!r} leads out of the folder, or is a link or a device; nothing of it was "
        "written. Unpack this archive by hand if you trust it"
    )


def _check_space(size: int, archive: str, place: Path) -> None:
    """Refuse what cannot fit before hours of writing."""
    free = shutil.disk_usage(place).free
    if size > free:
        raise DataError(
            f"{archive} needs {size / 1e9:.1f} GB below {place}, {free / 1e9:.1f} GB are free; free some "
            "space, then the same command carries on"
        )


def sync_disk() -> None:
    """Bring what was written to the disk, before a mark says that it is there."""
    # Once an archive: file by file it takes hours for many pictures.
    if hasattr(os, "sync"):
        os.sync()
