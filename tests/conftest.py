"""What all tests share: no network, no outdated call, a way to stop a process at every durable change."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
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


class OutdatedCalls(logging.Handler):
    """Collects what a library logs about a call of ours that it will not take for long.

    transformers says most of it through its logger and not through `warnings` (see `filterwarnings`
    in pyproject.toml). A call that another library makes is not ours to change.
    """

    # transformers hides its own frames behind decorators of these.
    BETWEEN = ("transformers", "torch", "huggingface_hub", "peft", "accelerate")

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        lowered = message.lower()
        if ("deprecated" in lowered or "will be removed" in lowered) and _is_our_call():
            self.found.append(message)


def _is_our_call() -> bool:
    """Tell whether the outermost library call in the stack, from the inside, was made by us."""
    library = Path(sysconfig.get_path("purelib"))
    standard = Path(sysconfig.get_path("stdlib"))
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(library):
            if path.relative_to(library).parts[0] not in OutdatedCalls.BETWEEN:
                return False
        elif path.is_relative_to(ROOT) and path != Path(__file__):
            return True
        elif not path.is_relative_to(standard) and path.is_file():
            return False
        frame = frame.f_back
    return False


@pytest.fixture(autouse=True)
def plain_logger() -> Iterator[None]:
    """Undo what a command does to the project's logger: it would speak past pytest, or twice."""
    logger = logging.getLogger("unime")

    def reset() -> None:
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)

    reset()
    yield
    reset()


@pytest.fixture(autouse=True)
def no_outdated_calls() -> Iterator[list[str]]:
    """Fail a test in which we call transformers in a way that it calls deprecated."""
    once = sys.modules.get("transformers.utils.logging")
    if once is not None:
        # Said once a process; each test is to hear it.
        once.warning_once.cache_clear()
    handler = OutdatedCalls()
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield handler.found
    logger.removeHandler(handler)
    assert not handler.found, f"deprecated: {handler.found}"


STOP_AT = """
import os, sys
from unime.core import files
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
from unime.core import files
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
