"""MMEB-train: qry, qry_image_path, pos_text, pos_image_path and perhaps neg_text, neg_image_path.

Instruction and `<|image_1|>` placeholder are part of the texts; some rows of the published data
carry the placeholder and have no image, so it says nothing about one.
Splits: `original` and `diverse_instruction` (paraphrased instructions, which stay in the text).
"""

from __future__ import annotations

from typing import Any

from unime.data.items import Item, Pair
from unime.data.readers import cells
from unime.data.readers.base import ResolvedSource

COLUMNS = ("qry", "qry_image_path", "pos_text", "pos_image_path")


def pairs(values: dict[str, Any], job: ResolvedSource) -> list[Pair]:
    """Return the one pair of a row.

    Raises:
        RowError: when the row cannot be used.
    """
    cells.require(values, *COLUMNS)
    split, task, root = job.instructions.split, job.task, job.image_root
    query_instruction, query = split(cells.text(values["qry"], "query text"), task, "query")
    query_image = cells.image(values["qry_image_path"], "query image", root)
    raw = cells.items(values["pos_text"], values["pos_image_path"], "positive", root)
    negatives = cells.items(values.get("neg_text"), values.get("neg_image_path"), "negative", root)
    targets = [split(item.text, task, "target") for item in (*raw, *negatives)]
    contents = [
        Item(content, item.image)
        for (_, content), item in zip(targets, (*raw, *negatives), strict=True)
    ]
    pair = Pair(
        query=Item(query, query_image),
        positives=tuple(contents[: len(raw)]),
        task=task,
        query_instruction=query_instruction,
        target_instruction=targets[0][0] if targets else "",
        # A row without negatives has them as "" or [""], depending on the subset.
        negatives=tuple(item for item in contents[len(raw) :] if item.text or item.image),
    )
    return [cells.checked(pair)]
