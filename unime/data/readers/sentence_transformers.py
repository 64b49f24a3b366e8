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

from collections.abc import Sequence
from typing import Any

from unime.data.images import ends_like_an_image
from unime.data.items import Item, Pair
from unime.data.readers import cells
from unime.data.readers.base import EmbeddedImage, ResolvedSource, RowError
from unime.data.readers.pair_columns import IMAGE_PATH, SCORES, content_columns


def pairs(values: dict[str, Any], job: ResolvedSource) -> list[Pair]:
    """Return the one pair of a row.

    Raises:
        RowError: when the row cannot be used; also when its label says it is no match.
    """
    columns = content_columns(values)
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
        item if content == item.text else Item.of(content, item.image)
        for (_, content), item in zip(targets, items[1:], strict=True)
    ]
    pair = Pair(
        query=items[0] if query == items[0].text else Item.of(query, items[0].image),
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
    filled = [name for name in SCORES if not _is_empty(values.get(name))]
    if not filled:
        return ()
    if len(filled) > 1:
        raise RowError("repeated column", f"scores in {' and in '.join(filled)}; keep one of them")
    (column,) = filled
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
    if type(value) is str and value.isascii() and not ends_like_an_image(value):
        return Item.of(value)
    if isinstance(value, EmbeddedImage):
        return Item.of("", str(value))
    if isinstance(value, dict):
        return _part(value, what, job)
    if isinstance(value, list):
        return _message(value, what, job)
    text = cells.text(value, what)
    if ends_like_an_image(text):
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
