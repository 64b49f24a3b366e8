"""FlagEmbedding's JSON Lines: query, pos[], neg[], pos_scores[], neg_scores[], prompt, type."""

from __future__ import annotations

from typing import Any

from unime.data.items import Item, Pair
from unime.data.readers import cells
from unime.data.readers.base import ResolvedSource, RowError

COLUMNS = frozenset(["query", "pos", "neg", "pos_scores", "neg_scores", "prompt", "type"])


def pairs(values: dict[str, Any], job: ResolvedSource) -> list[Pair]:
    """Return the one pair of a row; all of `pos` are its positives.

    Raises:
        RowError: when the row cannot be used.
    """
    cells.require(values, "query", "pos")
    known = job.instructions
    query_instruction, query = known.plain(cells.text(values["query"], "query"), job.task, "query")
    prompt = cells.text(cells.optional(values, "prompt"), "prompt")
    target_instruction = known.plain("", job.task, "target")[0]
    positives = cells.items(values["pos"], None, "pos", job)
    negatives = cells.items(cells.optional(values, "neg"), None, "neg", job)
    pair = Pair(
        query=Item.of(query),
        positives=tuple(positives),
        task=job.task,
        query_instruction=prompt or query_instruction,
        target_instruction=target_instruction,
        negatives=tuple(negatives),
        scores=_scores(values, len(positives), len(negatives)),
    )
    return [cells.checked(pair)]


def _scores(values: dict[str, Any], positives: int, negatives: int) -> tuple[float, ...]:
    """Return the first positive's score and the negatives'; absent lists are no scores."""
    if (
        cells.optional(values, "pos_scores") is None
        and cells.optional(values, "neg_scores") is None
    ):
        return ()
    own = cells.numbers(_list(cells.optional(values, "pos_scores"), positives), "pos_scores")
    others = cells.numbers(_list(cells.optional(values, "neg_scores"), negatives), "neg_scores")
    if len(own) != positives or len(others) != negatives:
        raise RowError(
            "wrong type",
            f"{len(own)} pos_scores for {positives} pos, {len(others)} neg_scores for "
            f"{negatives} neg",
        )
    return (*own[:1], *others)


def _list(value: Any, length: int) -> list[Any]:
    if value is None:
        return [None] * length
    return value if isinstance(value, list) else [value]
