"""Training in which nothing is told apart is refused, not finished at loss 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.mine.folders import write_data
from tests.train.folder import drawn_folder
from unime.core.errors import DataError
from unime.core.stage import execute
from unime.data.data_folder import DataFolder
from unime.data.known_positives import KnownPositives, content_numbers
from unime.data.training_rows import PairColumns
from unime.losses import LossTerm
from unime.train import negatives
from unime.train.contrast import ContrastRecipe, layout_of, rows_of
from unime.train.contrast_batches import ContrastLayout
from unime.train.negatives import check_negatives


def recipe(folder: Path, out: Path, **values: Any) -> ContrastRecipe:
    training = {"global_batch_size": 4, "max_steps": 3, "eval_steps": 9, "save_steps": 9}
    return ContrastRecipe.model_validate({
        "stage": "contrast", "output": str(out), "data": str(folder), "dev_queries": 0,
        "model": {"id": str(ROOT / "assets/student"), "dtype": "float32"},
        "training": training, **values,
    })  # fmt: skip


def layout(values: ContrastRecipe) -> ContrastLayout:
    data = DataFolder.open(values.data)
    columns, rows = PairColumns.of(data), rows_of(values, data)
    known = KnownPositives(data, content_numbers(data.items))
    return layout_of(values, data, columns, rows, rows.by_task(columns), known)


def run(values: ContrastRecipe, folder: Path) -> None:
    path = folder / "2_warmup.json.yaml"
    path.write_text(values.model_dump_json())
    execute("unime.train.contrast", path)


def test_a_task_whose_queries_share_their_positive_is_refused(tmp_path: Path):
    pairs = [{"query": i, "positives": [4]} for i in range(4)]
    write_data(tmp_path, ["a", "b", "c", "d", "the answer"], pairs)
    with pytest.raises(DataError, match="no batch of .* has a negative that the losses could use"):
        run(recipe(tmp_path, tmp_path / "out"), tmp_path)
    assert not (tmp_path / "out" / "model").exists()


def test_a_single_query_and_absent_own_negatives_are_refused(tmp_path: Path):
    write_data(tmp_path / "one", ["a", "b"], [{"query": 0, "positives": [1]}])
    with pytest.raises(DataError, match="a batch holds a single query"):
        run(recipe(tmp_path / "one", tmp_path / "out"), tmp_path)
    drawn_folder(tmp_path / "drawn")
    own = [LossTerm(name="info_nce", options={"in_batch": False})]
    with pytest.raises(DataError, match="has a negative that the losses could use"):
        run(recipe(tmp_path / "drawn", tmp_path / "out2", losses=own), tmp_path)


def test_options_that_leave_no_negative_stop_the_training(tmp_path: Path):
    drawn_folder(tmp_path / "drawn")
    # No similarity is so far below the positive's.
    term = LossTerm(name="info_nce", options={"threshold": -2.5})
    with pytest.raises(DataError, match="the loss was exactly 0 in all of the first 3 batches"):
        run(recipe(tmp_path / "drawn", tmp_path / "out", losses=[term]), tmp_path)
    assert not (tmp_path / "out" / "model").exists()


def test_a_task_that_teaches_nothing_among_others_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    said: list[str] = []
    monkeypatch.setattr(negatives, "log", said.append)
    pairs = [{"query": i, "positives": [i + 4]} for i in range(4)]
    pairs += [{"query": i, "positives": [8], "task": "dead"} for i in range(4)]
    write_data(tmp_path, list("abcdefghi"), pairs)
    values = recipe(tmp_path, tmp_path / "out")
    check_negatives(layout(values), values.losses, 99, "data")
    (line,) = said
    assert "no batch of task dead has a negative in the first epoch" in line
