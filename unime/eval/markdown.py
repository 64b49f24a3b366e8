"""The tables of README and results/: a result file as Markdown, nothing added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from unime.core import files
from unime.core.errors import DataError


def markdown_table(path: Path | str) -> str:
    """Return the rows of a `results.json` as a Markdown table, in percent.

    Raises:
        DataError: when the file has no rows.
    """
    rows = files.read_json(path).get("rows", [])
    if not rows:
        raise DataError(f"{path} has no rows; was it written by `unime eval run`?")
    build = _retrieval if "retrieval" in rows[0] else _overall
    header, lines = build([*rows, {"name": "chance", **rows[0]["chance"]}])
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines)) + "\n"


def _overall(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    groups = list(rows[0]["meta_task"])
    header = ["", "overall", *groups, "IND", "OOD", "compositional"]
    lines = [
        [
            row["name"],
            *(
                _cell(value)
                for value in (
                    row["overall"],
                    *(row["meta_task"].get(group) for group in groups),
                    row["ind"],
                    row["ood"],
                    mean(row["compositional"].values()) if row["compositional"] else None,
                )
            ),
        ]
        for row in rows
    ]
    return header, lines


def _retrieval(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    tasks = {
        (benchmark, task): sorted(metrics, key=lambda metric: int(metric.partition("@")[2] or 0))
        for benchmark, found in rows[0]["retrieval"].items()
        for task, metrics in found.items()
    }
    cells = [(*key, metric) for key, metrics in tasks.items() for metric in metrics]
    header = ["", *(f"{task.replace('_', ' ')} {metric}" for _, task, metric in cells)]
    lines = [
        [row["name"], *(_cell(row["retrieval"][b][t][m]) for b, t, m in cells)] for row in rows
    ]
    return header, lines


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
