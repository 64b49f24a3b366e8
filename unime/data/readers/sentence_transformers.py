"""sentence-transformers columns: anchor, positive, negative or negative_1..n, label or score.

Columns that are called anchor (or query) and positive are what they say, and so are all that are called
negative; others are not read, and named. Without these names the order matters: the first column is the query,
the second the positive, further ones negatives, in the order of the file's first row; a column called negative
is never a positive. An empty cell changes nothing for the others: without
query or positive the row is rejected, an empty negative is left out with its score.
`label`, `labels`, `score` and `scores` hold scores: one number for the positive, or a list for the positive
and each negative. A cell is a text, an image (in the table, or the path of a file that is there), {"text",
"image"}, or chat messages with one turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from unime.core import console
from unime.data.images import IMAGE_SUFFIXES
from unime.data.items import Item, Pair
from unime.data.readers import cells, formats
from unime.data.readers.base import EmbeddedImage, Record, ResolvedSource, RowError

SCORES = ("label", "labels", "score", "scores")
INDEX = ("", "Unnamed: 0", "__index_level_0__")
"""Columns that pandas writes for the numbers of its rows."""
IMAGE_PATH = re.compile(
    rf"\S+\.(?:{'|'.join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))})", re.IGNORECASE
)
QUERIES, POSITIVE = ("anchor", "query"), "positive"
SAMPLE = 100
"""Rows that tell which columns hold nothing but paths of images."""
_NEGATIVE = re.compile(r"negatives?([ _]?\(?\d+\)?)?", re.IGNORECASE)


def records(job: ResolvedSource) -> Iterator[Record]:
    """Yield the rows of a source's files, columns in the order of their parts.

    Raises:
        DataError: as `formats.records`.
    """
    for path in formats.data_files(job):
        rows = formats.records_of(path, job)
        sample = list(islice(rows, SAMPLE))
        paths = _path_columns(sample, job)
        _say_what_is_left_out(path, sample)
        orders: dict[frozenset[str], list[str]] = {}
        for record in chain(sample, rows):
            if isinstance(record.values, RowError):
                yield record
            else:
                yield record._replace(values=_in_order(record.values, orders, paths))


def _in_order(
    row: dict[str, Any], orders: dict[frozenset[str], list[str]], paths: set[str]
) -> dict[str, Any] | RowError:
    """Return a row's cells in the order of their parts, paths of images as images."""
    try:
        for name in (*QUERIES, POSITIVE, *SCORES):
            cells.optional(row, name)
    except RowError as error:
        return error
    values = {name: row.get(name) for name in _order(row, orders)}
    for name in paths & values.keys():
        if isinstance(values[name], str) and values[name]:
            values[name] = {"image": values[name]}
    return values


def _say_what_is_left_out(path: Path, sample: Sequence[Record]) -> None:
    for record in sample[:1]:
        if not isinstance(record.values, RowError):
            unread = set(record.values) - set(_by_name(list(record.values)))
            if unread:
                console.log(f"{path}: not read: the columns {', '.join(map(repr, sorted(unread)))}")


def _order(values: dict[str, Any], orders: dict[frozenset[str], list[str]]) -> list[str]:
    """Return a row's columns: query, positive, negatives, then scores.

    Args:
        values: the row.
        orders: those of the file's rows so far, by their columns. A row that lacks some has them empty.
    """
    names = frozenset(values)
    known = orders.get(names)
    if known is None:
        wider = (
            order for found, order in orders.items() if names < found and len(_contents(names)) > 1
        )
        known = next(wider, None) or _by_name(list(values))
        orders[names] = known
    return known


def _by_name(names: list[str]) -> list[str]:
    """Return columns in the order of their parts, by their names where these say what they are."""
    scores = [name for name in names if name in SCORES]
    contents = [name for name in names if name not in SCORES and name not in INDEX]
    negatives = [name for name in contents if _NEGATIVE.fullmatch(name)]
    others = [name for name in contents if name not in negatives]
    query = next((name for name in QUERIES if name in others), None)
    if query is not None and POSITIVE in others:
        return [query, POSITIVE, *negatives, *scores]
    if POSITIVE in others and len(others) > 1:
        others.remove(POSITIVE)
        others.insert(1, POSITIVE)
    elif negatives and len(others) < 2:
        others.append(POSITIVE)  # no row of this file has one
    return [*others[:2], *(name for name in contents if name not in others[:2]), *scores]


def _contents(names: Iterable[str]) -> list[str]:
    return [name for name in names if name not in SCORES]


def _path_columns(sample: Sequence[Record], job: ResolvedSource) -> set[str]:
    """Return the columns whose every text ends like an image file, and is one somewhere."""
    texts: dict[str, list[str]] = {}
    for record in sample:
        if not isinstance(record.values, RowError):
            for name, value in record.values.items():
                if (
                    isinstance(value, str)
                    and not isinstance(value, EmbeddedImage)
                    and value.strip()
                ):
                    texts.setdefault(name, []).append(value)
    return {
        name
        for name, found in texts.items()
        if all(map(_ends_like_an_image, found)) and any(_is_image_path(one, job) for one in found)
    }


