"""One server: its connection, its concurrency, and whether it is there.

What goes wrong is sorted by whose fault it is:

- `UnavailableError`: the server's. It is not there, or asks to be left alone (429, 503). Nobody's try
  counts; a circuit breaker lets one probe at a time through until it answers again.
- `FailedError`: perhaps the pair's. 5xx, a dropped connection, a timeout, a broken reply; a redirect or
  404 from a server that has judged pairs before. Tried again.
- `RejectedError`: the pair's (400, 413, 422). Never tried again.
- `EngineError`: the recipe's (wrong key, model or address). The job stops.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from pydantic import Field, field_validator

from unime.core import console
from unime.core.config import Section
from unime.core.replies import BadReplyError, parse_reply, read_reply
from unime.judge.engine import EngineError, Request

PROBE_SECONDS = (0.2, 5.0)
"""Shortest and longest wait between two probes of a server that is gone."""

LONGEST_REST = 60.0
"""A Retry-After beyond this is not believed."""


class UnavailableError(Exception):
    """The server is not there."""


class GoneError(EngineError):
    """The server has not been there for too long."""


class NotThereError(EngineError):
    """The server does not know the address."""


class FailedError(Exception):
    """A call that may succeed when it is tried again."""


class RejectedError(Exception):
    """A call that would be refused again."""


class EndpointOptions(Section):
    """A server."""

    url: str = "http://127.0.0.1:8000/v1"
    """Its OpenAI-compatible address."""
    concurrency: int = Field(default=32, gt=0)
    """Calls under way at once."""

    @field_validator("url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected an address such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "an address holds no key; keys come from the environment (api_key_env)"
            )
        return url.rstrip("/")


class Endpoint:
    """A server while a job uses it."""

    def __init__(
        self, options: EndpointOptions, api_key_env: str, timeout: float, give_up: float
    ) -> None:
        self.options = options
        self.queue: deque[Request] = deque()
        self.in_flight = 0
        self.successes = 0
        self._key = os.environ.get(api_key_env, "")
        self._key_env = api_key_env
        self._timeout = timeout
        self._give_up = give_up
        self._rest_until = 0.0
        self._last_success = time.monotonic()
        self._up = asyncio.Event()
        self._up.set()
        self._probe: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._gone: GoneError | None = None

    @property
    def backlog(self) -> int:
        """Return how many requests it has to do."""
        return len(self.queue) + self.in_flight

    @property
    def is_up(self) -> bool:
        """Tell whether it answered when it was last asked."""
        return self._up.is_set() and self._gone is None

    async def open(self) -> None:
        """Open the connection pool; nothing is sent yet."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._session = aiohttp.ClientSession(
            headers=headers | {"Content-Type": "application/json"},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
        )

    async def close(self) -> None:
        """Stop probing and close all connections."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def ready(self) -> None:
        """Wait until the server may be called.

        Raises:
            GoneError: when it has not been there for too long.
        """
        while True:
            if self._gone is not None:
                raise self._gone
            rest = self._rest_until - time.monotonic()
            if rest > 0:
                await asyncio.sleep(rest)
            elif self._up.is_set():
                return
            else:
                assert self._probe is not None
                # Shielded: a worker that ends must not end the probe of the others.
                await asyncio.shield(self._probe)

    async def call(self, path: str, body: bytes | None = None) -> Any:
        """Post a body, or get when there is none; return the decoded reply.

        Raises:
            UnavailableError, FailedError, RejectedError, EngineError: see above.
        """
        assert self._session is not None
        method = "GET" if body is None else "POST"
        try:
            # No redirect is followed: it could carry data and key to another host.
            async with self._session.request(
                method, self._address(path), data=body, allow_redirects=False
            ) as response:
                data = await read_reply(response)
                status, after = response.status, response.headers.get("Retry-After")
        except aiohttp.ClientConnectorError as error:
            self._trip(str(error.os_error))
            raise UnavailableError(f"no connection ({error.os_error})") from None
        except TimeoutError:
            raise FailedError(f"no reply within {self._timeout:g} s") from None
        except BadReplyError as error:
            raise FailedError(str(error)) from None
        except (aiohttp.ClientError, OSError) as error:
            raise FailedError(f"the connection was lost ({type(error).__name__})") from None
        if status != 200:
            self._raise_for(status, after, self._message(data))
        return self._decoded(data)

    def succeeded(self) -> None:
        """Note a judgement: the server is in order."""
        self.successes += 1
        self._last_success = time.monotonic()

    def doubt(self, reason: str) -> None:
        """Note that a call failed while none succeeded.

        Raises:
            GoneError: when none has succeeded for too long.
        """
        silent = time.monotonic() - self._last_success
        if silent > self._give_up:
            self._gone = GoneError(
                f"{self.options.url} has not judged a pair for {silent:.0f} s ({reason}); what was "
                "scored is kept, the same command carries on"
            )
            raise self._gone

    def _decoded(self, data: bytes) -> Any:
        try:
            return parse_reply(data)
        except BadReplyError as error:
            raise FailedError(str(error)) from None

    def _raise_for(self, status: int, after: str | None, message: str) -> None:
        where = self.options.url
        if status in (401, 403):
            raise EngineError(
                f"{where} refused the key ({status}): set the environment variable {self._key_env}"
                + (" to the right one" if self._key else "; it is not set")
            )
        if status in (404, 405) or 300 <= status < 400:
            if self.successes:
                raise FailedError(f"{status} {message}")
            raise NotThereError(f"{where} answered {status}: {message}; check url and model.id")
        if status in (429, 503):
            rest = min(_seconds(after), LONGEST_REST)
            self._rest_until = max(self._rest_until, time.monotonic() + rest)
            self.doubt(f"{status} {message}")
            raise UnavailableError(f"{status} {message}")
        if status >= 500 or status == 408:
            raise FailedError(f"{status} {message}")
        raise RejectedError(f"{status} {message}")

    def _message(self, data: bytes) -> str:
        """Return the first line of an error message; a key in it is struck out."""
        try:
            fields = parse_reply(data)
            fields = fields.get("error", fields)
            text = str(fields.get("message", fields) if isinstance(fields, dict) else fields)
        except (BadReplyError, AttributeError, ValueError, RecursionError):
            text = data[:10_000].decode("utf-8", errors="replace")
        text = " ".join(text[:10_000].split()).encode("utf-8", "replace").decode()
        if self._key:
            text = text.replace(self._key, "***")
        return text[:200] or "no message"

    def _address(self, path: str) -> str:
        return self.options.url.removesuffix("/v1") + path

    def _trip(self, reason: str) -> None:
        """Open the circuit breaker."""
        if self._up.is_set():
            console.log(f"judge: {self.options.url} is gone ({reason}); waiting for it")
            self._up.clear()
            self._probe = asyncio.get_running_loop().create_task(self._wait_until_up())

    async def _wait_until_up(self) -> None:
        assert self._session is not None
        wait, longest = PROBE_SECONDS
        start = time.monotonic()
        while True:
            await asyncio.sleep(wait)
            wait = min(2 * wait, longest)
            try:
                async with self._session.get(
                    self._address("/v1/models"), allow_redirects=False
                ) as response:
                    if response.status < 500:
                        break
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass  # still gone
            gone = time.monotonic() - start
            if gone > self._give_up:
                self._gone = GoneError(
                    f"{self.options.url} has been gone for {gone:.0f} s; what was scored is kept, "
                    "the same command carries on when it is back"
                )
                return
        console.log(f"judge: {self.options.url} is back")
        self._last_success = time.monotonic()
        self._up.set()


def _seconds(after: str | None) -> float:
    """Return the seconds that a Retry-After header asks for; 1 when it says nothing."""
    if after is None:
        return 1.0
    try:
        return max(0.0, float(after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, OSError):
        return 1.0
