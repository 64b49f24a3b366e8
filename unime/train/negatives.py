"""Refuses training in which no batch can have a negative: its loss would be 0 from end to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unime.core.console import log
from unime.core.errors import DataError
from unime.losses import LossTerm
from unime.train.batch import ContrastIndices
from unime.train.sampler import TaskBatches


def check_negatives(
    batches: TaskBatches, total: int, has_negative: Callable[[int], bool], data: str
) -> None:
    """Look through the first epoch until every task has had a batch with a negative.

    Args:
        batches: which rows make up which batch.
        total: how many batches are trained on.
        has_negative: whether something in batch number n can be told from the positive.
        data: where the rows are from, for the error.

    Raises:
        DataError: when no batch has a negative.
    """
    waiting: set[str] = set()
    taught: set[str] = set()
    for number in range(min(total, batches.epoch_length)):
        task = batches[number].task
        if task not in taught:
            (taught if has_negative(number) else waiting).add(task)
        if len(taught) == len(batches.names):
            return
    if not taught:
        raise DataError(
            f"no batch of {data} has a negative that the losses could use: the queries of a task "
            "all share their positives, a batch holds a single query, or rows bring no negatives "
            "where only those count (in_batch: false); give more rows, a larger batch, or rows with "
            "negatives"
        )
    for task in sorted(waiting - taught):
        log(
            f"WARNING: no batch of task {task} has a negative in the first epoch; it teaches nothing"
        )


def can_contrast(indices: ContrastIndices, losses: Sequence[LossTerm]) -> bool:
    """Tell whether a batch gives one of the losses something to tell from a positive."""
    present = indices.negatives >= 0
    own = present & indices.allowed.gather(1, indices.negatives.clamp(min=0))
    scored = (~indices.scores.isnan()).sum(dim=1) >= 2
    found = {
        "info_nce": bool(indices.allowed.any()),
        "info_nce, own": bool(own.any()),
        "soft_label": bool((own.any(dim=1) & scored).any()),
    }
    names = [
        f"{term.name}, own" if term.options.get("in_batch") is False else term.name
        for term in losses
    ]
    return any(found.get(name, True) for name in names)
