"""The share of a reference's score: of the same pairs, drawn anew together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tests.eval.small import recipe
from unime.core.errors import RecipeError
from unime.eval.intervals import score_of
from unime.eval.relative_scores import shares
from unime.eval.scores import TaskScores
from unime.eval.stage import EvalRecipe
from unime.eval.task_file import save_task


def save(folder: Path, found: np.ndarray, grades: np.ndarray) -> Path:
    values = np.stack([found, grades], axis=1)
    table = pa.table({"value": found, "grade": grades})
    save_task(folder / "pairs" / "sts.parquet", TaskScores(values, {}, 0.0, {}, table))
    return folder


def test_a_share_has_an_interval_that_knows_both_models_see_the_same_pairs(tmp_path):
    rng = np.random.default_rng(0)
    grades = rng.integers(0, 4, 150).astype(float)
    teacher = grades + rng.standard_normal(150)
    student = teacher + rng.standard_normal(150)
    folders = {
        "the teacher": save(tmp_path / "the-teacher", teacher, grades),
        "student": save(tmp_path / "student", student, grades),
        "twin": save(tmp_path / "twin", 2 * teacher, grades),
        "noise": save(tmp_path / "noise", -teacher, grades),
    }
    found = shares(folders, "the teacher")
    assert set(found) == {"student", "twin", "noise"}
    share = found["student"]["pairs"]["sts"]
    scores = [score_of(np.stack([one, grades], axis=1)) for one in (student, teacher)]
    assert share["share"] == pytest.approx(100 * scores[0] / scores[1], abs=1e-3)
    low, middle, high = (share[name] or 0.0 for name in ("low", "share", "high"))
    assert 0 < low < middle < high < 100
    # An equal model's share is certain, however doubtful the score itself.
    assert found["twin"]["pairs"]["sts"] == {"share": 100.0, "low": 100.0, "high": 100.0}
    assert shares(folders, "noise")["student"]["pairs"]["sts"]["share"] is None


def test_an_unknown_reference_is_refused(tmp_path):
    values = recipe(tmp_path, tmp_path / "out") | {"reference": "frist"}
    with pytest.raises((RecipeError, ValidationError), match="did you mean 'first'"):
        EvalRecipe.model_validate(values)
