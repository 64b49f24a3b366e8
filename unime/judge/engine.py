"""What scores pairs: one small protocol, so that a new engine is one file and one line in the table.

An engine returns P(yes | yes or no) for each request, in order. A request it cannot answer has
the value NaN and a reason; never 0, which would make it a certain negative.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from unime.core.errors import UnimeError

if TYPE_CHECKING:
    from PIL.Image import Image

    from unime.data.data_folder import DataFolder


class EngineError(UnimeError):
    """A judge cannot be reached, or refuses to work; what it scored before is kept."""


@dataclass(frozen=True, slots=True)
class Score:
    """One judgement; `value` is P(yes | yes or no) in [0, 1], or NaN with a reason."""

    key: bytes
    value: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class JudgeInput:
    """One side of a pair, as a judge sees it."""

    id: bytes
    """Its content id."""
    text: str
    image: Callable[[], Image] | None = None
    """Opens the image, RGB."""
    pixels: int = 0
    """Size of the image, to sort by without opening it."""
    picture: Callable[[], ImageBytes] | None = None
    """Reads the image as it can be sent to a server."""


@dataclass(frozen=True, slots=True)
class Request:
    """One pair to be judged."""

    key: bytes
    """The pair key (see `unime.data.items.pair_key`)."""
    task: str
    instruction: str
    query: JudgeInput
    candidate: JudgeInput


@runtime_checkable
class KnownTruth(Protocol):
    """True relevance, as a generated world knows it; contents go by their ids."""

    def relevant(
        self, task: str, query: bytes, candidates: Sequence[bytes]
    ) -> Bool[np.ndarray, " candidates"]:
        """Return which candidates give what the query asks for."""
        ...

    def planted(self, task: str, query: bytes) -> list[bytes]:
        """Return the false negatives planted for a query among its task's targets."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Scores pairs."""

    @property
    def fingerprint(self) -> str:
        """What the scores depend on beside the pair; part of every pair key and the manifest."""
        ...

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Return one score per request, in their order; equal requests give equal scores."""
        ...


@runtime_checkable
class ChecksData(Protocol):
    """An engine that knows which pictures its model takes."""

    def check_data(self, data: DataFolder, listed: Path) -> None:
        """Refuse a data folder with pictures it does not take; they are listed in a file.

        Raises:
            DataError: with what to do.
        """
        ...


@dataclass
class Usage:
    """What an engine has used so far, as a server bills it."""

    calls: int = 0
    tokens: int = 0
    """Prompt tokens."""
    cached_tokens: int = 0
    """Prompt tokens whose computation was shared with an earlier call."""
    retries: int = 0


@runtime_checkable
class StreamingEngine(Protocol):
    """An engine that has many requests under way at once and answers in any order."""

    usage: Usage

    @property
    def fingerprint(self) -> str:
        """See `Engine`."""
        ...

    def stream(self, groups: Iterator[Sequence[Request]]) -> Generator[list[Score], None, None]:
        """Yield scores as they come; each request's once.

        Groups share a query, and are taken as late as possible. When the caller asks for more
        scores, it has made the former ones durable. Interrupted (`KeyboardInterrupt`, or what a
        signal's handler raises), it yields what has come, then lets the exception pass.

        Raises:
            EngineError: when the judge is gone; the scores before it were yielded.
        """
        ...


@runtime_checkable
class EngineOptions(Protocol):
    """An engine's section of a recipe.

    One whose engine answers from a known truth sets `NEEDS_TRUTH = True`; one that can be asked about
    pairs of the mined table only, and not about texts made up for an audit, `KNOWS_TABLE_ONLY = True`.
    """

    def engine(self, truth: KnownTruth | None) -> Engine | StreamingEngine:
        """Return the engine; only one that sets `NEEDS_TRUTH` may count on the truth."""
        ...


class ImageBytes(NamedTuple):
    """An encoded image."""

    media_type: str
    data: bytes
