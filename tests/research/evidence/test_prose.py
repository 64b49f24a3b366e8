"""Texts say what the files say: their numbers are taken from there, and none is typed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from research.evidence.compare import results_of, said
from research.evidence.grid import GRID, Grid, load_grid
from research.evidence.prose import FIGURE, filled_texts
from research.evidence.run import run_cells
from research.evidence.tables import page
from tests.conftest import ROOT
from tests.research.evidence.small import FakeStages, small_grid
from unime.core import files
from unime.core.errors import DataError

SETTINGS = {"0.1", "0.2", "0.4", "0.5", "0.97"}
"""Numbers with a point that a text may name without having measured them."""


def text_of(grid: Grid, text: str) -> str:
    Path(grid.texts[0]).write_text(text)
    (filled,) = filled_texts(grid, {name: results_of(grid, name) for name in grid.tables})
    return filled


@pytest.fixture
def done(tmp_path: Path) -> Grid:
    grid = small_grid(tmp_path, {"tables": {"t": {"repeats": ["a", "b"]}}})
    run_cells(grid, [*grid.cells("t", "a"), *grid.cells("t", "b")], FakeStages())
    run_cells(grid, grid.cells("t", "both", [1, 2]), FakeStages())
    return grid


def test_a_text_has_the_numbers_of_the_tables_and_of_other_files(done: Grid, tmp_path: Path):
    rows = results_of(done, "t")
    mean = {m: np.mean([r.score(m) for r in rows["b"]]) for m in ("overall", "swap")}
    assert text_of(done, "is {t: b}, {t: b, swap | .2f} (b)") == (
        f"is {mean['overall']:.1f}, {mean['swap']:.2f} (b)"
    )
    # Over the end of a line as well.
    assert text_of(done, "{t:\n  b - a,\n  dogs}") == said(rows["b"], rows["a"], "dogs")
    assert text_of(done, "{t: b, rate} {t: b, rate | .0%}") == "0.5 50 %"
    file = tmp_path / "f.json"
    files.write_json(file, {"all of it": [{"rows": 1}, {"rows": 12345, "name": "the last"}]})
    assert text_of(done, f"{{{file}: all of it.1.rows | ,.0f}} rows") == "12,345 rows"
    assert text_of(done, f"{{{file}: all of it.the last.rows | .0f}}") == "12345"
    bound = text_of(done, "{chance: bound | .1f}")
    assert f"up to {bound} (95 %) by chance" in page(done)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("{tt: b}", "unknown table: 'tt'"),
        ("{t: both}", r"unknown row \(of those that are run at all test seeds\): 'both'"),
        ("{t: b, cows}", "was not evaluated on 'cows'"),
        ("{none.json: a}", "none.json, which is missing"),
        ("{t: b | .0q}", "Unknown format code"),
    ],
)
def test_a_number_that_no_file_has_stops_the_page(done: Grid, asked: str, message: str):
    with pytest.raises(
        DataError, match=rf"did_not_work.md asks for {re.escape(asked)}: .*{message}"
    ):
        text_of(done, asked)


def test_what_chance_does_needs_repeats(tmp_path: Path):
    grid = small_grid(tmp_path)
    with pytest.raises(DataError, match="no repeated rows are run at all test seeds"):
        text_of(grid, "{chance: bound}")


def test_no_measured_number_is_typed_by_hand(monkeypatch: pytest.MonkeyPatch):
    """Numbers with a point are what measures and intervals look like in these texts."""
    monkeypatch.chdir(ROOT)
    grid = load_grid(GRID)
    texts = {path: FIGURE.sub("", Path(path).read_text()) for path in grid.texts}
    assert grid.front is not None
    front = re.sub(r"```.*?```|<!-- \w+: .*?<!-- end -->|`.*?`|\(http\S+\)", "", Path(grid.front).read_text(), flags=re.DOTALL)  # fmt: skip
    texts[grid.front] = front.replace("Python 3.11", "").replace("Apache-2.0", "")
    for path, text in texts.items():
        typed = set(re.findall(r"(?<![\w.])\d+\.\d+(?!\.?\w)", text)) - SETTINGS
        assert not typed, f"{path} has numbers of no file: {sorted(typed)}"
