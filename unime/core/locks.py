"""One output has one writer: a lock that ends with its process and says who holds it.

POSIX record locks, because they end with the process however it dies, are not inherited by worker
processes, and work on network file systems. Trap: a process loses such a lock when it closes *any*
descriptor of the file, so nothing else here may open a lock file that this process holds.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unime.core.console import log
from unime.core.errors import OutputError

NAME = ".lock"

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)

_held: dict[Path, int] = {}
"""Folders that this process has locked, and the descriptors that hold the locks."""


def lock_folder(folder: Path) -> None:
    """Become the only writer of a folder, until `unlock_folder` or the end of the process.

    Raises:
        OutputError: when another process is; says which.
    """
    folder = folder.absolute()
    if folder in _held:
        return
    while True:
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not _try_lock(descriptor, folder):
            holder = os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            raise OutputError(f"{folder} is being written by {_describe(holder)}; wait, or stop it")
        # Between opening and locking, the one before may have finished and removed the file.
        if os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)
    _held[folder] = descriptor
    who = {"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(who).encode(), 0)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the only writer of a folder for a while.

    Raises:
        OutputError: when another process is; says which.
    """
    lock_folder(folder)
    try:
        yield
    finally:
        unlock_folder(folder)


def unlock_folder(folder: Path) -> None:
    """Give a folder back, if this process has it."""
    descriptor = _held.pop(folder.absolute(), None)
    if descriptor is not None:
        # Removed while it is held: who waits for it sees that it is no longer in place.
        (folder / NAME).unlink(missing_ok=True)
        os.close(descriptor)


def _try_lock(descriptor: int, folder: Path) -> bool:
    """Lock a file without waiting; True, with one line said, where the file system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        log(
            f"{folder}: this system has no file locks; make sure that no other process writes there"
        )
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno not in _NO_LOCKS:
            raise
        log(
            f"{folder}: this file system has no locks ({error.strerror}); make sure that no other "
            "process writes there"
        )
    return True


def _describe(holder: bytes) -> str:
    """Say who holds a lock."""
    try:
        who = json.loads(holder)
        return f"process {who['pid']} on {who['host']}, since {who['since']}"
    except (ValueError, TypeError, KeyError):
        return "another process"  # it has the lock, and not written its name yet
