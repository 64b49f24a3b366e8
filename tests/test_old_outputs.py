"""Outputs that release 0.1.0 wrote (commit 9b7de19) are read: finished ones stand, others go on.

The archive holds a run of a tiny model over twelve drawings: data, mine, judge with its store, select,
contrast, export, eval, and a training that was killed while it wrote its second checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from unime.core import console
from unime.core.stage import execute, stage_of, stages
from unime.data.tables import read_table
from unime.eval.report.report_page import write_report

ARCHIVE = Path(__file__).with_name("fixtures") / "outputs_of_0.1.0.tar.xz"
FINISHED = ["0_data", "3_mine", "4_judge", "5_select", "6_contrast", "8_export", "9_eval"]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "outputs_0_1"


@pytest.fixture
def said(caplog, monkeypatch) -> pytest.LogCaptureFixture:
    """What the stages log, whether or not a command has set the logger up before."""
    monkeypatch.setattr(console.logger, "propagate", True)
    caplog.set_level("INFO", "unime")
    return caplog


def bytes_of(folder: Path) -> dict[str, str]:
    """Return the hash of every file but the lock."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def run(recipe: str, *overrides: str) -> None:
    execute(stages()[stage_of(recipe)].module, recipe, overrides)


def rows(path: str) -> str:
    """Return a table's rows; unlike the values themselves, their text takes NaN for NaN."""
    return repr(read_table(path).to_pylist())


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_output_is_up_to_date(name, old, monkeypatch, said):
    monkeypatch.chdir(old)
    before = bytes_of(old / name)
    run(f"{name}.yaml")
    assert f"{name} is up to date" in said.text
    assert bytes_of(old / name) == before


def test_its_tables_are_inputs_of_todays_stages(old, monkeypatch):
    monkeypatch.chdir(old)
    run("5_select.yaml", "output=selected_again")
    assert rows("selected_again/rows.parquet") == rows("5_select/rows.parquet")
    # All scores are in the old store: nothing is asked again.
    run("4_judge.yaml", "output=judged_again")
    assert rows("judged_again/judged.parquet") == rows("4_judge/judged.parquet")


def test_its_evaluation_is_reported(old, tmp_path):
    items = pq.read_table(old / "9_eval/pool.parquet")
    assert items.schema.field("text").type == pa.string()
    page = write_report([old / "9_eval"], tmp_path / "page.html").read_text(encoding="utf-8")
    shown = next(text for text in items["text"].to_pylist() if text)
    assert json.dumps(shown)[1:-1] in page


def test_a_training_that_was_killed_is_resumed(old, monkeypatch, said):
    monkeypatch.chdir(old)
    run("6_stopped.yaml")
    assert "checkpoint-2" in said.text.partition("resuming from")[2]
    found = load_file("6_stopped/model/model.safetensors")
    expected = load_file("6_contrast/model/model.safetensors")
    start = load_file("base/model.safetensors")
    assert found.keys() == expected.keys()
    # Another machine may round otherwise.
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(found[n], start[n], atol=1e-4) for n in found if n in start)
