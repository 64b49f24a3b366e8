"""Evaluations as the report reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from unime.core import files
from unime.core.errors import DataError

SCORES = "scores.json"
ITEMS = "pool.parquet"
ROLES = ("overall", "retrieval", "compositional")
"""The order benchmarks are shown in."""

BINS = np.linspace(-1.0, 1.0, 81)


@dataclass(frozen=True)
class Model:
    """One evaluated model."""

    name: str
    label: str
    """Its name, with the run's before it where names repeat."""
    folder: Path
    benchmarks: dict[str, Any]
    geometry: dict[str, Any]
    seconds: dict[str, float]

    def tasks(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return (benchmark, task, facts) of all tasks."""
        return [
            (benchmark, task, facts)
            for benchmark, found in self.benchmarks.items()
            for task, facts in found["tasks"].items()
        ]

    def table(self, benchmark: str, task: str) -> Any:
        """Return a task's per-query table."""
        return pq.read_table(self.folder / benchmark / f"{task}.parquet")

    def shape(self) -> dict[str, float | None]:
        """Return the means over tasks of alignment, uniformity and modality gap."""
        found = [shape for shapes in self.geometry.values() for shape in shapes.values()]
        return {
            key: _mean([s[key] for s in found])
            for key in ("alignment", "uniformity", "modality_gap")
        }

    def similarities(self) -> dict[str, list[int]]:
        """Return histograms over all tasks: of the gold and of the strongest wrong candidate."""
        counts = {side: np.zeros(len(BINS) - 1, dtype=int) for side in ("gold", "wrong")}
        for benchmark, task, _ in self.tasks():
            table = self.table(benchmark, task)
            for side, total in counts.items():
                name = f"{side}_similarity"
                if name in table.column_names:
                    values = table[name].to_numpy()
                    np.add(total, np.histogram(values[np.isfinite(values)], BINS)[0], out=total)
        return {side: total.tolist() for side, total in counts.items()}


@dataclass(frozen=True)
class Evaluation:
    """One output of `unime eval run`."""

    folder: Path
    models: list[Model] = field(default_factory=list)

    def items(self) -> Any:
        """Return what every row of its pool is."""
        return pq.read_table(self.folder / ITEMS)


def find_evaluations(run: Path) -> list[Evaluation]:
    """Return the evaluations in a run folder, or the one that the folder is.

    Raises:
        DataError: when there is none, or one is unfinished.
    """
    folders = [run] if (run / ITEMS).is_file() else sorted(p.parent for p in run.glob(f"*/{ITEMS}"))
    if not folders:
        raise DataError(f"{run} holds no evaluation; run `unime eval run` first")
    return [_read(folder, run.name) for folder in folders]


def _read(folder: Path, run: str) -> Evaluation:
    if not (folder / "results.json").is_file():
        raise DataError(f"{folder} is unfinished; run its evaluation again, it will be resumed")
    names = [row["name"] for row in files.read_json(folder / "results.json")["rows"]]
    scores = {
        facts["model"]["name"]: (path.parent, facts)
        for path in sorted(folder.glob(f"*/{SCORES}"))
        for facts in [files.read_json(path)]
    }
    models = []
    for name in names:
        place, facts = scores[name]
        timing = place / "timing.json"
        models.append(
            Model(
                name=name,
                label=name if folder.name.endswith("eval") else f"{run}: {name}",
                folder=place,
                benchmarks=dict(sorted(facts["benchmarks"].items(), key=_by_role)),
                geometry=facts["geometry"],
                seconds=files.read_json(timing)["seconds"] if timing.is_file() else {},
            )
        )
    return Evaluation(folder, models)


def _by_role(item: tuple[str, Any]) -> int:
    return ROLES.index(item[1]["role"])


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return round(sum(there) / len(there), 4) if there else None
