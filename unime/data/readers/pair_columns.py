"""Which column of a file of pairs holds what: query, positive, negatives, scores; see `sentence_transformers`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from unime.core import console
from unime.data.images import IMAGE_SUFFIXES, ends_like_an_image
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
        orders: dict[frozenset[str], list[str]] = {}
        known: dict[tuple[str, ...], list[str]] = {}
        for record in chain(sample, rows):
            if isinstance(record.values, RowError):
                yield record
            else:
                yield record._replace(values=_in_order(record.values, orders, known, paths))


def _in_order(
    row: dict[str, Any],
    orders: dict[frozenset[str], list[str]],
    known: dict[tuple[str, ...], list[str]],
    paths: set[str],
) -> dict[str, Any] | RowError:
    """Return a row's cells in the order of their parts, paths of images as images."""
    names = tuple(row)
    order = known.get(names)
    if order is None:
        try:
            for name in (*QUERIES, POSITIVE, *SCORES):
                cells.optional(row, name)
        except RowError as error:
            return error
        order = known[names] = _order(row, orders)
    values = {name: row.get(name) for name in order}
    for name in paths & values.keys():
        if isinstance(values[name], str) and values[name]:
            values[name] = {"image": values[name]}
    return values


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
            order
            for found, order in orders.items()
            if names < found and len(content_columns(names)) > 1
        )
        known = next(wider, None) or _by_name(list(values))
        orders[names] = known
        unread = [console.printable(name) for name in values if name not in known]
        if unread:
            console.log(f"not read: the columns {', '.join(map(repr, unread))}")
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


def content_columns(names: Iterable[str]) -> list[str]:
    """Return the columns that hold no scores."""
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
        if all(map(ends_like_an_image, found)) and any(_is_image_path(one, job) for one in found)
    }


def _is_image_path(text: str, job: ResolvedSource) -> bool:
    """Tell whether a text that ends like an image file is the path of one, there or missing."""
    if IMAGE_PATH.fullmatch(text):
        return True
    return cells.existing_image(text, job.root, job.image_root) is not None
