"""The result file of one cell: figures, every query's outcome in one bit, and where they come from.

Outcomes are hits and misses (hit@1, pairwise accuracy), so eight queries fit in a byte, and all
tables with their intervals can be made again from the committed files alone.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from pydantic import Field

from research.evidence.chain import Step, hash_of
from research.evidence.grid import END, Cell, Grid, GridChange, step_of
from unime.core import files
from unime.core.config import Section
from unime.core.errors import DataError, OutputError
from unime.core.hashes import sha256

MODEL = "model"
"""What the model under evaluation is called in research/recipes/evidence/9_eval.yaml."""


class Outcomes(Section):
    """One data set."""

    labels: list[str]
    """The groups whose means it enters: role, meta-task, split, its own name."""
    n: int = Field(gt=0)
    """Queries."""
    chance: float
    """In percent."""
    bits: str
    """Of each query in order, whether it was answered rightly; eight to a byte, in base64."""

    def hits(self) -> Bool[np.ndarray, " queries"]:
        """Return each query's outcome."""
        return unpack(self.bits, self.n)


class Ran(Section):
    """One step of the chain, as it was run."""

    name: str
    command: str
    manifest: str
    """sha256 of its manifest, which names those of what it read."""
    recipe: dict[str, Any]
    """Resolved."""
    commit: str | None
    seconds: float
    peak_gb: float
    finished: str


class Result(Section):
    """One cell."""

    table: str
    row: str
    seed: int
    command: str
    chain: str
    """What identifies the computation; another one in the grid today makes this result stale."""
    scores: dict[str, Any]
    """The row of the evaluation's results.json: overall, meta_task, ind, ood, datasets, ...; empty
    where a row is figures only."""
    figures: dict[str, float | None]
    outcomes: dict[str, Outcomes]
    """By data set."""
    steps: list[Ran]

    def members(self, measure: str) -> list[str]:
        """Return the data sets whose mean a measure is.

        Raises:
            DataError: when there are none.
        """
        found = [name for name, facts in self.outcomes.items() if measure in facts.labels]
        if not found:
            known = sorted({label for facts in self.outcomes.values() for label in facts.labels})
            raise DataError(
                f"table '{self.table}', row '{self.row}', seed {self.seed} was not evaluated on "
                f"'{measure}'; it has {', '.join(known)}"
            )
        return found

    def has(self, measure: str) -> bool:
        """Return whether any data set counts towards a measure."""
        return any(measure in facts.labels for facts in self.outcomes.values())

    def score(self, measure: str) -> float:
        """Return the mean over data sets of the share of hits, in percent."""
        sets = [self.outcomes[name] for name in self.members(measure)]
        return 100 * float(np.mean([one.hits().mean() for one in sets]))

    def chance(self, measure: str) -> float:
        """Return what a random order scores, in percent."""
        return float(np.mean([self.outcomes[name].chance for name in self.members(measure)]))


def path_of(grid: Grid, cell: Cell) -> Path:
    """Return where a cell's result goes."""
    return Path(grid.output, cell.table, f"{cell.row}-seed{cell.seed}.json")


def load_result(path: Path) -> Result:
    """Read a result file."""
    return Result.model_validate(files.read_json(path))


def gather(cell: Cell, change: GridChange, chain: Sequence[Step]) -> Result:
    """Collect a finished cell's result from the outputs of its steps.

    Raises:
        OutputError: when a step did not read what the step before it wrote.
        DataError: for outcomes that are no hits and misses, or a figure that is not there.
    """
    by_name = {step.name: step for step in chain}
    check_chain(by_name)
    scores, outcomes = _evaluated(by_name[END].folder) if END in by_name else ({}, {})
    return Result(
        table=cell.table,
        row=cell.row,
        seed=cell.seed,
        command=cell.command,
        chain=hash_of(chain),
        scores=scores,
        figures={
            name: read_figure(by_name[step_of(figure)].folder, figure)
            for name, figure in change.figures.items()
        },
        outcomes=outcomes,
        steps=[_ran(step) for step in chain],
    )


