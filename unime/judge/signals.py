"""SIGINT and SIGTERM at moments when an exception could come from anywhere, and be lost or do harm."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def noted(wake: Callable[[], object]) -> Generator[list[int], None, None]:
    """Only note signals that have a handler; it stands again at the end, for the caller to raise them.

    An exception that a handler raises inside an event loop would end any task at all.

    Args:
        wake: called at each signal.

    Yields:
        The signals that came.
    """
    found: list[int] = []

    def note(number: int, frame: object) -> None:
        found.append(number)
        wake()

    with _handled(note, [n for n in NUMBERS if callable(signal.getsignal(n))]):
        yield found


class Ending:
    """A signal's handler: it ends the process where that is allowed, and else says so later."""

    def __init__(self) -> None:
        self.noted: list[int] = []
        self.may_raise = False

    def __call__(self, number: int, frame: object) -> None:
        """Handle a signal."""
        self.noted.append(number)
        if self.may_raise:
            self.raise_noted()

    def raise_noted(self) -> None:
        """End the process with a shell's exit code for the signal, if one has come."""
        if self.noted:
            raise SystemExit(128 + self.noted[0])


@contextlib.contextmanager
def ending() -> Generator[Ending, None, None]:
    """Handle both signals by an `Ending`."""
    handler = Ending()
    with _handled(handler, NUMBERS):
        yield handler


@contextlib.contextmanager
def _handled(
    handler: Callable[[int, object], None],
    numbers: list[signal.Signals] | tuple[signal.Signals, ...],
) -> Generator[None, None, None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
