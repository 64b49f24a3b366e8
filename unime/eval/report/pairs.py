"""Every two models of a report compared: what `python -m eval compare` says, for the page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from unime.core import console
from unime.core.errors import DataError
from unime.eval.compare import compare
from unime.eval.report.evaluations import Model


def all_pairs(models: Sequence[Model]) -> dict[str, list[dict[str, Any]]]:
    """Return the differences by "A|B", numbers of the models; pairs on other data are left out."""
    found = {}
    for first, second in combinations(range(len(models)), 2):
        try:
            compared = compare(models[first].folder, models[second].folder)
        except DataError as error:
            console.log(f"not compared: {error}")
            continue
        found[f"{first}|{second}"] = [
            {
                "benchmark": benchmark,
                "task": d.name,
                "difference": round(d.difference, 2),
                "low": round(d.low, 2),
                "high": round(d.high, 2),
                "p": round(d.corrected if d.corrected == d.corrected else d.p, 5),
            }
            for benchmark, differences in compared.items()
            for d in differences
        ]
    return found
