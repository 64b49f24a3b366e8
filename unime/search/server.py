"""A local page with a search box: one process, 127.0.0.1 only, nothing fetched from elsewhere."""

from __future__ import annotations

import json
import mimetypes
import threading
import time
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit

from unime.console import log
from unime.errors import DataError, UnimeError
from unime.search.page import render, thumbnail

if TYPE_CHECKING:
    from unime.search.index import Hit, SearchFolder

SECONDS_BETWEEN_SCANS = 3.0
MAX_UPLOAD = 50_000_000
"""Bytes of a picture to search with."""


class SearchServer(ThreadingHTTPServer):
    """Answers `/?q=`, `/api?q=` (JSON), `/picture` (POST), `/thumbnail/PATH`, `/file/PATH`."""

    daemon_threads = True

    def __init__(self, found: SearchFolder, port: int, top: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.found = found
        self.top = top
        self.stopped = threading.Event()
        # One forward pass at a time: two would only take each other's cores.
        self.turn = threading.Lock()
        self.thumbnail = lru_cache(maxsize=2000)(self._thumbnail)
        threading.Thread(target=self._watch, daemon=True).start()

    def server_close(self) -> None:
        """Stop watching the folder, too."""
        self.stopped.set()
        super().server_close()

    def _watch(self) -> None:
        while not self.stopped.wait(SECONDS_BETWEEN_SCANS):
            try:
                self.found.update()
            except (OSError, UnimeError) as error:
                log(f"search: the index could not be brought up to date: {error}")

    def _thumbnail(self, path: str, modified: int) -> bytes:
        del modified  # only tells versions of a picture apart
        return thumbnail(self.found.folder, path)


def serve_forever(found: SearchFolder, port: int, top: int) -> None:
    """Serve until interrupted.

    Raises:
        DataError: when the port is taken.
    """
    try:
        server = SearchServer(found, port, max(top, 24))
    except OSError as error:
        raise DataError(f"port {port} cannot be used ({error}); choose another by --port") from None
    log(f"search: http://127.0.0.1:{server.server_port}  (Ctrl-C ends it)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        log("search: ended")
    finally:
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    @property
    def search(self) -> SearchServer:
        """The server this request came to."""
        assert isinstance(self.server, SearchServer)
        return self.server

    def do_GET(self) -> None:
        """Answer a page, JSON, a thumbnail or a file."""
        address = urlsplit(self.path)
        asked = parse_qs(address.query).get("q", [""])[0].strip()
        kind, _, path = unquote(address.path).lstrip("/").partition("/")
        if not self._is_local():
            self._send_text(HTTPStatus.FORBIDDEN, "this page answers to 127.0.0.1 only")
        elif kind == "":
            start = time.perf_counter()
            hits = self._find(asked) if asked else []
            self._send_page(asked, hits, time.perf_counter() - start if asked else None)
        elif kind == "api":
            self._send_json(self._find(asked) if asked else [])
        elif kind in ("thumbnail", "file"):
            self._send_file(kind, path)
        else:
            self._send_text(HTTPStatus.NOT_FOUND, "no such page")

    def do_POST(self) -> None:
        """Search by the picture in the body."""
        length = int(self.headers.get("Content-Length", 0))
        if not self._is_local():
            self._send_text(HTTPStatus.FORBIDDEN, "this page answers to 127.0.0.1 only")
        elif urlsplit(self.path).path != "/picture" or not 0 < length <= MAX_UPLOAD:
            self._send_text(HTTPStatus.BAD_REQUEST, "expected a picture, posted to /picture")
        else:
            from unime.images import ImageError, decode, to_rgb

            try:
                image = to_rgb(decode(self.rfile.read(length), "the picture"))
            except ImageError as error:
                self._send_text(HTTPStatus.BAD_REQUEST, str(error))
                return
            start = time.perf_counter()
            with self.search.turn:
                hits = self.search.found.find("", image, self.search.top)
            self._send_page("", hits, time.perf_counter() - start)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: requests are no news."""

    def _is_local(self) -> bool:
        # A page elsewhere could point its own name at 127.0.0.1 and read the answers.
        host = self.headers.get("Host", "").rpartition(":")[0]
        return host in ("127.0.0.1", "localhost")

    def _find(self, query: str) -> list[Hit]:
        with self.search.turn:
            return self.search.found.find(query, None, self.search.top)

    def _send_page(self, query: str, hits: list[Hit], seconds: float | None) -> None:
        pictures = ["" if hit.text else f"/thumbnail/{quote(hit.path)}" for hit in hits]
        links = [f"/file/{quote(hit.path)}" for hit in hits]
        found = self.search.found
        page = render(found, query, hits, pictures, links, serving=True, seconds=seconds)
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", page.encode())

    def _send_json(self, hits: list[Hit]) -> None:
        rows = [{"path": h.path, "similarity": h.similarity, "text": h.text} for h in hits]
        self._send(HTTPStatus.OK, "application/json", json.dumps(rows).encode())

    def _send_file(self, kind: str, path: str) -> None:
        # Only what is in the index: no path leads anywhere else.
        entry = next((e for e in self.search.found.snapshot.entries if e.path == path), None)
        if entry is None:
            self._send_text(HTTPStatus.NOT_FOUND, "no such file in the index")
            return
        try:
            if kind == "thumbnail":
                data = self.search.thumbnail(entry.path, entry.state.modified)
                self._send(HTTPStatus.OK, "image/jpeg", data)
                return
            data = (self.search.found.folder / entry.path).read_bytes()
        except (OSError, DataError):
            self._send_text(HTTPStatus.NOT_FOUND, "no such file any more")
            return
        is_text = bool(entry.text)
        guessed = mimetypes.guess_type(entry.path)[0] or "application/octet-stream"
        self._send(HTTPStatus.OK, "text/plain; charset=utf-8" if is_text else guessed, data)

    def _send_text(self, status: HTTPStatus, text: str) -> None:
        self._send(status, "text/plain; charset=utf-8", text.encode())

    def _send(self, status: HTTPStatus, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(data)
