"""What all tests share: no network, and a way to stop a process at every durable change."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# No test depends on how busy the machine is, or on luck: the examples are the same everywhere.
# `--hypothesis-profile explore` looks for new ones.
settings.register_profile("unime", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("unime")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests leave nothing in the home folder. Workers of pytest-xdist share their parent's environment.
os.environ.setdefault("UNIME_CACHE", tempfile.mkdtemp(prefix="unime-cache-"))

ROOT = Path(__file__).resolve().parents[1]

STOP_AT = """
import os, sys
from unime import files
count = 0
def stop(moment):
    global count
    count += 1
    if count == {number}:
        os._exit(137)
files.on_commit = stop
sys.argv = {argv!r}
import runpy
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""

COUNT = """
import atexit, pathlib, sys
from unime import files
count = 0
def tally(moment):
    global count
    count += 1
    pathlib.Path({tally!r}).write_text(str(count))
files.on_commit = tally
sys.argv = {argv!r}
import runpy
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture
def fault_points(tmp_path: Path) -> Callable[[str, list[str]], int]:
    """Return how many durable changes (two moments each) a command makes."""

    def count(module: str, words: list[str]) -> int:
        tally = tmp_path / "tally.txt"
        done = _python(COUNT.format(tally=str(tally), argv=[module, *words], module=module))
        assert done.returncode == 0, done.stderr
        return int(tally.read_text())

    return count


@pytest.fixture
def run_until(tmp_path: Path) -> Callable[[str, list[str], int], int]:
    """Run a command in a process that dies at its n-th durable change; return the exit code."""

    def run(module: str, words: list[str], number: int) -> int:
        return _python(
            STOP_AT.format(number=number, argv=[module, *words], module=module)
        ).returncode

    return run
