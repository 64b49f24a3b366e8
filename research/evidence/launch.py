"""Steps as processes: their share of the threads, their logs, and how all of them are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from unime.core import console
from unime.core.processes import cores

LOG_LINES = 20
"""Shown of a failed job's log."""


class Launcher:
    """Runs the words after `python -m` in a process of its own, `jobs` of them side by side.

    A job of half the threads takes far less than twice the time, so that two side by side are
    faster; each has a share of the threads then, and a log beside its output folder.
    """

    def __init__(self, jobs: int = 1) -> None:
        self._jobs = jobs
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    @contextmanager
    def passing_on_sigterm(self) -> Iterator[None]:
        """Pass a SIGTERM sent to this process alone on to all it runs; Ctrl-C reaches them anyway."""

        # No lock here: the handler interrupts the main thread, which may hold it.
        def stop(number: int, frame: object) -> None:
            self._stopped = True
            for process in list(self._running):
                process.terminate()

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def __call__(self, words: Sequence[str]) -> int:
        """Run a command; return its exit code, -15 when SIGTERM came before it began."""
        output = next((word for word in words if word.startswith("output=")), None)
        if self._jobs == 1 or output is None:
            return self._run(words)
        log = Path(f"{output.removeprefix('output=')}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            code = self._run(words, file)
        if code != 0:
            tail = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            console.log("\n".join([f"the end of {log}:", *tail]))
        return code

    def _run(self, words: Sequence[str], log: IO[bytes] | None = None) -> int:
        threads = {"OMP_NUM_THREADS": str(max(1, cores() // self._jobs))} if self._jobs > 1 else {}
        if self._stopped:
            return -signal.SIGTERM
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            env={**threads, **os.environ},
            stdout=log,
            stderr=None if log is None else subprocess.STDOUT,
        )
        self._running.add(process)
        try:
            # Told to stop while it was being started.
            if self._stopped:
                process.terminate()
            return process.wait()
        finally:
            self._running.discard(process)
