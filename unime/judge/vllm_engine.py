"""The vLLM engine: any OpenAI-compatible server, or several, with many calls under way at once.

Whole queries go to one server, so that it computes a query's prefix once for all its candidates.
Everything runs in one thread: while the caller makes scores durable, calls stay under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import signal
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from unime.core import console
from unime.core.config import Section
from unime.core.contents import fingerprint
from unime.core.errors import DataError
from unime.judge import protocol, server_checks, signals
from unime.judge.endpoint import (
    Endpoint,
    EndpointOptions,
    FailedError,
    GoneError,
    RejectedError,
    UnavailableError,
)
from unime.judge.engine import EngineError, KnownTruth, Request, Score, Usage
from unime.judge.transformers_engine import JudgeModel
from unime.models.prompts import load_judge_prompt

COMMIT_SECONDS = 0.1
"""How long finished calls are gathered before they are made durable together."""

FEW = 3
"""So few failing pairs are given up without proof that the server works for others."""

PAUSE = 0.1
"""Seconds before a pair that fails, as all others do, waits behind them."""


class VllmOptions(Section):
    """A judge behind one or more OpenAI-compatible servers."""

    model: JudgeModel
    """Its `id` is the name the server knows it by; `unime judge serve` sees to that."""
    min_answer_mass: float = Field(default=0.01, ge=0.0, le=1.0)
    """Below this probability of yes and no together, a pair is unscored."""
    # What follows changes no score, so it is no part of a manifest and may change in mid-job.
    endpoints: tuple[EndpointOptions, ...] = Field(default=(EndpointOptions(),), exclude=True)
    api_key_env: str = Field(default="UNIME_JUDGE_API_KEY", exclude=True)
    """The environment variable that holds the servers' key."""
    timeout_seconds: float = Field(default=120.0, gt=0, exclude=True)
    tries: int = Field(default=5, gt=0, exclude=True)
    """A pair that fails so often while others succeed is given up, with the reason."""
    give_up_seconds: float = Field(default=600.0, gt=0, exclude=True)
    """How long to wait for a server that is gone."""

    @field_validator("endpoints")
    @classmethod
    def _one_at_least(cls, value: tuple[EndpointOptions, ...]) -> tuple[EndpointOptions, ...]:
        if not value:
            raise ValueError("expected one endpoint at least")
        return value

    def engine(self, truth: KnownTruth | None) -> VllmEngine:
        """Return the engine; the truth stays unseen."""
        del truth
        return VllmEngine(self)


