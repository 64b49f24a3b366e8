"""Refuses rows from which nothing could be learned: training on them would be at loss 0 throughout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from unime.core.console import log
from unime.core.errors import DataError
from unime.data.data_folder import DataFolder
from unime.data.training_rows import TrainingRows
from unime.losses import LossTerm
from unime.train.sampler import TaskBatches


@runtime_checkable
class HasNegatives(Protocol):
    """A layout that knows which of its batches teach something."""

    batches: TaskBatches

    def has_negative(self, number: int, losses: Sequence[LossTerm]) -> bool:
        """Tell whether a loss can tell something in a batch from the positive; nothing is loaded."""
        ...


def read_rows(
    data: DataFolder, folder: str | None, most: int, needs_scores: str | None
) -> TrainingRows:
    """Return what is trained on.

    Args:
        data: the data folder.
        folder: the output of `unime select`; without it the train split with its own negatives.
        most: negatives of a row that are used, the first ones.
        needs_scores: which loss does, for the message; None where none does.

    Raises:
        DataError: when there is no row, or no score where one is needed.
    """
    if folder is None:
        rows = TrainingRows.own(data, most)
    else:
        rows = TrainingRows.selected(data, folder, most)
    where = folder or data.path
    if len(rows.pair) == 0:
        raise DataError(f"{where} has no training row")
    if needs_scores is not None and np.isnan(rows.scores).all():
        raise DataError(
            f"{needs_scores} needs judge scores, but no row of {where} has any; run mine, judge and "
            "select, or bring scores of your own"
        )
    return rows


def check_negatives(
    layout: HasNegatives, losses: Sequence[LossTerm], total: int, data: str
) -> None:
    """Look through the first epoch until every task has had a batch with a negative.

    Args:
        layout: of the batches.
        losses: the recipe's.
        total: how many batches are trained on.
        data: where the rows are from, for the error.

    Raises:
        DataError: when no batch has a negative.
    """
    batches = layout.batches
    waiting: set[str] = set()
    taught: set[str] = set()
    for number in range(min(total, batches.epoch_length)):
        task = batches[number].task
        if task not in taught:
            (taught if layout.has_negative(number, losses) else waiting).add(task)
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
