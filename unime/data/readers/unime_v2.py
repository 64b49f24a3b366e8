"""UniME-V2's judged training rows: one JSON list over many MMEB tasks.

query_text, query_image, pos_text, pos_image, query_pos_scores, hard_negatives [[text, image]] and
hard_negatives_scores. Rows don't say their task: it is the source's, else the data set named in
an image path (`images/A-OKVQA/...`), else the one task that the instruction belongs to.
"""

from __future__ import annotations

from typing import Any

from unime.data.items import Item, Pair
from unime.data.readers import cells
from unime.data.readers.base import ResolvedSource, RowError

COLUMNS = ("query_text", "query_image", "pos_text", "pos_image")
MORE_COLUMNS = ("query_pos_scores", "hard_negatives", "hard_negatives_scores")


def pairs(values: dict[str, Any], job: ResolvedSource) -> list[Pair]:
    """Return the one pair of a row, with its negatives and scores.

    Raises:
        RowError: when the row cannot be used.
    """
    cells.require(values, *COLUMNS)
    query = _item(values["query_text"], values["query_image"], "query", job)
    positive = _item(values["pos_text"], values["pos_image"], "positive", job)
    negatives = _negatives(cells.optional(values, "hard_negatives"), job)
    task = _task(query, positive, job)
    split = job.instructions.split
    query_instruction, query_text = split(query.text, task, "query")
    target_instruction, positive_text = split(positive.text, task, "target")
    pair = Pair(
        query=Item.of(query_text, query.image),
        positives=(Item.of(positive_text, positive.image),),
        task=task,
        query_instruction=query_instruction,
        target_instruction=target_instruction,
        negatives=tuple(Item.of(split(n.text, task, "target")[1], n.image) for n in negatives),
        scores=_scores(values, len(negatives)),
    )
    return [cells.checked(pair)]


def _negatives(value: Any, job: ResolvedSource) -> list[Item]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowError("wrong type", "hard_negatives: expected a list of [text, image]")
    for negative in value:
        if not isinstance(negative, list | tuple) or len(negative) != 2:
            raise RowError("wrong type", "hard_negatives: expected [text, image] in the list")
    return [_item(text, image, f"negative {i}", job) for i, (text, image) in enumerate(value)]


def _scores(values: dict[str, Any], negatives: int) -> tuple[float, ...]:
    positive, others = (
        cells.optional(values, "query_pos_scores"),
        cells.optional(values, "hard_negatives_scores"),
    )
    if positive is None and others is None:
        return ()
    scores = (
        *cells.numbers(positive, "query_pos_scores"),
        *cells.numbers([] if others is None else others, "hard_negatives_scores"),
    )
    if len(scores) != 1 + negatives:
        raise RowError("wrong type", f"{len(scores)} scores, expected 1 + {negatives} negatives")
    return scores


def _item(text: Any, image: Any, what: str, job: ResolvedSource) -> Item:
    return Item.of(
        cells.text(text, f"{what} text"), cells.located_image(image, f"{what} image", job)
    )


def _task(query: Item, positive: Item, job: ResolvedSource) -> str:
    if job.source.task:
        return job.source.task
    for item in (query, positive):
        parts = (item.image or "").split("/")[:-1]
        named = [part for part in parts if part in job.instructions.tasks]
        if named:
            return named[-1]
    return job.instructions.task_of(query.text) or job.task
