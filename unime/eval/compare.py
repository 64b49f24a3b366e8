"""`unime eval compare A B`: is B better than A, per task and over all, with due doubt.

Both are compared on the same queries. Per task: the difference, its 95 % interval by a paired
bootstrap, and a randomisation test's p-value, corrected for the number of tasks by Holm's method.
Means are tested as a whole, not through their tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unime.core import files
from unime.core.errors import DataError
from unime.eval.intervals import (
    holm,
    interval,
    macro,
    p_value,
    paired_bootstrap,
    paired_null,
    score_of,
)
from unime.eval.result_table import grid
from unime.eval.task_file import load_task

SCORES = "scores.json"


class Difference(NamedTuple):
    """One task or mean, in percent."""

    name: str
    first: float
    second: float
    low: float
    """95 % interval of second - first."""
    high: float
    p: float
    corrected: float
    """The p-value after correction for the number of tasks compared."""

    @property
    def difference(self) -> float:
        """How much better the second is."""
        return self.second - self.first


def compare_text(first: Path, second: Path) -> str:
    """Return the comparison of two models' folders as a table.

    Raises:
        DataError: when they were not evaluated on the same data.
    """
    compared = compare(first, second)
    parts = [f"A: {_name(first)}\nB: {_name(second)}"]
    for benchmark, differences in compared.items():
        lines = [
            [
                d.name,
                f"{d.first:.1f}",
                f"{d.second:.1f}",
                f"{d.difference:+.1f}",
                f"{d.low:+.1f} to {d.high:+.1f}",
                f"{d.p:.4f}",
                "-" if np.isnan(d.corrected) else f"{d.corrected:.4f}",
                "*" if _is_clear(d) else "",
            ]
            for d in differences
        ]
        header = ["task", "A", "B", "B - A", "95 % interval", "p", "p (Holm)", ""]
        parts += [benchmark, grid(header, lines)]
    parts.append("* significant at 5 %: tasks after correction for their number, means as they are")
    return "\n\n".join(parts)


def compare(first: Path, second: Path) -> dict[str, list[Difference]]:
    """Return the differences of two models by benchmark: the means first, then the tasks.

    Args:
        first: a model's folder in an evaluation's output (the one with scores.json).
        second: another.

    Raises:
        DataError: when they were not evaluated on the same data.
    """
    scores = [_scores(folder) for folder in (first, second)]
    shared = [name for name in scores[0] if name in scores[1]]
    if not shared:
        raise DataError(f"{first} and {second} share no benchmark; nothing to compare")
    return {
        name: _benchmark(name, [first, second], [found[name] for found in scores])
        for name in shared
    }


def _benchmark(
    name: str, folders: Sequence[Path], scores: Sequence[Mapping[str, Any]]
) -> list[Difference]:
    for what in ("version", "limit"):
        values = [found[what] for found in scores]
        if values[0] != values[1]:
            raise DataError(f"{name}: {what} {values[0]} and {values[1]} cannot be compared")
    tasks = [task for task in scores[0]["tasks"] if task in scores[1]["tasks"]]
    draws, nulls, found = {}, {}, []
    for task in tasks:
        first, second = (_values(folder, name, task) for folder in folders)
        if len(first) != len(second):
            raise DataError(
                f"{name}, task {task}: {len(first)} and {len(second)} queries; evaluate both on the "
                "same data"
            )
        draws[task] = paired_bootstrap(first, second, f"{name}/{task}")
        nulls[task] = paired_null(first, second, f"{name}/{task}")
        both = [score_of(first), score_of(second)]
        found.append(_difference(task, both, draws[task], nulls[task]))
    corrected = holm([difference.p for difference in found])
    found = [d._replace(corrected=p) for d, p in zip(found, corrected, strict=True)]
    return _means(scores, found, draws, nulls) + found


def _means(
    scores: Sequence[Mapping[str, Any]],
    tasks: Sequence[Difference],
    draws: Mapping[str, np.ndarray],
    nulls: Mapping[str, np.ndarray],
) -> list[Difference]:
    """Return overall and group means, each over the tasks both models have."""
    facts = scores[0]["tasks"]
    groups: dict[str, list[Difference]] = {"overall": list(tasks)}
    for task in tasks:
        groups.setdefault(facts[task.name]["meta_task"], []).append(task)
    return [
        _difference(
            f"mean {group}",
            [float(np.mean([getattr(d, side) for d in members])) / 100 for side in ("first", "second")],
            macro([draws[d.name] for d in members]),
            macro([nulls[d.name] for d in members]),
        )
        for group, members in groups.items()
    ]  # fmt: skip


def _difference(
    name: str, scores: Sequence[float], draws: np.ndarray, null: np.ndarray
) -> Difference:
    low, high = interval(draws)
    p = p_value(scores[1] - scores[0], null)
    return Difference(
        name, 100 * scores[0], 100 * scores[1], 100 * low, 100 * high, p, float("nan")
    )


def _is_clear(difference: Difference) -> bool:
    p = difference.p if np.isnan(difference.corrected) else difference.corrected
    return p < 0.05


def _values(folder: Path, benchmark: str, task: str) -> np.ndarray:
    return load_task(folder / benchmark / f"{task}.parquet").values


def _scores(folder: Path) -> dict[str, Any]:
    if not (folder / SCORES).is_file():
        known = sorted(p.parent.name for p in folder.glob(f"*/{SCORES}"))
        hint = f"; it holds the models {', '.join(known)}" if known else ""
        raise DataError(f"{folder} is no evaluated model (no {SCORES}){hint}")
    return files.read_json(folder / SCORES)["benchmarks"]


def _name(folder: Path) -> str:
    return f"{files.read_json(folder / SCORES)['model']['name']} ({folder})"