def _is_image_path(text: str, job: ResolvedSource) -> bool:
    """Tell whether a text that ends like an image file is the path of one, there or missing."""
    if IMAGE_PATH.fullmatch(text):
        return True
    return cells.existing_image(text, job.root, job.image_root) is not None


def _ends_like_an_image(text: str) -> bool:
    return "." in text and f".{text.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES


def pairs(values: dict[str, Any], job: ResolvedSource) -> list[Pair]:
    """Return the one pair of a row.

    Raises:
        RowError: when the row cannot be used; also when its label says it is no match.
    """
    columns = _contents(values)
    if len(columns) < 2:
        raise RowError("missing column", f"expected anchor and positive, got {', '.join(values)}")
    for name in columns[:2]:
        if _is_empty(values[name]):
            raise RowError("empty item", f"'{name}' is empty")
    given = [name for name in columns[2:] if not _is_empty(values[name])]
    items = [_item(values[name], name, job) for name in (*columns[:2], *given)]
    known = job.instructions
    query_instruction, query = known.plain(items[0].text, job.task, "query")
    targets = [known.plain(item.text, job.task, "target") for item in items[1:]]
    contents = [
        Item.of(content, item.image) for (_, content), item in zip(targets, items[1:], strict=True)
    ]
    pair = Pair(
        query=Item.of(query, items[0].image),
        positives=(contents[0],),
        task=job.task,
        query_instruction=query_instruction,
        target_instruction=targets[0][0],
        negatives=tuple(contents[1:]),
        scores=_scores(values, columns[2:], given),
    )
    return [cells.checked(pair)]


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _scores(
    values: dict[str, Any], negatives: Sequence[str], given: Sequence[str]
) -> tuple[float, ...]:
    """Return the positive's score and those of the negatives that are there.

    Args:
        values: the row.
        negatives: the columns of negatives.
        given: those of them that are not empty.
    """
    column = next((name for name in SCORES if name in values), None)
    if column is None or _is_empty(values[column]):
        return ()
    scores = cells.numbers(values[column], column)
    if not isinstance(values[column], list) and scores[0] == 0:
        raise RowError("no positive", f"{column} is 0: the row says that it is no match")
    if len(scores) == 1 + len(negatives):
        kept = [score for name, score in zip(negatives, scores[1:], strict=True) if name in given]
        return (scores[0], *kept)
    if len(scores) != 1 + len(given):
        raise RowError(
            "wrong type", f"{column}: {len(scores)} scores, expected {1 + len(negatives)}"
        )
    return scores


def _item(value: Any, what: str, job: ResolvedSource) -> Item:
    if isinstance(value, EmbeddedImage):
        return Item.of("", str(value))
    if isinstance(value, dict):
        return _part(value, what, job)
    if isinstance(value, list):
        return _message(value, what, job)
    text = cells.text(value, what)
    if _ends_like_an_image(text):
        # A text may end so too; the file decides. One that is missing is no text, unless it has blanks.
        there = cells.existing_image(text, job.root, job.image_root)
        if there is not None or IMAGE_PATH.fullmatch(text):
            return Item.of("", there or cells.image(text, what, job.image_root))
    return Item.of(text)


def _part(value: dict[str, Any], what: str, job: ResolvedSource) -> Item:
    """Return the content of {"text", "image"}."""
    unknown = [repr(name) for name in value if name not in ("text", "image") and value[name]]
    if unknown:
        raise RowError(
            "unsupported cell",
            f"{what}: {', '.join(unknown)}; a cell holds one 'text' and one 'image' at most",
        )
    return Item.of(
        cells.text(value.get("text"), f"{what} text"),
        cells.located_image(value.get("image"), f"{what} image", job),
    )


def _message(value: list[Any], what: str, job: ResolvedSource) -> Item:
    """Return the content of chat messages: one turn, its parts text or image."""
    if len(value) != 1 or not isinstance(value[0], dict) or "content" not in value[0]:
        raise RowError("wrong type", f"{what}: expected one chat message with a content")
    content = value[0]["content"]
    if isinstance(content, str):
        return Item.of(cells.text(content, what))
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise RowError("wrong type", f"{what}: expected a content of text and image parts")
    parts = [
        _part({name: cell for name, cell in part.items() if name != "type"}, what, job)
        for part in content
    ]
    for kind in (part.get("type", "text") for part in content):
        if kind not in ("text", "image"):
            raise RowError(
                "unsupported cell", f"{what}: a part of the type {kind!r}; known: text, image"
            )
    images = [item.image for item in parts if item.image is not None]
    if len(images) > 1:
        raise RowError("wrong type", f"{what}: {len(images)} images, expected at most one")
    texts = [item.text for item in parts if item.text]
    return Item.of("\n".join(texts), images[0] if images else None)
