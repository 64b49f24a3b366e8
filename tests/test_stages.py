"""`unime run`: what is wrong in any recipe is said before the first one starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ROOT
from unime import stages as run_module
from unime.core.errors import RecipeError
from unime.stages import run_folder


def test_all_recipes_are_checked_before_the_first_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(run_module, "subprocess", None)  # a start would fail
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "0_data.yaml").write_text(
        "stage: data\nroot: .\nsources: [{reader: rows, path: a.csv, task: t}]"
    )
    (folder / "3_mine.yaml").write_text("stage: mine\nmodel: {id: x}\ndata: d\ncandidate: 3")
    (folder / "8_export.yaml").write_text("stage: export\nmodel: {id: x}\ntitle: [a]")
    with pytest.raises(RecipeError) as caught:
        run_folder(folder)
    lines = str(caught.value).splitlines()
    assert "candidate: no such key; did you mean 'candidates'?" in str(caught.value)
    assert "title: Input should be a valid string (got ['a'])" in str(caught.value)
    assert "0_data" not in str(caught.value) and lines[-1] == "nothing was started"
    with pytest.raises(RecipeError, match="override 'candidates.x': 'candidates' is 3"):
        (folder / "3_mine.yaml").write_text("stage: mine\nmodel: {id: x}\ndata: d\ncandidates: 3")
        run_folder(folder, ["3_mine.candidates.x=1"], skip=["8_export"])
