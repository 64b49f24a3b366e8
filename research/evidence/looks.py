"""How often the test seeds were looked at: every computed test cell is noted, before its result.

Tuning on what the test seeds say would make their numbers worthless. Nobody can forbid it, but
the count is public.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from research.evidence.grid import Cell, Grid
from unime.core import files, provenance

FILE = "looks.json"


def note(grid: Grid, cell: Cell) -> None:
    """Note that a cell's result is computed; cells of one table, day and commit share an entry."""
    if cell.seed == grid.dev:
        return
    looks = read(grid)
    head = {
        "table": cell.table,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": provenance.commit(),
    }
    name = f"{cell.row}-seed{cell.seed}"
    for look in looks:
        # A cell computed again is another look.
        if head.items() <= look.items() and name not in look["cells"]:
            look["cells"].append(name)
            break
    else:
        looks.append({**head, "cells": [name]})
    files.write_json(_path(grid), looks)


def read(grid: Grid) -> list[dict[str, Any]]:
    """Return all entries, oldest first."""
    return files.read_json(_path(grid)) if _path(grid).is_file() else []


def count(grid: Grid, table: str) -> int:
    """Return how often that cell of a table was computed which was computed most often."""
    cells = Counter(name for look in read(grid) if look["table"] == table for name in look["cells"])
    return max(cells.values(), default=0)


def _path(grid: Grid) -> Path:
    return Path(grid.output, FILE)
