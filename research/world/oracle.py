"""The oracle engine: the world's true relevance with controlled faults.

    logit = MARGIN * (1 if relevant else -1, turned round with probability `flip`)
            + bias + blur * gaussian noise
    score = 1 / (1 + exp(-logit))

It separates the method's evidence from the quality of a judge, and answers how good a judge must
be. All noise is drawn from a hash of seed and pair, so scores depend neither on order nor on what
was scored before; and rates can be compared on the same draws, since a larger `flip` flips a
superset of the pairs.

With blur, the scores of false negatives are exchangeable with the positive's, as a real judge's
are. Without any, all relevant contents would score exactly the same, and a rule that compares a
candidate with the positive would look better than it is.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist
from typing import ClassVar, Literal

from pydantic import Field

from research.world import blind
from unime.core.config import Section
from unime.data.items import pair_key
from unime.judge.engine import Engine, KnownTruth, Request, Score

MARGIN = 3.0
"""Logit of an undisturbed answer: P(yes) is 0.953 or 0.047."""


NORMAL = NormalDist()


class OracleOptions(Section):
    """How far the oracle is from the truth."""

    NEEDS_TRUTH: ClassVar[bool] = True
    KNOWS_TABLE_ONLY: ClassVar[bool] = True

    flip: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of pairs, the positive's among them, whose relevance is turned round."""
    blur: float = Field(default=1.0, ge=0.0)
    """Standard deviation of the noise on the logit."""
    bias: float = 0.0
    """Added to every logit; positive is a judge that likes to say yes."""
    seed: int = 0
    blind: Literal["", "colour", "image"] = ""
    """What the oracle does not see: it then takes things for alike that differ in colour alone, or
    answers from the texts of a pair as if it had no image."""

    def engine(self, truth: KnownTruth | None) -> Engine:
        """Return the engine."""
        assert truth is not None, "the recipe's check lets no oracle through without a truth"
        return OracleEngine(self, truth)


class OracleEngine:
    """Scores by true relevance, with faults."""

    def __init__(self, options: OracleOptions, truth: KnownTruth) -> None:
        self._options = options
        self._truth = truth
        # Without what is at its default, so that scores outlive a new option.
        self.fingerprint = f"oracle {options.model_dump_json(exclude={'blind'})}{options.blind}"

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Return one score per request."""
        relevant = self._relevance(requests)
        return [
            Score(request.key, self._value(request, is_relevant))
            for request, is_relevant in zip(requests, relevant, strict=True)
        ]

    def _relevance(self, requests: Sequence[Request]) -> list[bool]:
        groups: defaultdict[tuple[str, bytes], list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            groups[request.task, request.query.id].append(number)
        relevance = [False] * len(requests)
        for (task, query), numbers in groups.items():
            candidates = [requests[number].candidate.id for number in numbers]
            if self._options.blind == "colour":
                answers = blind.colour_blind_relevance(self._truth, task, query, candidates)
            else:
                answers = self._truth.relevant(task, query, candidates)
            for number, answer in zip(numbers, answers, strict=True):
                relevance[number] = bool(answer)
        return relevance

    def _value(self, request: Request, relevant: bool) -> float:
        options = self._options
        key = pair_key(request.query.id, request.instruction, request.candidate.id, "oracle")
        if options.blind == "image" and blind.shows_image(request):
            # Equal texts are equal pairs to it: a guess, and the same one each time.
            key = blind.text_key(request)
            relevant = _draws(key, options.seed + 1)[0] < 0.5
        flip, gauss = _draws(key, options.seed)
        answer = relevant != (flip < options.flip)
        logit = MARGIN * (1 if answer else -1) + options.bias + options.blur * gauss
        return 1 / (1 + math.exp(-logit))


def _draws(key: bytes, seed: int) -> tuple[float, float]:
    """Return a uniform and a standard normal number that depend on key and seed alone."""
    digest = hashlib.blake2b(key, digest_size=16, salt=seed.to_bytes(8, "little", signed=True))
    raw = digest.digest()
    flip, noise = (int.from_bytes(part, "little") for part in (raw[:8], raw[8:]))
    # Half a step up keeps the number inside (0, 1): the normal's ends are infinite.
    return flip / 2**64, NORMAL.inv_cdf(((noise >> 12) + 0.5) / 2**52)
