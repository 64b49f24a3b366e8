"""The work of `score`: asks the engine for what the store lacks, and keeps what comes back.

A streaming engine takes a query's pairs one after the other, positives first. An engine in this
process scores blocks of queries; a block is logged as one line, so that batches, and with them the
last bits of the scores, are the same whether or not the job was interrupted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from judge.budget import FREE, UNLIMITED, Budget, Meter, Prices
from judge.engine import Engine, Request, StreamingEngine, Usage
from judge.job import Job
from judge.store import ScoreStore
from unime import console
from unime.records import Score


class Outcome(NamedTuple):
    """What a job did."""

    scored: int
    set_aside: int
    left: int
    """Pairs that the budget did not reach."""
    seconds: float
    spent: float
    usage: Usage


def score_missing(
    job: Job,
    engine: Engine | StreamingEngine,
    store: ScoreStore,
    *,
    block_queries: int = 16,
    budget: Budget = UNLIMITED,
    prices: Prices = FREE,
    retry: bool = False,
) -> Outcome:
    """Score what the store lacks, within a budget.

    Args:
        job: the pairs.
        engine: what scores them.
        store: where scores are, and go.
        block_queries: how many queries an engine in this process gets at once.
        budget: when to stop.
        prices: what the engine costs.
        retry: ask again for pairs that were set aside.
    """
    missing = Missing(job, store, retry)
    total = missing.count()
    usage = engine.usage if isinstance(engine, StreamingEngine) else Usage()
    meter = Meter(budget, prices, usage)
    report = Progress(total, meter)
    groups = _within(missing, meter)
    batches = (
        engine.stream(groups)
        if isinstance(engine, StreamingEngine)
        else _blocks(engine, groups, block_queries)
    )
    for scores in batches:
        store.add(job.fingerprint, scores)
        report.add(scores)
    store.close()
    return report.outcome()


class Missing:
    """The requests of a job that the store has no answer to, a group at a time."""

    def __init__(self, job: Job, store: ScoreStore, retry: bool = False) -> None:
        self._job = job
        self._store = store
        self._retry = retry

    def __iter__(self) -> Iterator[list[Request]]:
        """Yield the missing requests of each query that has any."""
        for group in self._job.groups:
            requests = self._job.requests(group)
            wanted = self._wanted([request.key for request in requests])
            if wanted.any():
                yield [request for request, want in zip(requests, wanted, strict=True) if want]

    def count(self) -> int:
        """Return how many requests there are."""
        if not len(self._store):
            return sum(len(set(self._keys(group))) for group in self._job.groups)
        return sum(
            int(self._wanted(list(dict.fromkeys(self._keys(group)))).sum())
            for group in self._job.groups
        )

    def _keys(self, group: np.ndarray) -> list[bytes]:
        return [key for number in group.tolist() for key in self._job.keys(number)]

    def _wanted(self, keys: Sequence[bytes]) -> np.ndarray:
        found = self._store.find(keys)
        return np.isnan(found.values) if self._retry else ~found.known


def _within(groups: Missing, meter: Meter) -> Iterator[list[Request]]:
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
) -> Iterator[list[Score]]:
    """Score blocks of queries one after the other."""
    block: list[Request] = []
    queries = 0
    for group in groups:
        block += group
        queries += 1
        if queries == block_queries:
            yield engine.score(block)
            block, queries = [], 0
    if block:
        yield engine.score(block)


class Progress:
    """Says how far a job is: rate, time left, spend."""

    def __init__(self, total: int, meter: Meter) -> None:
        self._total = total
        self._meter = meter
        self._done = self._set_aside = 0
        self._start = self._last = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc="judge", unit="pair", leave=False)

    def add(self, scores: Sequence[Score]) -> None:
        """Count scores that are safe on disk."""
        self._done += len(scores)
        self._set_aside += sum(score.value != score.value for score in scores)
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(len(scores))
            self._bar.set_postfix_str(self._extra())
        elif now - self._last >= console.SECONDS_BETWEEN_LINES:
            self._last = now
            rate = self._done / (now - self._start)
            left = (self._total - self._done) / rate if rate else float("inf")
            console.log(
                f"judge: {self._done}/{self._total} pairs ({rate:.1f}/s, {left:.0f} s left)"
                f"{self._extra()}"
            )

    def outcome(self) -> Outcome:
        """End the display and return what was done."""
        if self._bar is not None:
            self._bar.close()
        return Outcome(
            self._done - self._set_aside,
            self._set_aside,
            self._total - self._done,
            time.monotonic() - self._start,
            self._meter.spent,
            self._meter.usage,
        )

    def _extra(self) -> str:
        parts = []
        if self._meter.prices.known:
            parts.append(f"{self._meter.spent:.2f} {self._meter.prices.currency} spent")
        if self._set_aside:
            parts.append(f"{self._set_aside} set aside")
        if self._meter.usage.retries:
            parts.append(f"{self._meter.usage.retries} tried again")
        return "".join(f", {part}" for part in parts)
