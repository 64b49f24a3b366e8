"""sentence-transformers columns: anchor, positive, negative or negative_1..n, label or score.

Column order matters and names do not: the first column is the query, the second the positive,
further ones negatives. `label`, `labels`, `score` and `scores` hold scores: one number for the
positive, or a list for the positive and each negative. A cell is a text, an image (in the table, or
a path that ends like one), {"text", "image"}, or chat messages with one turn.
"""

from __future__ import annotations

import re
from typing import Any

from unime.data.items import Item, Pair
from unime.data.readers import cells
from unime.data.readers.base import ResolvedSource, RowError
from unime.data.readers.formats import EmbeddedImage

SCORES = ("label", "labels", "score", "scores")
IMAGE_PATH = re.compile(r"\S+\.(?:png|jpe?g|webp|gif|bmp|tiff?|avif)", re.IGNORECASE)


def pairs(values: dict[str, Any], job: ResolvedSource) -> list[Pair]:
    """Return the one pair of a row.

    Raises:
        RowError: when the row cannot be used; also when its label says it is no match.
    """
    columns = [name for name in values if name not in SCORES]
    if len(columns) < 2:
        raise RowError("missing column", f"expected anchor and positive, got {', '.join(values)}")
    items = [_item(values[name], name, job) for name in columns if values[name] is not None]
    if len(items) < 2:
        raise RowError("empty item", f"'{columns[0]}' or '{columns[1]}' is empty")
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
        scores=_scores(values, len(contents) - 1),
    )
    return [cells.checked(pair)]


def _scores(values: dict[str, Any], negatives: int) -> tuple[float, ...]:
    column = next((name for name in SCORES if name in values), None)
    if column is None or values[column] is None:
        return ()
    scores = cells.numbers(values[column], column)
    if not isinstance(values[column], list) and scores[0] == 0:
        raise RowError("no positive", f"{column} is 0: the row says that it is no match")
    if len(scores) != 1 + negatives:
        raise RowError("wrong type", f"{column}: {len(scores)} scores, expected {1 + negatives}")
    return scores


def _item(value: Any, what: str, job: ResolvedSource) -> Item:
    if isinstance(value, EmbeddedImage):
        return Item.of("", str(value))
    if isinstance(value, dict):
        return Item.of(
            cells.text(value.get("text"), f"{what} text"),
            cells.image(value.get("image"), f"{what} image", job.image_root),
        )
    if isinstance(value, list):
        return _message(value, what, job)
    text = cells.text(value, what)
    if IMAGE_PATH.fullmatch(text):
        return Item.of("", cells.image(text, what, job.image_root))
    return Item.of(text)


def _message(value: list[Any], what: str, job: ResolvedSource) -> Item:
    """Return the content of chat messages: one turn, its parts text or image."""
    if len(value) != 1 or not isinstance(value[0], dict) or "content" not in value[0]:
        raise RowError("wrong type", f"{what}: expected one chat message with a content")
    content = value[0]["content"]
    if isinstance(content, str):
        return Item.of(cells.text(content, what))
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise RowError("wrong type", f"{what}: expected a content of text and image parts")
    texts = [cells.text(part["text"], what) for part in content if part.get("text")]
    images = [part["image"] for part in content if part.get("image")]
    if len(images) > 1:
        raise RowError("wrong type", f"{what}: {len(images)} images, expected at most one")
    image = cells.image(images[0] if images else None, what, job.image_root)
    return Item.of("\n".join(texts), image)
