"""`unime rerank` end to end: it learns, resumes to the same bytes, and the result can judge."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

from tests.families import build_family
from tests.train.folder import drawn_folder
from tests.train.test_contrast import count_checkpoints
from unime.core import files
from unime.core.errors import RecipeError
from unime.core.provenance import open_output
from unime.judge.engine import JudgeInput, Request
from unime.judge.transformers_engine import JudgeModel, TransformersOptions
from unime.models.pair_scorer import PairSide
from unime.rerank import Reranker, stage
from unime.rerank.stage import RerankRecipe
from unime.train.checkpoints import MODEL


def recipe_of(folder, output, **changes) -> RerankRecipe:
    return RerankRecipe.model_validate(
        {
            "stage": "rerank",
            "output": str(output),
            "model": {"id": str(folder / "base"), "dtype": "float32", "max_pixels": 3136},
            "data": str(folder / "d"),
            "ask": {"hard": 0, "drawn": 3},
            "tune": {"method": "full", "parts": ["language"]},
            "budget": {"items": 6},
            "dev_queries": 3,
            "dev_candidates": 4,
            "training": {
                "per_device_train_batch_size": 4,
                "max_steps": 4,
                "learning_rate": 3e-3,
                "save_steps": 2,
                "eval_steps": 2,
                "logging_steps": 1,
            },
            **changes,
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rerank")
    build_family("qwen3_vl", path / "base")
    drawn_folder(path / "d")
    return path


def fill(recipe: RerankRecipe) -> None:
    out = open_output(recipe, stage.inputs(recipe))
    if not out.up_to_date:
        stage.run(recipe, out)
        out.finish()


class Killed(BaseException):
    """Not an Exception, so that nothing on the way handles it."""


def test_a_stopped_run_ends_in_the_same_bytes(folder, monkeypatch):
    fill(recipe_of(folder, folder / "whole"))
    for kind in ("after complete.json", "before model"):

        def stop(moment: str, kind: str = kind) -> None:
            if moment == kind:
                raise Killed

        monkeypatch.setattr(files, "on_commit", stop)
        with contextlib.suppress(Killed):
            fill(recipe_of(folder, folder / "killed"))
    monkeypatch.setattr(files, "on_commit", None)
    fill(recipe_of(folder, folder / "killed"))
    names = [f"model/{path.name}" for path in sorted((folder / "whole/model").iterdir())]
    for name in (*names, "train.jsonl", "facts.json"):
        assert (folder / "killed" / name).read_bytes() == (folder / "whole" / name).read_bytes(), (
            name
        )


def test_checkpointing_changes_no_loss(folder, monkeypatch):
    fill(recipe_of(folder, folder / "whole"))
    used = count_checkpoints(monkeypatch)
    recipe = recipe_of(folder, folder / "again")
    training = recipe.training.model_copy(update={"gradient_checkpointing": True})
    fill(recipe.model_copy(update={"training": training}))
    assert used
    whole, again = (
        [found["loss"] for line in files.read_lines(folder / name / "train.jsonl")
         if "loss" in (found := json.loads(line))]
        for name in ("whole", "again")
    )  # fmt: skip
    assert again == pytest.approx(whole, rel=1e-4)


def test_a_trained_reranker_is_a_judge(folder):
    fill(recipe_of(folder, folder / "whole"))
    model = str(folder / "whole" / MODEL)
    query, candidates = (
        PairSide("a red circle"),
        [PairSide("one circle, red"), PairSide("a blue square")],
    )
    expected = Reranker.load(model, "cpu").rank(query, candidates, "find it").scores
    options = TransformersOptions(model=JudgeModel(id=model, dtype="float32"), min_answer_mass=0.9)
    requests = [
        Request(
            bytes([n] * 16), "task", "find it", JudgeInput(b"q" * 16, query.text),
            JudgeInput(bytes([n] * 16), side.text),
        )
        for n, side in enumerate(candidates)
    ]  # fmt: skip
    judged = [score.value for score in options.engine(None).score(requests)]
    np.testing.assert_allclose(judged, expected, atol=1e-6)


def test_losses_and_what_is_asked_must_fit(folder):
    with pytest.raises(RecipeError, match="'choose' and the section ask.lists belong together"):
        recipe_of(folder, folder / "x", losses=[{"name": "choose"}])
    with pytest.raises(RecipeError, match="there is no negative to ask about"):
        recipe_of(folder, folder / "x", ask={"hard": 0, "drawn": 0})
    with pytest.raises(RecipeError, match="takes a ContrastBatch"):
        recipe_of(folder, folder / "x", losses=[{"name": "info_nce"}])
