"""Split pairs into train and dev so that no query and no image is on both sides.

Pairs are connected when they share a query's content or an image (of query or positive), over
all tasks. Whole groups of pairs go to one side. A negative is no connection (each
pair of a mined set would then hang on every other); instead, negatives that show the other side's
images are taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NONE = -1


class Slots(NamedTuple):
    """All items of all pairs in one row: query, positives, negatives, next pair's query, ..."""

    pair: np.ndarray
    """int64 `(slots,)`: the pair's number."""
    item: np.ndarray
    """int32 `(slots,)`: row of the item table."""
    picture: np.ndarray
    """int64 `(slots,)`: the picture's number, or NONE."""
    role: np.ndarray
    """uint8 `(slots,)`: 0 query, 1 positive, 2 negative."""


QUERY, POSITIVE, NEGATIVE = 0, 1, 2


def groups_of_pairs(slots: Slots) -> np.ndarray:
    """Return a group number for each pair, int64 `(pairs,)`; numbers are not consecutive."""
    queries = slots.item[slots.role == QUERY].astype(np.int64)
    linking = (slots.picture != NONE) & (slots.role != NEGATIVE)
    # Nodes are query contents (numbers of items) and, after them, images.
    first_picture = int(slots.item.max(initial=-1)) + 1
    a = queries[slots.pair[linking]]
    b = slots.picture[linking] + first_picture
    nodes = first_picture + int(slots.picture.max(initial=-1)) + 1
    return components(a, b, nodes)[queries]


def choose_dev(
    groups: np.ndarray, tasks: np.ndarray, ids: np.ndarray, targets: Sequence[int]
) -> np.ndarray:
    """Choose dev pairs by content: the same data in another order gives the same choice.

    Args:
        groups: group of each pair, int64 `(pairs,)`.
        tasks: task number of each pair, int64 `(pairs,)`.
        ids: content ids of the pairs' queries, uint8 `(pairs, 16)`.
        targets: how many dev pairs each task shall have; never exceeded.

    Returns:
        bool `(pairs,)`, true for dev.
    """
    chosen = np.zeros(len(groups), dtype=bool)
    if not any(targets):
        return chosen
    names, group = np.unique(groups, return_inverse=True)
    keys = np.full(len(names), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(keys, group, np.ascontiguousarray(ids).view("<u8")[:, 0])
    # Mixed again: the least of many ids is small, so large groups would always come first.
    order = np.argsort(_mix(keys), kind="stable")
    taken = _take(group, tasks, order, np.array(targets, dtype=np.int64))
    return taken[group]


def foreign_negatives(slots: Slots, dev: np.ndarray) -> np.ndarray:
    """Return which slots are negatives that show an image of the other side, bool `(slots,)`."""
    # One mark more than there are images: slots without one (NONE = -1) look up the last.
    pictures = int(slots.picture.max(initial=-1)) + 2
    shows = slots.picture != NONE
    negative = slots.role == NEGATIVE
    on_dev_side = dev[slots.pair]
    of_dev = _marks(slots.picture[shows & on_dev_side & ~negative], pictures)
    in_train = shows & negative & ~on_dev_side & of_dev[slots.picture]
    # What train still shows after that must not be among dev's negatives.
    of_train = _marks(slots.picture[shows & ~on_dev_side & ~in_train], pictures)
    in_dev = shows & negative & on_dev_side & of_train[slots.picture]
    return in_train | in_dev


def _take(
    group: np.ndarray, tasks: np.ndarray, order: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Take groups in order as long as no task gets more than its target."""
    cells, counts = np.unique(group * len(targets) + tasks, return_counts=True)
    cell_group, cell_task = np.divmod(cells, len(targets))
    starts = np.searchsorted(cell_group, np.arange(len(order) + 1))
    taken = np.zeros(len(order), dtype=bool)
    left = targets.copy()
    for number in order:
        cell = slice(starts[number], starts[number + 1])
        if (counts[cell] <= left[cell_task[cell]]).all():
            left[cell_task[cell]] -= counts[cell]
            taken[number] = True
            if not left.any():
                break
    return taken


def components(a: np.ndarray, b: np.ndarray, nodes: int) -> np.ndarray:
    """Return the least node of each node's component, for edges a-b; all int64."""
    labels = np.arange(nodes, dtype=np.int64)
    while True:
        before = labels.copy()
        least = np.minimum(labels[a], labels[b])
        np.minimum.at(labels, labels[a], least)
        np.minimum.at(labels, labels[b], least)
        labels = labels[labels]
        if np.array_equal(labels, before):
            return labels


def _marks(numbers: np.ndarray, length: int) -> np.ndarray:
    marks = np.zeros(length, dtype=bool)
    marks[numbers] = True
    return marks


def _mix(keys: np.ndarray) -> np.ndarray:
    """Scramble 64-bit keys (the finaliser of SplitMix64; overflow is meant)."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
