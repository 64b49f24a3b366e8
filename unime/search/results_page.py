"""Results as one small HTML page; thumbnails lie in it, so that it can be sent to a friend."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
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


def show(
    found: SearchFolder,
    query: str,
    image: Path | None,
    top: int,
    instruction: str | None,
    echo: Callable[[str], None],
) -> None:
    """Answer one query: a line for each result, and a page with thumbnails beside the index.

    Args:
        found: an open folder.
        query: a text; may be empty when there is an image.
        image: a picture to search with.
        top: how many results.
        instruction: what to look for, in words, instead of the default.
        echo: where the lines go.
    """
    hits = found.find(query, image, top, instruction)
    for number, hit in enumerate(hits, start=1):
        text = " ".join(hit.text.split())[:80]
        echo(f"{number:3}  {hit.similarity:.3f}  {found.folder / hit.path}  {text}".rstrip())
    page = found.place / "results.html"
    write_page(page, found, query or str(image), hits)
    echo(f"with thumbnails: {page.resolve().as_uri()}")
