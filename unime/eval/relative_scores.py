"""Which share of a reference model's score another model reaches, with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from unime.eval.intervals import bootstrap, interval, score_of
from unime.eval.summary import percent
from unime.eval.task_file import load_task

Share = dict[str, float | None]


def shares(folders: Mapping[str, Path], reference: str) -> dict[str, dict[str, dict[str, Share]]]:
    """Return the shares of all models but the reference, by model's folder, benchmark and task.

    Both scores are taken of the same resampled queries (pairs, of an STS task).

    Args:
        folders: of each model's name the folder with its scores.
        reference: the name of the model that is 100 percent.

    Returns:
        Each task's `share`, and `low` and `high` of its 95 % interval, in percent; None where the
        reference has no score above 0 to take a share of.
    """
    first = folders[reference]
    benchmarks = sorted({path.parent.name for path in first.glob("*/*.parquet")})
    return {
        folder.name: {
            benchmark: {
                task.stem: _share(task, folder / benchmark / task.name, f"{benchmark}/{task.stem}")
                for task in sorted((first / benchmark).glob("*.parquet"))
            }
            for benchmark in benchmarks
        }
        for name, folder in folders.items()
        if name != reference
    }


def _share(reference: Path, other: Path, name: str) -> Share:
    values = [load_task(path).values for path in (reference, other)]
    whole, part = (score_of(one) for one in values)
    # The same name, the same draws.
    wholes, parts = (bootstrap(one, name) for one in values)
    if whole <= 0 or wholes.min() <= 0:
        return {"share": None, "low": None, "high": None}
    low, high = interval(np.asarray(parts / wholes))
    return {"share": percent(part / whole), "low": percent(low), "high": percent(high)}
