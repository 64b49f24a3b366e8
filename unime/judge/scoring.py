"""The work of `score`: asks the engine for what the store lacks, and keeps what comes back.

A streaming engine takes a query's pairs one after the other, positives first. An engine in this
process scores blocks of queries; a block is logged as one line, so that batches, and with them the
last bits of the scores, are the same whether or not the job was interrupted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from unime.core import console
from unime.judge.budget import FREE, UNLIMITED, Meter, SpendingLimit
from unime.judge.early_stop import EarlyStop
from unime.judge.engine import Engine, EngineError, Request, Score, StreamingEngine, Usage
from unime.judge.job import JudgeJob
from unime.judge.price import Quote
from unime.judge.store import ScoreStore


class Outcome(NamedTuple):
    """What a job did."""

    scored: int
    failed: int
    left: int
    """Pairs that the budget did not reach."""
    seconds: float
    spent: float
    usage: Usage


def score_missing(
    job: JudgeJob,
    engine: Engine | StreamingEngine,
    store: ScoreStore,
    *,
    block_queries: int = 16,
    budget: SpendingLimit = UNLIMITED,
    retry: bool = False,
    early: EarlyStop | None = None,
    quote: Quote | None = None,
) -> Outcome:
    """Score what the store lacks, within a budget.

    Args:
        job: the pairs.
        engine: what scores them.
        store: where scores are, and go.
        block_queries: how many queries an engine in this process gets at once.
        budget: when to stop.
        retry: ask again for pairs that failed.
        early: when a query has been asked about enough.
        quote: what the engine costs, said before the first request.
    """
    missing = Missing(job, store, retry, early)
    total = missing.count()
    if quote is not None:
        console.log(f"judge: {quote.sentence(total)}")
    usage = engine.usage if isinstance(engine, StreamingEngine) else Usage()
    meter = Meter(budget, FREE if quote is None else quote.prices, usage)
    report = Progress(total, meter)
    for groups in missing.rounds():
        before = meter.asked
        within = _within(groups, meter)
        batches = (
            engine.stream(within)
            if isinstance(engine, StreamingEngine)
            else _blocks(engine, within, block_queries)
        )
        # Closed here and now, also when a signal ends the loop: calls under way end with it.
        with closing(batches):
            for scores in batches:
                store.add(job.fingerprint, scores)
                report.add(scores)
        if meter.asked == before:  # nothing is missing, or the budget is spent
            break
    left = report.left if early is None else missing.needed()
    store.close()
    return report.outcome(left)


class Missing:
    """The requests of a job that the store has no answer to, a query at a time."""

    def __init__(
        self, job: JudgeJob, store: ScoreStore, retry: bool = False, early: EarlyStop | None = None
    ) -> None:
        self._job = job
        self._store = store
        self._retry = retry
        self._early = early

    def rounds(self) -> Iterator[Iterator[list[Request]]]:
        """Yield all there is to ask; with an early stop again and again, what is needed next.

        A round is to be taken whole, and its scores stored, before the next one.
        """
        yield self._requests()
        self._retry = False
        while self._early is not None:
            yield self._requests()

    def count(self) -> int:
        """Return how many pairs have no answer."""
        return sum(len(self._unanswered(group)) for group in self._job.groups)

    def needed(self) -> int:
        """Return how many of them are to be asked about; with an early stop, how many next."""
        return sum(len(self._wanted(group)) for group in self._job.groups)

    def _requests(self) -> Iterator[list[Request]]:
        for group in self._job.groups:
            wanted = self._wanted(group)
            if wanted:
                yield [r for r in self._job.requests(group) if r.key in wanted]

    def _wanted(self, group: np.ndarray) -> set[bytes]:
        """Return the keys of a query's pairs that are to be asked about."""
        if self._early is None:
            return self._unanswered(group)
        rows = (self._job.keys(number) for number in group.tolist())
        return {key for row in rows for key in self._needed(row, self._early)}

    def _unanswered(self, group: np.ndarray) -> set[bytes]:
        keys = list({key for number in group.tolist() for key in self._job.keys(number)})
        return {keys[place] for place in np.flatnonzero(self._lacking(keys)).tolist()}

    def _needed(self, keys: list[bytes], early: EarlyStop) -> list[bytes]:
        lacking, values = self._lacking(keys), self._store.find(keys).values
        places = early.next_places(float(values[0]), values[1:], lacking[1:])
        places = [*([0] if lacking[0] else []), *(places + 1).tolist()]
        return [keys[place] for place in places]

    def _lacking(self, keys: Sequence[bytes]) -> Bool[np.ndarray, " keys"]:
        if not len(self._store):
            return np.ones(len(keys), dtype=bool)
        found = self._store.find(keys)
        return np.isnan(found.values) if self._retry else ~found.known


def _within(groups: Iterator[list[Request]], meter: Meter) -> Iterator[list[Request]]:
    """Yield groups until the budget is spent; the last one is cut."""
    for group in groups:
        allowed = meter.allowance()
        part = group if allowed is None else group[:allowed]
        meter.asked += len(part)
        if part:
            yield part
        if len(part) < len(group):
            return


def _blocks(
    engine: Engine, groups: Iterator[list[Request]], block_queries: int
) -> Generator[list[Score], None, None]:
    """Score blocks of queries one after the other."""
    block: list[Request] = []
    queries = 0
    for group in groups:
        block += group
        queries += 1
        if queries == block_queries:
            yield _scored(engine, block)
            block, queries = [], 0
    if block:
        yield _scored(engine, block)


def _scored(engine: Engine, block: list[Request]) -> list[Score]:
    scores = engine.score(block)
    if [score.key for score in scores] != [request.key for request in block]:
        raise EngineError(
            f"{type(engine).__name__} answered {len(block)} pairs with {len(scores)} scores, not "
            "one for each in their order; none of them was kept"
        )
    return scores


class Progress:
    """Says how far a job is: rate, time left, spend."""

    def __init__(self, total: int, meter: Meter) -> None:
        self._total = total
        self._meter = meter
        self._done = self._failed = 0
        self._start = self._last = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc="judge", unit="pair", leave=False)

    def add(self, scores: Sequence[Score]) -> None:
        """Count scores that are safe on disk."""
        self._done += len(scores)
        self._failed += sum(score.value != score.value for score in scores)
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(len(scores))
            self._bar.set_postfix_str(self._extra())
        elif now - self._last >= console.SECONDS_BETWEEN_LINES:
            self._last = now
            rate = self._done / (now - self._start)
            left = self.left / rate if rate else float("inf")
            console.log(
                f"judge: {self._done}/{self._total} pairs ({rate:.1f}/s, {left:.0f} s left)"
                f"{self._extra()}"
            )

    @property
    def left(self) -> int:
        """How many of all pairs have no answer yet."""
        return self._total - self._done

    def outcome(self, left: int) -> Outcome:
        """End the display and return what was done and what is left."""
        if self._bar is not None:
            self._bar.close()
        return Outcome(
            self._done - self._failed,
            self._failed,
            left,
            time.monotonic() - self._start,
            self._meter.spent,
            self._meter.usage,
        )

    def _extra(self) -> str:
        parts = []
        if self._meter.prices.known:
            parts.append(f"{self._meter.spent:.2f} {self._meter.prices.currency} spent")
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._meter.usage.retries:
            parts.append(f"{self._meter.usage.retries} tried again")
        return "".join(f", {part}" for part in parts)
