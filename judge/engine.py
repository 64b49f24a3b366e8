"""What scores pairs: one small protocol, so that a new engine is one file and one line in the table.

An engine returns P(yes | yes or no) for each request, in order. A request it cannot answer has
the value NaN and a reason; never 0, which would make it a certain negative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from unime.records import Score

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Content:
    """One side of a pair, as a judge sees it."""

    id: bytes
    """Its content id."""
    text: str
    image: Callable[[], Image] | None = None
    """Opens the image, RGB."""
    pixels: int = 0
    """Size of the image, to sort by without opening it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One pair to be judged."""

    key: bytes
    """The pair key (see `unime.records.pair_key`)."""
    task: str
    instruction: str
    query: Content
    candidate: Content


class Engine(Protocol):
    """Scores pairs."""

    @property
    def fingerprint(self) -> str:
        """What the scores depend on beside the pair; part of every pair key and the manifest."""
        ...

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Return one score per request, in their order; equal requests give equal scores."""
        ...
