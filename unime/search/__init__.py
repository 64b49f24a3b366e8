"""`unime search FOLDER "query"`: find pictures and texts of a folder by what they show or say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from unime.core.errors import DataError, ModelError
from unime.search.index import Hit, SearchFolder

__all__ = ["Hit", "SearchFolder", "open_search", "show"]


def open_search(folder: Path, index: Path | None = None, model: Path | None = None) -> SearchFolder:
    """Load the model and bring the folder's index up to date.

    Args:
        folder: with images and text files, at any depth.
        index: where the index lies; `.unime-search` in the folder by default.
        model: an exported model; by default the one the index was made with, else the newest of
            `runs/*/8_export/embedder`.

    Raises:
        DataError: when the folder cannot be searched.
        ModelError: when there is no model.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with images or text files")
    place = index or folder / ".unime-search"
    return SearchFolder.open(folder, place, model or _default_model(place))


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
    from unime.search.results_page import write_page

    hits = found.find(query, image, top, instruction)
    for number, hit in enumerate(hits, start=1):
        text = " ".join(hit.text.split())[:80]
        echo(f"{number:3}  {hit.similarity:.3f}  {found.folder / hit.path}  {text}".rstrip())
    page = found.place / "results.html"
    write_page(page, found, query or str(image), hits)
    echo(f"with thumbnails: {page.resolve().as_uri()}")


def _default_model(place: Path) -> Path:
    from unime.search.index_files import model_of

    known = model_of(place)
    if known is not None and (known / "unime.json").is_file():
        return known
    exports = Path("runs").glob("*/8_export/embedder/unime.json")
    newest = max(exports, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise ModelError(
            "no model to search with: give --model FOLDER, written by `unime export` "
            "(there is no runs/*/8_export/embedder here)"
        )
    return newest.parent
