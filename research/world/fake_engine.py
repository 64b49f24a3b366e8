"""The fake engine, for tests of what stands around an engine: scores are hashes of the pair key."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from unime.core.config import Section
from unime.judge.engine import Engine, KnownTruth, Request, Score


class FakeOptions(Section):
    """What the fake engine pretends."""

    KNOWS_TABLE_ONLY: ClassVar[bool] = True

    unscored: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of pairs without a score."""
    seconds_per_request: float = Field(default=0.0, ge=0.0)

    def engine(self, truth: KnownTruth | None) -> Engine:
        """Return the engine; it needs no truth."""
        del truth
        return FakeEngine(self)


class FakeEngine:
    """Scores pairs without looking at them."""

    def __init__(self, options: FakeOptions) -> None:
        self._options = options
        # Pretending to be slow changes no score.
        self.fingerprint = f"fake {options.unscored}"

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Return one score per request."""
        time.sleep(self._options.seconds_per_request * len(requests))
        return [self._one(request.key) for request in requests]

    def _one(self, key: bytes) -> Score:
        first, second = (int.from_bytes(part, "little") / 2**64 for part in (key[:8], key[8:]))
        if first < self._options.unscored:
            return Score(key, math.nan, "the fake engine has no answer")
        return Score(key, second)
