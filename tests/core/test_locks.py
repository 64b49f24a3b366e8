"""One output, one writer: the second one is told who the first one is."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from unime.core import locks
from unime.core.errors import OutputError

HOLD = """
import sys, time
from pathlib import Path
from unime.core import locks
locks.lock_folder(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that writes the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_writer_is_told_who_the_first_is(tmp_path: Path, holder: subprocess.Popen[str]):
    with pytest.raises(
        OutputError,
        match=rf"^{tmp_path} is being written by process {holder.pid} on {os.uname().nodename}, "
        r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d; wait, or stop it$",
    ):
        locks.lock_folder(tmp_path)


def test_a_lock_ends_with_its_process(tmp_path: Path, holder: subprocess.Popen[str]):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    locks.lock_folder(tmp_path)
    locks.lock_folder(tmp_path)  # again by the same process: it has it
    locks.unlock_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    said: list[str] = []
    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(locks, "log", said.append)
    locks.lock_folder(tmp_path)
    locks.unlock_folder(tmp_path)
    assert said == [
        f"{tmp_path}: this file system has no locks (No locks available); make sure that no other "
        "process writes there"
    ]
