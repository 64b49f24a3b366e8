"""One Parquet file a task and model: every query's result, and the task's numbers in its metadata."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from unime.data.tables import write_table
from unime.eval.scores import KindScore, TaskScores

KEY = b"unime.task"


def save_task(path: Path, scores: TaskScores) -> None:
    """Write a task's file; its presence marks the task as done."""
    facts = {
        "metrics": scores.metrics,
        "expected": scores.expected,
        "chance": scores.chance,
        "by_kind": {kind: asdict(found) for kind, found in scores.by_kind.items()},
        "correlated": scores.values.ndim == 2,
    }
    table = scores.per_query.replace_schema_metadata({KEY: json.dumps(facts).encode()})
    write_table(path, table)


def load_task(path: Path) -> TaskScores:
    """Read one back."""
    table = pq.read_table(path)
    facts = json.loads((table.schema.metadata or {})[KEY])
    values = table["value"].to_numpy()
    if facts["correlated"]:
        values = np.stack([values, table["grade"].to_numpy()], axis=1)
    return TaskScores(
        values=values,
        metrics=facts["metrics"],
        expected=facts["expected"],
        chance=facts["chance"],
        per_query=table,
        by_kind={kind: KindScore(**found) for kind, found in facts["by_kind"].items()},
    )
