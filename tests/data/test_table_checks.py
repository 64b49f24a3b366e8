"""A value that is none is named with file and row, wherever a table is read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.judge.test_score import recipe_for
from tests.mine.folders import write_data, write_mined
from unime.core.config import load_recipe
from unime.core.errors import DataError, RecipeError
from unime.core.provenance import Output
from unime.data.data_folder import DataFolder
from unime.data.items import Item, Pair
from unime.data.readers import cells
from unime.data.readers.base import RowError
from unime.data.stage_tables import read_judged, read_mined, read_rows
from unime.data.table_checks import Range, check_numbers
from unime.data.tables import JUDGED, ROWS, write_table
from unime.data.training_rows import TrainingRows
from unime.judge.stage import ScoreRecipe, ScoringWork
from unime.losses import ContrastBatch, LossTerm, combine
from unime.select.stage import SelectRecipe
from unime.select.stage import run as run_select

NAN, INF = float("nan"), float("inf")
BAD_SCORES = (7.5, -3.0, INF, -INF, 1.001, -0.001)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path, list("abcdef"), [{"query": i, "positives": [i + 1]} for i in range(3)])
    write_mined(tmp_path, [[3, 4], [4, 5], [0, 5]])
    judged = [{"pair": i, "positive_score": 0.75, "scores": [0.5, NAN]} for i in range(3)]
    write_table(tmp_path / "judged.parquet", pa.Table.from_pylist(judged, schema=JUDGED))
    rows = [{"pair": i, "negatives": [3, -1], "scores": [1.0, 0.0, NAN]} for i in range(3)]
    write_table(tmp_path / "rows.parquet", pa.Table.from_pylist(rows, schema=ROWS))
    return tmp_path


READERS: dict[str, Callable[[Path], Any]] = {
    "mined": read_mined,
    "judged": read_judged,
    "rows": lambda folder: read_rows(folder, DataFolder.open(folder)),
    "pairs": lambda folder: DataFolder.open(folder).pairs,
}


def change(folder: Path, table: str, column: str, value: Any) -> None:
    """Put a value into the second row; the rest of a list stays."""
    path = folder / f"{table}.parquet"
    whole = pq.read_table(path)
    values = whole.to_pylist()
    old = values[1][column]
    values[1][column] = [value, *old[1:]] if isinstance(old, list) else value
    schema = whole.schema
    if isinstance(value, float) and column in ("scores", "similarities"):
        kind = pa.list_(pa.float32())
        schema = schema.set(schema.get_field_index(column), pa.field(column, kind))
    pq.write_table(pa.Table.from_pylist(values, schema=schema), path)


@pytest.mark.parametrize(
    ("table", "column", "values"),
    [
        ("mined", "similarities", (1.5, -1.5, NAN, INF)),
        ("mined", "positive_similarity", (1.5, NAN)),
        ("mined", "candidates", (-1, -7)),
        ("mined", "pair", (-1,)),
        ("mined", "positive_rank", (0,)),
        ("judged", "scores", BAD_SCORES),
        ("judged", "positive_score", BAD_SCORES),
        ("rows", "scores", BAD_SCORES),
        ("rows", "negatives", (-2, 6, 2**31 - 1)),
        ("rows", "pair", (-1, 3)),
        ("pairs", "query", (-1, 6)),
        ("pairs", "positives", (-1, 6)),
        ("pairs", "negatives", (-1, 6)),
    ],
)
def test_a_value_out_of_range_is_named(folder: Path, table: str, column: str, values: tuple):
    READERS[table](folder)
    for value in values:
        change(folder, table, column, value)
        with pytest.raises(DataError) as caught:
            READERS[table](folder)
        said = str(caught.value)
        assert f"{folder / table}.parquet" in said and column in said and "\n" not in said
        # Halves are rounded: 1.001 stands as 1.00098 there.
        assert re.search(
            rf"row 1: {column}: {re.escape(str(value)[:5])}|{column} {value},", said
        ), said


@pytest.mark.parametrize("score", BAD_SCORES)
def test_no_room_takes_a_score_that_is_none(folder: Path, score: float):
    data = DataFolder.open(folder)
    change(folder, "judged", "scores", score)
    recipe = SelectRecipe(stage="select", output="x", mined=str(folder), judged=str(folder))
    with pytest.raises(
        DataError, match=r"judged\.parquet, row 1: scores: .*expected 0 to 1, or NaN"
    ):
        run_select(recipe, Output(folder / "selected", {}))
    change(folder, "rows", "scores", score)
    with pytest.raises(DataError, match=r"rows\.parquet, row 1: scores: "):
        TrainingRows.selected(data, folder, 2)
    with pytest.raises(RowError, match=r"score out of range: expected a probability from 0 to 1"):
        cells.checked(
            Pair(Item.of("a"), (Item.of("b"),), "t", "", "", (Item.of("c"),), (0.5, score))
        )


def test_lists_that_do_not_fit_are_named(folder: Path):
    rows = [{"pair": 0, "negatives": [3], "scores": [1.0]}]
    write_table(folder / "rows.parquet", pa.Table.from_pylist(rows, schema=ROWS))
    with pytest.raises(
        DataError, match=r"rows\.parquet, row 0: its scores do not fit its negatives"
    ):
        READERS["rows"](folder)
    strange = {"pair": ["a"], "positive_score": [0.5], "scores": [[0.5]]}
    pq.write_table(pa.table(strange), folder / "judged.parquet")
    with pytest.raises(DataError, match=r"column pair: holds string, expected int32"):
        read_judged(folder)
    pq.write_table(pa.table({"pair": [1], "positive_score": [0.5]}), folder / "judged.parquet")
    with pytest.raises(DataError, match=r"has no column 'scores'; it has pair, positive_score"):
        read_judged(folder)
    table = pa.table({"pair": [1], "positive_score": [0.5], "scores": [[None, 0.5]]})
    pq.write_table(table, folder / "judged.parquet")
    with pytest.raises(DataError, match=r"column scores: a value is missing"):
        read_judged(folder)


def test_candidates_of_other_data_are_not_asked_about(folder: Path):
    path = recipe_for(folder)
    recipe = load_recipe(path, ScoreRecipe, [f"data={folder}", f"mined={folder}"])
    ScoringWork.of(recipe)
    change(folder, "mined", "candidates", 77)
    with pytest.raises(
        DataError, match=r"names candidates 77, there are 6: .* from other data than"
    ):
        ScoringWork.of(recipe)


@given(
    st.lists(st.lists(st.floats(width=32), max_size=4), max_size=6),
    st.integers(0, 3), st.booleans(),
)  # fmt: skip
def test_the_first_bad_value_is_found_in_any_chunk_and_slice(lists, skip, unknown):
    allowed = Range(-1.0, 1.0, unknown)
    bad = [
        (row, value)
        for row, values in enumerate(lists[skip:])
        for value in values
        if not (-1 <= value <= 1 or (unknown and math.isnan(value)))
    ]
    whole = pa.array(lists, pa.list_(pa.float32()))
    for column in (
        pa.chunked_array([whole.slice(skip)]),
        pa.chunked_array([whole.slice(i, 1) for i in range(skip, len(lists))], type=whole.type),
    ):
        if not bad:
            check_numbers(Path("f"), "x", column, allowed)
            continue
        with pytest.raises(DataError) as caught:
            check_numbers(Path("f"), "x", column, allowed)
        assert str(caught.value).startswith(f"f, row {bad[0][0]}: x: ")


@pytest.mark.parametrize("key", ["absolute_cut", "relative_margin", "similarity_margin"])
@pytest.mark.parametrize("value", ["nan", ".nan", ".inf", "7.5", "-3"])
def test_cuts_and_margins_are_on_their_scale(folder: Path, key: str, value: str):
    path = folder / "5_select.yaml"
    path.write_text(f"stage: select\nmined: {folder}\njudged: {folder}\n")
    with pytest.raises(RecipeError, match=rf"{key}|no number, not finite, or too large"):
        load_recipe(path, SelectRecipe, [f"{key}={value}"])


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": "nan"}, {"hardest": 0}, {"threshold": "inf"}])  # fmt: skip
def test_options_of_losses_are_numbers(options: dict[str, Any]):
    with pytest.raises(RecipeError, match=r"loss 'info_nce', \w+: expected a"):
        combine([LossTerm(name="info_nce", options=options)], ContrastBatch)
