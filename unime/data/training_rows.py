"""The training rows: pairs of a data folder with the negatives and scores they are trained with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from unime.data.data_folder import DataFolder
from unime.data.stage_tables import read_rows
from unime.data.tables import list_matrix


@dataclass(frozen=True)
class PairColumns:
    """The pair table as arrays; `positives[starts[i]:starts[i + 1]]` belong to pair i."""

    task: Int[np.ndarray, " pairs"]
    tasks: list[str]
    """Name of each task number."""
    query: Int[np.ndarray, " pairs"]
    query_instruction: Int[np.ndarray, " pairs"]
    query_instructions: list[str]
    target_instruction: Int[np.ndarray, " pairs"]
    target_instructions: list[str]
    positives: Int[np.ndarray, " positives"]
    starts: Int[np.ndarray, " pairs+1"]

    @classmethod
    def of(cls, data: DataFolder) -> PairColumns:
        """Read them from a data folder."""
        task, tasks = _codes(data.pairs["task"])
        query_instruction, query_instructions = _codes(data.pairs["query_instruction"])
        target_instruction, target_instructions = _codes(data.pairs["target_instruction"])
        positives, starts = ragged(data.pairs["positives"])
        return cls(
            task=task,
            tasks=tasks,
            query=data.pairs["query"].to_numpy(),
            query_instruction=query_instruction,
            query_instructions=query_instructions,
            target_instruction=target_instruction,
            target_instructions=target_instructions,
            positives=positives,
            starts=starts,
        )


@dataclass(frozen=True)
class TrainingRows:
    """What is trained on."""

    pair: Int[np.ndarray, " rows"]
    """Row of the pair table."""
    negatives: Int[np.ndarray, "rows negs"]
    """Rows of the item table; -1 = absent."""
    scores: Float[np.ndarray, "rows slots"]
    """Judge scores, the first positive's first, then one per negative; NaN = unscored."""

    @classmethod
    def own(cls, data: DataFolder, most: int) -> TrainingRows:
        """Take the train split with its own negatives and scores, at most `most` a row."""
        pair = data.split("train")
        negatives, starts = ragged(data.pairs["negatives"])
        scores, score_starts = ragged(data.pairs["scores"])
        width = min(most, int(np.diff(starts)[pair].max(initial=0)))
        table = cls(
            pair,
            np.full((len(pair), width), -1, dtype=np.int32),
            np.full((len(pair), 1 + width), np.nan, dtype=np.float32),
        )
        for row, number in enumerate(pair.tolist()):
            ours = negatives[starts[number] : starts[number + 1]][:width]
            table.negatives[row, : len(ours)] = ours
            given = scores[score_starts[number] : score_starts[number + 1]][: 1 + width]
            table.scores[row, : len(given)] = given
        return table

    @classmethod
    def selected(cls, data: DataFolder, folder: Path | str, most: int) -> TrainingRows:
        """Take the rows that `unime select` wrote, at most `most` negatives a row.

        Raises:
            DataError: when they name pairs or items the data folder does not have, or hold scores
                that are none.
        """
        table = read_rows(Path(folder), data)
        return cls(
            table["pair"].to_numpy(),
            list_matrix(table["negatives"])[:, :most],
            list_matrix(table["scores"])[:, : 1 + most],
        )

    def by_task(self, columns: PairColumns) -> dict[str, Int[np.ndarray, " rows"]]:
        """Return the places of each task's rows."""
        tasks = columns.task[self.pair]
        places = {name: np.flatnonzero(tasks == i) for i, name in enumerate(columns.tasks)}
        return {name: rows for name, rows in places.items() if len(rows)}


def ragged(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return a list column as values and starts (one more than rows)."""
    lists = column.combine_chunks()
    starts = lists.offsets.to_numpy()
    return lists.flatten().to_numpy(zero_copy_only=False), starts - starts[0]


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    joined = column.unify_dictionaries().combine_chunks()
    return joined.indices.to_numpy(), joined.dictionary.to_pylist()
