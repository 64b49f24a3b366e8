"""Who may ask the search page, and for how long: starlette and uvicorn with bounds.

Another page in the user's browser can reach 127.0.0.1 too, by its own name (DNS rebinding) or by a
form; a client may open connections and say nothing. Neither gets an answer or keeps one from others.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from typing import Any

import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from unime.search.results_page import TEMPLATE

CONNECTIONS = 64
REQUEST_SECONDS = 10.0
"""A connection has so long for its request, without the body."""
CONNECTION_SECONDS = 300.0
"""And so long for everything: a search on a busy machine included."""

HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")
"""Any port: it may be a forwarded one."""
TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def web_server(application: ASGIApp) -> uvicorn.Server:
    """Return a server of an application, guarded; to be run on a socket."""
    config = uvicorn.Config(
        Guard(application),
        http=BoundedConnection,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


class BoundedConnection(H11Protocol):
    """A connection for one request; of those without one yet, the oldest makes room for a new one."""

    _begun = 0.0
    _timers: tuple[asyncio.TimerHandle, ...] = ()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, or end at once when there is no room."""
        others = [c for c in self.connections if isinstance(c, BoundedConnection)]
        super().connection_made(transport)
        self._begun = self.loop.time()
        self._timers = (
            self.loop.call_later(REQUEST_SECONDS, self._give_up),
            self.loop.call_later(CONNECTION_SECONDS, transport.abort),
        )
        if len(others) >= CONNECTIONS:
            waiting = [c for c in others if c.cycle is None]
            oldest = min(waiting, key=lambda c: c._begun, default=self)
            self.connections.discard(oldest)
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        for timer in self._timers:
            timer.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.write(TIMEOUT)
            self.transport.close()


class Guard:
    """Refuses requests of other pages; adds the headers that keep this page to itself."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application
        self._policy = _policy()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = Headers(scope=scope)
        is_file = scope["path"].startswith("/file/")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                added["Connection"] = "close"
                added["X-Content-Type-Options"] = "nosniff"
                added["Referrer-Policy"] = "no-referrer"
                added["Cross-Origin-Resource-Policy"] = "same-origin"
                added["Content-Security-Policy"] = (
                    "default-src 'none'; sandbox" if is_file else self._policy
                )
            await send(message)

        if not _is_ours(scope["method"], headers):
            refusal = PlainTextResponse("this page answers to 127.0.0.1 and to itself only", 403)
            await refusal(scope, receive, guarded)
        else:
            await self._application(scope, receive, guarded)


def _is_ours(method: str, headers: Headers) -> bool:
    """Tell whether a request comes from the page itself, or from a program of this machine."""
    host = headers.get("host", "")
    if not HOST.fullmatch(host):
        return False
    if headers.get("origin", f"http://{host}") != f"http://{host}":
        return False
    if headers.get("sec-fetch-site", "none") in ("same-origin", "none"):
        return True
    # A link on another page may lead here; nothing there may load from here.
    return method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"


def _policy() -> str:
    """Return a Content-Security-Policy that knows the page's own script and style by their hashes."""
    page = TEMPLATE.read_text(encoding="utf-8")
    hashes: dict[str, Any] = {}
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = hashlib.sha256(text.encode()).digest()
        hashes[tag] = f"'sha256-{base64.b64encode(digest).decode()}'"
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; "
        "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