class VllmEngine:
    """Scores pairs through servers."""

    def __init__(self, options: VllmOptions) -> None:
        self._options = options
        self._prompt = load_judge_prompt(options.model.prompt)
        self.usage = Usage()

    @property
    def fingerprint(self) -> str:
        """Model, prompt, answers and preprocessing; where the servers are changes no score."""
        model = self._options.model
        parts = {
            "engine": "vllm",
            "model": fingerprint(Path(model.id)),
            "revision": model.revision,
            "dtype": model.dtype,
            "prompt": self._prompt.hash,
            "answers": [self._prompt.yes, self._prompt.no],
            "pixels": [model.min_pixels, model.max_pixels],
            "max_length": model.max_length,
            "min_answer_mass": self._options.min_answer_mass,
        }
        return json.dumps(parts, sort_keys=True)

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Return one score per request, in their order."""
        distinct = list({request.key: request for request in requests}.values())
        found = {score.key: score for part in self.stream(iter([distinct])) for score in part}
        return [found[request.key] for request in requests]

    def stream(self, groups: Iterator[Sequence[Request]]) -> Generator[list[Score], None, None]:
        """Yield scores as they come (see `StreamingEngine`)."""
        first = next(groups, None)
        if first is None:
            return  # and no server is needed
        groups = chain([first], groups)
        loop = asyncio.new_event_loop()
        run = _Run(self._options, self._prompt, self.usage)
        try:
            loop.run_until_complete(run.start())
            while run.feed(groups):
                with signals.noted(lambda: loop.call_soon_threadsafe(run.wake)) as noted:
                    part = loop.run_until_complete(run.turn())
                # What is paid for is handed over before a handler may end the job.
                yield part
                for number in noted:
                    signal.raise_signal(number)
            yield run.take()
        finally:
            with contextlib.closing(loop):
                loop.run_until_complete(run.close())


class _LaterError(Exception):
    """Perhaps the server's fault, perhaps the pair's: other pairs are to be tried first."""


class _Run:
    """One call of `stream`: its servers, workers and results."""

    def __init__(self, options: VllmOptions, prompt: Any, usage: Usage) -> None:
        self._options = options
        self._prompt = prompt
        self._usage = usage
        self._tokens: protocol.AnswerTokens | None = None
        self._bodies: protocol.Bodies
        self._endpoints: list[Endpoint] = []
        self._workers: list[asyncio.Task[None]] = []
        self._orphans: deque[Request] = deque()
        self._failures: Counter[bytes] = Counter()
        self._since: dict[bytes, tuple[Endpoint, int]] = {}
        """Of a pair under way: its server, and how often that had succeeded before."""
        self._done: list[Score] = []
        self._handed_over = 0
        """Scores the caller is making durable; it comes back when they are."""
        self._rejections = 0
        self._bill_is_wrong = False
        self._exhausted = False
        self._error: Exception | None = None

    async def start(self) -> None:
        """Connect, and learn the ids of the answer tokens.

        Raises:
            EngineError: when a server is not there, or serves other models.
        """
        self._work, self._news, self._full = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._taken = asyncio.Event()
        options = self._options
        for one in options.endpoints:
            endpoint = Endpoint(
                one, options.api_key_env, options.timeout_seconds, options.give_up_seconds
            )
            self._endpoints.append(endpoint)
            await endpoint.open()
            await server_checks.check_model(endpoint, options.model.id)
        self._tokens = await server_checks.answer_tokens(
            self._endpoints[0], options.model.id, self._prompt
        )
        self._bodies = protocol.Bodies(self._prompt, options.model.id, self._tokens)
        loop = asyncio.get_running_loop()
        for endpoint in self._endpoints:
            for _ in range(endpoint.options.concurrency):
                self._workers.append(loop.create_task(self._worker(endpoint)))

    async def close(self) -> None:
        """Cancel what is under way."""
        # Not only the workers: after a signal the task that waited for news is there, too.
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for endpoint in self._endpoints:
            await endpoint.close()

    def feed(self, groups: Iterator[Sequence[Request]]) -> bool:
        """Hand out whole groups where there is little to do; tell whether anything is left."""
        for endpoint in sorted(self._endpoints, key=lambda e: e.backlog / e.options.concurrency):
            room = 2 * endpoint.options.concurrency - len(self._orphans)
            while endpoint.is_up and not self._exhausted and endpoint.backlog < room:
                group = next(groups, None)
                self._exhausted = group is None
                endpoint.queue.extend(group or [])
                self._work.set()
        return not self._exhausted or bool(
            self._done or self._orphans or any(e.backlog for e in self._endpoints)
        )

    async def turn(self) -> list[Score]:
        """Return what was finished within a moment.

        Raises:
            EngineError: when nothing was finished and the job cannot go on.
        """
        self._handed_over = 0
        self._taken.set()
        await self._news.wait()
        if self._done:
            # A killed job pays again for what is not on disk: half a round of calls, at most.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), COMMIT_SECONDS)
        if not self._done and self._error is not None:
            raise self._error
        return self.take()

    def wake(self) -> None:
        """End the turn."""
        self._news.set()

    def take(self) -> list[Score]:
        """Return what is finished."""
        done, self._done = self._done, []
        self._handed_over = len(done)
        self._full.clear()
        if self._error is None:
            self._news.clear()
        return done

    def _is_full(self) -> bool:
        waiting = len(self._done) + self._handed_over
        return waiting >= max(1, sum(e.options.concurrency for e in self._endpoints) // 2)

    async def _worker(self, endpoint: Endpoint) -> None:
        try:
            while True:
                await endpoint.ready()
                request = self._next(endpoint)
                if request is not None:
                    await self._work_on(endpoint, request)
                    continue
                if not self._exhausted:
                    self._news.set()  # to be fed
                self._work.clear()
                await self._work.wait()
        except GoneError as error:
            self._orphans.extend(endpoint.queue)
            endpoint.queue.clear()
            if any(other.is_up for other in self._endpoints):
                self._work.set()
            else:
                self._stop(error)
        except Exception as error:
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        self._error = self._error or error
        self._news.set()

    async def _work_on(self, endpoint: Endpoint, request: Request) -> None:
        endpoint.in_flight += 1
        try:
            score = await self._judged(endpoint, request)
        except _LaterError:
            endpoint.queue.append(request)
        except (UnavailableError, GoneError) as error:
            # Any server that is there may take it, and what waited for this one.
            self._orphans.appendleft(request)
            if not endpoint.is_up and any(e.is_up for e in self._endpoints):
                self._orphans.extend(endpoint.queue)
                endpoint.queue.clear()
            self._work.set()
            if isinstance(error, GoneError):
                raise
        else:
            self._done.append(score)
            self._news.set()
            if self._is_full():
                self._full.set()
        finally:
            endpoint.in_flight -= 1

    def _next(self, endpoint: Endpoint) -> Request | None:
        if self._orphans:
            return self._orphans.popleft()
        return endpoint.queue.popleft() if endpoint.queue else None

    async def _judged(self, endpoint: Endpoint, request: Request) -> Score:
        """Return a pair's score, or set it aside with the reason.

        Raises:
            UnavailableError: when the server must be waited for.
            _LaterError: when it fails, and the server has judged no other pair meanwhile.
            EngineError: when the job cannot go on.
        """
        try:
            body = self._bodies.of(request)
        except DataError as error:
            return Score(request.key, math.nan, str(error))
        # Of this server: another one's successes prove nothing.
        server, before = self._since.setdefault(request.key, (endpoint, endpoint.successes))
        if server is not endpoint:
            before = endpoint.successes
            self._since[request.key] = endpoint, before
        try:
            score = await self._tried(endpoint, request, body)
        except FailedError as error:
            if endpoint.successes == before and len(self._failures) > FEW:
                endpoint.doubt(str(error))
                await asyncio.sleep(PAUSE)
                raise _LaterError from None
            reason = f"failed after {self._failures[request.key]} tries: {error}"
            score = Score(request.key, math.nan, reason)
        except RejectedError as error:
            self._note_rejection(endpoint, error)
            score = Score(request.key, math.nan, f"rejected by the server: {error}")
        self._failures.pop(request.key, None)
        self._since.pop(request.key, None)
        return score

    async def _tried(self, endpoint: Endpoint, request: Request, body: bytes) -> Score:
        """Call until a judgement comes or the pair has had its tries."""
        from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(FailedError),
            # Counted by pair: a pair that brings a server down comes back to another.
            stop=lambda state: self._failures[request.key] >= self._options.tries,
            wait=wait_random_exponential(multiplier=0.1, max=10),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                try:
                    if not endpoint.is_up:
                        raise UnavailableError("it is gone")  # another one may take the pair
                    await endpoint.ready()
                    return await self._called(endpoint, request, body)
                except FailedError:
                    self._failures[request.key] += 1
                    self._usage.retries += 1
                    raise
        raise AssertionError("tenacity ends with a result or an error")

    async def _called(self, endpoint: Endpoint, request: Request, body: bytes) -> Score:
        while self._is_full():
            # No call begins while so many replies are not on disk: a bound, on a slow disk too.
            self._taken.clear()
            await self._taken.wait()
        self._usage.calls += 1
        reply = await endpoint.call("/v1/chat/completions", body)
        try:
            yes, no = protocol.read_masses(reply, self._prompt, self._tokens)
        except protocol.ReplyError as error:
            raise FailedError(str(error)) from None
        endpoint.succeeded()
        self._count_tokens(endpoint, reply)
        mass = yes + no
        if not mass >= self._options.min_answer_mass or mass == 0:
            reason = f"neither yes nor no: their probability is {mass:.2g}"
            return Score(request.key, math.nan, reason)
        return Score(request.key, yes / mass)

    def _note_rejection(self, endpoint: Endpoint, error: RejectedError) -> None:
        """Tell a server that rejects everything from a pair that is rejected."""
        self._rejections += 1
        if self._rejections > FEW and not endpoint.successes:
            raise EngineError(
                f"{endpoint.options.url} rejects every pair: {error}; check the recipe's model "
                "and the server's limits"
            )

    def _count_tokens(self, endpoint: Endpoint, reply: Any) -> None:
        """Add up what a reply bills; a judgement counts whatever its bill says."""
        try:
            tokens, cached = protocol.read_usage(reply)
        except protocol.ReplyError as error:
            if not self._bill_is_wrong:
                console.log(f"judge: {endpoint.options.url}: {error}; such calls add none")
            self._bill_is_wrong = True
            return
        self._usage.tokens += tokens
        self._usage.cached_tokens += cached
