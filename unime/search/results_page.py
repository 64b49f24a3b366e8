"""Results as one small HTML page; thumbnails lie in it, so that it can be sent to a friend."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unime.core import files

if TYPE_CHECKING:
    from unime.search.index import Hit, SearchFolder

TEMPLATE = Path(__file__).with_name("page.html.jinja")
SIDE = 256
"""Pixels of a thumbnail's longer side."""


def write_page(path: Path, found: SearchFolder, query: str, hits: Sequence[Hit]) -> None:
    """Write the results of one query."""
    pictures = [
        f"data:image/jpeg;base64,{base64.b64encode(thumbnail(found.folder, hit.path)).decode()}"
        if not hit.text
        else ""
        for hit in hits
    ]
    links = [(found.folder / hit.path).resolve().as_uri() for hit in hits]
    files.write_text(path, render(found, query, hits, pictures, links, serving=False))


def render(
    found: SearchFolder,
    query: str,
    hits: Sequence[Hit],
    pictures: Sequence[str],
    links: Sequence[str],
    *,
    serving: bool,
    seconds: float | None = None,
) -> str:
    """Return the page.

    Args:
        found: what was searched.
        query: as it was asked.
        hits: best first.
        pictures: the address of each hit's thumbnail, "" for a text.
        links: the address of each hit's file.
        serving: whether there is a server to ask again.
        seconds: how long the answer took.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        folder=found.folder.resolve().name,
        count=len(found.snapshot.entries),
        query=query,
        hits=list(zip(hits, pictures, links, strict=True)),
        serving=serving,
        seconds=seconds,
    )


def thumbnail(folder: Path, path: str) -> bytes:
    """Return a picture of the folder as a small JPEG.

    Raises:
        ImageError: when it cannot be read (any more).
    """
    from unime.data.images import load_rgb

    image = load_rgb(folder, path)
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()