def check_chain(steps: Mapping[str, Step]) -> None:
    """Check that every step read just what the steps before it wrote.

    Raises:
        OutputError: naming the two steps.
    """
    for step in steps.values():
        read = set(files.read_json(step.folder / "manifest.json")["inputs"].values())
        for name in step.reads:
            written = steps[name].folder / "manifest.json"
            if f"manifest:{sha256(written)}" not in read:
                raise OutputError(
                    f"{step.folder} was made from another output than the one now in "
                    f"{steps[name].folder}; move {step.folder} away and run the cell again"
                )


def read_figure(folder: Path, figure: str) -> float | None:
    """Return the number that a figure `STEP/FILE.json:dotted.key` names; None where it is null.

    Raises:
        DataError: when there is no such number.
    """
    file, _, key = figure.partition("/")[2].partition(":")
    return number_at(folder / file, key)


def number_at(path: Path, key: str) -> float | None:
    """Return the number under a dotted key of a JSON file; None where it is null.

    What a list holds is found by its place, or by its `name` where it has one.

    Raises:
        DataError: when there is no such number.
    """
    if not path.is_file():
        raise DataError(f"a figure is '{key}' of {path}, which is missing")
    value: Any = files.read_json(path)
    for part in key.split("."):
        if isinstance(value, list):
            named = {one["name"]: one for one in value if isinstance(one, dict) and "name" in one}
            value = {str(place): one for place, one in enumerate(value)} | named
        if not isinstance(value, dict) or part not in value:
            raise DataError(f"a figure is '{key}' of {path}, which has no such key (at '{part}')")
        value = value[part]
    if value is not None and not isinstance(value, int | float):
        raise DataError(f"a figure is '{key}' of {path}: expected a number, got {value!r}")
    return None if value is None else float(value)


def pack(hits: Bool[np.ndarray, " queries"]) -> str:
    """Return hits as text."""
    return base64.b64encode(np.packbits(hits).tobytes()).decode()


def unpack(bits: str, count: int) -> Bool[np.ndarray, " queries"]:
    """Return what `pack` was given."""
    packed = np.frombuffer(base64.b64decode(bits), dtype=np.uint8)
    return np.unpackbits(packed, count=count).astype(bool)


def _evaluated(folder: Path) -> tuple[dict[str, Any], dict[str, Outcomes]]:
    """Return an evaluation's scores and outcomes."""
    (row,) = files.read_json(folder / "results.json")["rows"]
    # What the scores repeat, and the time of the model's last stage, stand elsewhere.
    elsewhere = ("name", "chance", "seconds", "peak_gb")
    scores = {key: value for key, value in row.items() if key not in elsewhere}
    return scores, _outcomes(folder / MODEL)


def _outcomes(folder: Path) -> dict[str, Outcomes]:
    from unime.eval.task_file import load_task

    found = {}
    for benchmark, facts in files.read_json(folder / "scores.json")["benchmarks"].items():
        for name, task in facts["tasks"].items():
            values = load_task(folder / benchmark / f"{name}.parquet").values
            if values.ndim != 1 or not np.isin(values, (0, 1)).all():
                raise DataError(
                    f"{benchmark}, task {name}: expected a hit or a miss for each query, as "
                    "hit@1 and pairwise accuracy give; this metric cannot be kept in bits"
                )
            labels = [facts["role"], task["meta_task"], task["split"], name]
            found[name] = Outcomes(
                # Some sets are called like their meta-task.
                labels=list(dict.fromkeys(label for label in labels if label)),
                n=len(values),
                chance=task["chance"],
                bits=pack(values.astype(bool)),
            )
    return found


def _ran(step: Step) -> Ran:
    ran = files.read_json(step.folder / "run.json")
    manifest = step.folder / "manifest.json"
    return Ran(
        name=step.name,
        command=step.command,
        manifest=sha256(manifest),
        recipe=files.read_json(manifest)["recipe"],
        commit=ran["commit"],
        seconds=ran["seconds"],
        peak_gb=ran["peak_gb"],
        finished=ran["finished"],
    )
