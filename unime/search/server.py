"""A local page with a search box: one process, 127.0.0.1 only, nothing fetched from elsewhere.

`unime.search.web` says who may ask and for how long; this is what is answered.
"""

from __future__ import annotations

import asyncio
import io
import mimetypes
import socket
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from unime.core.console import log
from unime.core.errors import DataError, UnimeError
from unime.search.results_page import render, thumbnail

if TYPE_CHECKING:
    from PIL.Image import Image
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from unime.data.images import ImageError
    from unime.search.index import Hit, SearchFolder

T = TypeVar("T")

SECONDS_BETWEEN_SCANS = 3.0
MAX_UPLOAD = 50_000_000
"""Bytes of a picture to search with."""
MAX_PIXELS = 16_000_000
"""Of a picture to search with; a larger JPEG is decoded at a part of its size."""
SIDE = 2048
"""Longer side of what a model gets to see of it: more than models look at, and bounded memory."""
UPLOADS = 4
"""Pictures that are received at the same time; others wait, unread."""
UPLOAD_SECONDS = 60.0


class SearchServer:
    """Answers `/?q=`, `/api?q=` (JSON), `/picture` (POST), `/thumbnail/PATH`, `/file/PATH`.

    Raises:
        DataError: when the port is taken, or the libraries are not installed.
    """

    def __init__(self, found: SearchFolder, port: int, top: int) -> None:
        check_installed()
        from unime.search.web import web_server

        try:
            self._socket = socket.create_server(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise DataError(
                f"port {port} cannot be used ({error}); choose another by --port"
            ) from None
        self.server_port = int(self._socket.getsockname()[1])
        self.found = found
        self.top = top
        self._stopped, self._ended = threading.Event(), threading.Event()
        # One forward pass at a time: two would only take each other's cores. So with thumbnails.
        self._turn, self._thumbnails = asyncio.Lock(), asyncio.Lock()
        self._uploads = asyncio.Semaphore(UPLOADS)
        self._thumbnail = lru_cache(maxsize=2000)(self._make_thumbnail)
        self._server = web_server(self._application())

    def serve_forever(self) -> None:
        """Serve until `shutdown`, or a signal; its handler is called when all is closed."""
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._stopped.set()
            self._ended.set()

    def shutdown(self) -> None:
        """Stop serving; return when it has."""
        self._server.should_exit = True
        self._ended.wait()

    def server_close(self) -> None:
        """Give the port back and stop watching the folder."""
        self._stopped.set()
        self._socket.close()

    def _watch(self) -> None:
        while not self._stopped.wait(SECONDS_BETWEEN_SCANS):
            try:
                self.found.update()
            except (OSError, UnimeError) as error:
                log(f"search: the index could not be brought up to date: {error}")

    def _application(self) -> Starlette:
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/api", self._json),
                Route("/picture", self._picture, methods=["POST"]),
                Route("/thumbnail/{path:path}", self._send_thumbnail),
                Route("/file/{path:path}", self._send_file),
            ],
            exception_handlers={
                UnimeError: _refused,
                TimeoutError: _too_slow,
            },
        )

    async def _page(self, request: Request) -> Response:
        start = time.perf_counter()
        asked = request.query_params.get("q", "").strip()
        hits = await self._find(asked) if asked else []
        return self._results(asked, hits, time.perf_counter() - start if asked else None)

    async def _json(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        asked = request.query_params.get("q", "").strip()
        hits = await self._find(asked) if asked else []
        return JSONResponse(
            [{"path": h.path, "similarity": h.similarity, "text": h.text} for h in hits]
        )

    async def _picture(self, request: Request) -> Response:
        """Search by the picture in the body."""
        from starlette.requests import ClientDisconnect

        start = time.perf_counter()
        async with self._uploads:
            try:
                async with asyncio.timeout(UPLOAD_SECONDS):
                    data = await _body(request)
            except ClientDisconnect:
                return _text(400, "the picture ended early")
            if data is None:
                return _text(413, f"expected a picture of at most {MAX_UPLOAD // 1_000_000} MB")
            if not data:
                return _text(400, "expected a picture, posted to /picture")
            async with self._turn:
                hits = await _in_thread(lambda: self._find_picture(data))
        return self._results("", hits, time.perf_counter() - start)

    def _find_picture(self, data: bytes) -> list[Hit]:
        image = query_picture(data)
        try:
            return self.found.find("", image, self.top)
        except ValueError as error:  # the processor's, of a picture it can't use
            raise DataError(f"the picture cannot be used: {error}") from None

    async def _find(self, query: str) -> list[Hit]:
        async with self._turn:
            return await _in_thread(lambda: self.found.find(query, None, self.top))

    def _results(self, query: str, hits: list[Hit], seconds: float | None) -> Response:
        from starlette.responses import HTMLResponse

        pictures = ["" if hit.text else f"/thumbnail/{quote(hit.path)}" for hit in hits]
        links = [f"/file/{quote(hit.path)}" for hit in hits]
        return HTMLResponse(
            render(self.found, query, hits, pictures, links, serving=True, seconds=seconds)
        )

    async def _send_thumbnail(self, request: Request) -> Response:
        from starlette.responses import Response

        entry = self._entry(request)
        if entry is None:
            return _text(404, "no such file in the index")
        path, modified = entry.path, entry.state.modified
        async with self._thumbnails:
            try:
                data = await _in_thread(lambda: self._thumbnail(path, modified))
            except (OSError, DataError):
                return _text(404, "no such file any more")
        return Response(data, media_type="image/jpeg")

    async def _send_file(self, request: Request) -> Response:
        from starlette.responses import FileResponse

        entry = self._entry(request)
        if entry is None:
            return _text(404, "no such file in the index")
        path = (self.found.folder / entry.path).resolve()
        # Indexed as a file of the folder; it may have become a link out of it since.
        if not (path.is_relative_to(self.found.folder.resolve()) and path.is_file()):
            return _text(404, "no such file any more")
        kind = mimetypes.guess_type(entry.path)[0] or ""
        if entry.text:
            kind = "text/plain; charset=utf-8"
        elif not kind.startswith("image/"):
            kind = "application/octet-stream"
        return FileResponse(path, media_type=kind)

    def _entry(self, request: Request) -> Any:
        # Only what is in the index: no path leads anywhere else.
        path = request.path_params["path"]
        return next((e for e in self.found.snapshot.entries if e.path == path), None)

    def _make_thumbnail(self, path: str, modified: int) -> bytes:
        del modified  # only tells versions of a picture apart
        return thumbnail(self.found.folder, path)


def serve_forever(found: SearchFolder, port: int, top: int) -> None:
    """Serve until a signal comes.

    Raises:
        DataError: when the port is taken, or the libraries are not installed.
        SystemExit: 130 after Ctrl-C.
    """
    server = SearchServer(found, port, max(top, 24))
    log(f"search: http://127.0.0.1:{server.server_port}  (Ctrl-C ends it)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        log("search: ended")
        server.server_close()


def check_installed() -> None:
    """Say what to install.

    Raises:
        DataError: when a library is missing.
    """
    try:
        import starlette
        import uvicorn
    except ImportError as error:
        raise DataError(
            f"--serve needs the library {error.name}: pip install 'unime[search]'"
        ) from None
    del starlette, uvicorn


def query_picture(data: bytes) -> Image:
    """Return a picture to search with, as RGB of at most `SIDE` a side.

    Raises:
        ImageError: when it cannot be used.
    """
    from unime.data.images import ImageError, decode, to_rgb

    try:
        image = to_rgb(decode(data, "the picture", MAX_PIXELS))
    except ImageError as error:
        if error.kind != "image too large":
            raise
        image = _reduced(data, error)
    image.thumbnail((SIDE, SIDE))
    return image


def _reduced(data: bytes, too_large: ImageError) -> Image:
    """Decode a JPEG at a half, a quarter or an eighth of its size; nothing else can be."""
    from PIL import Image, ImageOps

    from unime.data.images import to_rgb

    try:
        image = Image.open(io.BytesIO(data), formats=["JPEG"])
        shrink = 2
        while image.width * image.height > MAX_PIXELS * shrink**2:
            shrink *= 2
        image.draft(None, (image.width // shrink, image.height // shrink))
        if image.width * image.height > MAX_PIXELS:
            raise too_large
        ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)
    except Exception:  # whatever a damaged file brings a decoder to raise
        raise too_large from None


async def _body(request: Request) -> bytes | None:
    """Return a request's body; None when it is too large."""
    size, parts = 0, []
    async for part in request.stream():
        size += len(part)
        if size > MAX_UPLOAD:
            # Read on for a while, and forget it: who is cut off does not hear why.
            parts = []
            if size > 10 * MAX_UPLOAD:
                break
        else:
            parts.append(part)
    return b"".join(parts) if size <= MAX_UPLOAD else None


async def _in_thread(work: Callable[[], T]) -> T:
    """Do work in a thread that does not keep an ended process alive, however long it takes."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as caught:
            error = caught
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True).start()
    return await done


async def _refused(request: Request, error: Exception) -> Response:
    too_large = getattr(error, "kind", "") == "image too large"
    return _text(413 if too_large else 400, str(error))


async def _too_slow(request: Request, error: Exception) -> Response:
    return _text(408, "the request took too long")


def _text(status: int, text: str) -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(text, status)
