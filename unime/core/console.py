"""What a running command says: one log line at a time, and progress that fits the terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from unime.core.processes import is_main

T = TypeVar("T")

logger = logging.getLogger("unime")

SECONDS_BETWEEN_LINES = 5.0


def log(message: str) -> None:
    """Say one line."""
    logger.info(printable(message))


def printable(text: str) -> str:
    r"""Return a text that every terminal and file takes: bytes of a name that is no UTF-8 as \udce9.

    JSON reads that as the very name.
    """
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def start_logging() -> None:
    """Send the project's messages to standard error, once; called by the commands only."""
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        # Of several processes one speaks; the others only when something is wrong.
        logger.setLevel(logging.INFO if is_main() else logging.WARNING)
        logger.propagate = False


def progress(
    iterable: Iterable[T], total: int | None = None, label: str = "", unit: str = "it"
) -> Iterator[T]:
    """Iterate with a progress bar on a terminal, else with a log line every few seconds."""
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # type: ignore[arg-type]
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(iterable, total=total, desc=label, unit=unit, leave=False)
        return
    start = last = time.monotonic()
    for count, value in enumerate(iterable, start=1):
        yield value
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            logger.info(_progress_line(label, count, total, now - start, unit))


def _progress_line(label: str, count: int, total: int | None, seconds: float, unit: str) -> str:
    rate = count / seconds
    if not total:
        return f"{label}: {count} {unit} ({rate:.1f}/s)"
    left = (total - count) / rate
    return f"{label}: {count}/{total} {unit} ({rate:.1f}/s, {left:.0f} s left)"
