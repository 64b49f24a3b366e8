"""Which candidates are no negatives of a query: identity decides, not similarity.

A candidate is no negative of a query if it is any known positive of that query's content within
the task, or the query's own content. Five captions of one image are then no negatives of each
other, and neither are two rows with the same class name.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from unime.data.data_folder import DataFolder, Items


def content_numbers(items: Items) -> np.ndarray:
    """Return a number for each item, equal where the content is equal, int64 `(items,)`."""
    ids = np.ascontiguousarray(items.content_ids).view(f"V{items.content_ids.shape[1]}").ravel()
    _, numbers = np.unique(ids, return_inverse=True)
    return numbers.astype(np.int64).ravel()


class KnownPositives:
    """All positives of every query content, by task; of all splits, also those held out.

    Args:
        data: the data folder.
        contents: `content_numbers` of its items.
    """

    def __init__(self, data: DataFolder, contents: np.ndarray) -> None:
        self.contents = contents
        pairs = data.pairs
        tasks = _one_chunk(pairs["task"])
        self.task_numbers = {name: i for i, name in enumerate(tasks.dictionary.to_pylist())}
        positives = _one_chunk(pairs["positives"])
        counts = np.diff(positives.offsets.to_numpy())
        query = contents[pairs["query"].to_numpy()]
        self._contents = int(contents.max(initial=0)) + 1
        keys = tasks.indices.to_numpy().astype(np.int64) * self._contents + query
        known = contents[positives.flatten().to_numpy()]
        table = np.unique(np.stack([np.repeat(keys, counts), known], axis=1), axis=0)
        self._keys, self._known = table[:, 0].copy(), table[:, 1].copy()

    def of(self, task: str, query: int) -> np.ndarray:
        """Return the content numbers of all known positives of a query content."""
        key = self.task_numbers[task] * self._contents + query
        start, stop = np.searchsorted(self._keys, [key, key + 1])
        return self._known[start:stop]

    def allowed(self, task: str, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Return which candidates may be negatives.

        Args:
            task: the task of the batch.
            queries: content number of each row's query `(batch,)`.
            candidates: content number of each distinct candidate `(cands,)`.

        Returns:
            Bool `(batch, cands)`.
        """
        order = np.argsort(candidates, kind="stable")
        ordered = candidates[order]
        allowed = np.ones((len(queries), len(candidates)), dtype=bool)
        for row, query in enumerate(queries.tolist()):
            excluded = np.append(self.of(task, query), query)
            starts = np.searchsorted(ordered, excluded, side="left")
            stops = np.searchsorted(ordered, excluded, side="right")
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
                allowed[row, order[start:stop]] = False
        return allowed


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return column.combine_chunks()
