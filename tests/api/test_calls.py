"""`from unime import ...`: plain values in, the same stages, the same outputs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

import unime
from tests.api.given import COLOURS, captioned, picture
from tests.conftest import ROOT
from unime.api import options
from unime.api.results import MinedNegatives
from unime.core import files
from unime.core.errors import OutputError, RecipeError
from unime.core.stage import execute
from unime.data.readers import DataSource
from unime.data.stage import DataRecipe
from unime.data.tables import read_table
from unime.eval.stage import EvalRecipe
from unime.export.stage import ExportRecipe
from unime.judge.stage import ScoreRecipe
from unime.mine.stage import MineRecipe
from unime.models.embedder import Embedder
from unime.models.model_config import ModelConfig
from unime.models.model_folder import ModelSettings
from unime.rerank.reranker import Reranker
from unime.rerank.stage import RerankRecipe
from unime.select.stage import SelectRecipe
from unime.train.contrast import ContrastRecipe
from unime.train.settings import TrainingSection


def test_nothing_is_imported_before_it_is_used():
    code = (
        "import sys, unime; assert 'pydantic' not in sys.modules; assert 'Embedder' in dir(unime)\n"
        "unime.load_data, unime.train_embedder, unime.evaluate, unime.export_model\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "from unime import Judge; assert 'torch' not in sys.modules\n"
        "for name in unime.__all__: getattr(unime, name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'embedder'"):
        _ = unime.embedder  # type: ignore[attr-defined]
    assert unime.Embedder is Embedder
    assert unime.Reranker is Reranker


@pytest.mark.parametrize(
    ("options_of", "schema", "apart"),
    [
        (ModelSettings, ModelConfig, {"id"}),
        (options.MineOptions, MineRecipe, {"data", "model"}),
        (options.SelectOptions, SelectRecipe, {"mined", "judged"}),
        (
            options.JudgeOptions,
            ScoreRecipe,
            {"data", "mined", "engine", "engines", "truth", "store"},
        ),
        (options.EvalOptions, EvalRecipe, {"models", "benchmarks"}),
        (options.ExportOptions, ExportRecipe, {"model", "reranker"}),
        (options.SourceOptions, DataSource, {"reader", "path", "task", "direction"}),
    ],
)
def test_options_are_the_keys_of_the_recipe(options_of: type, schema: Any, apart: set[str]):
    known = set(schema.model_fields) - {"stage", "output"} - apart
    assert set(get_type_hints(options_of)) == known


def test_options_of_data_and_training_are_the_keys_of_their_recipes():
    def own(kind: type, base: type) -> set[str]:
        return set(get_type_hints(kind)) - set(get_type_hints(base))

    training = set(TrainingSection.model_fields) | {"per_device_train_batch_size"}
    assert set(get_type_hints(options.TrainingOptions)) == training
    common = {"stage", "output", "data", "model", "rows", "losses", "tune", "training"}
    embedder = own(options.EmbedderOptions, options.TrainingOptions)
    assert embedder == set(ContrastRecipe.model_fields) - common
    reranker = own(options.RerankerOptions, options.TrainingOptions)
    assert reranker == set(RerankRecipe.model_fields) - common - {"retriever"}
    data = own(options.DataOptions, options.SourceOptions)
    assert data == set(DataRecipe.model_fields) - {"stage", "output", "root", "sources", "model"}


def test_results_are_read_with_their_contents(run: Path):
    mined = MinedNegatives.open(run / "mined")
    table = read_table(run / "mined/mined.parquet")
    assert mined.to_arrow().equals(table)
    assert len(mined) == 6
    row = next(mined.rows())
    pair = mined.data.pair(table["pair"][0].as_py())
    assert row["query"] == mined.data.content(pair.query)
    assert [one["similarity"] for one in row["candidates"]] == pytest.approx(
        table["similarities"][0].as_py()
    )
    assert str(mined) == repr(mined)
    assert "6 queries" in str(mined)


@pytest.mark.parametrize(
    ("stage", "module"),
    [
        ("data", "unime.data.stage"),
        ("warmup", "unime.train.contrast"),
        ("mined", "unime.mine.stage"),
        ("judged", "unime.judge.stage"),
        ("rows", "unime.select.stage"),
        ("reranker", "unime.rerank.stage"),
        ("export", "unime.export.stage"),
    ],
)
def test_an_output_is_that_of_the_recipe_with_its_values(
    stage: str, module: str, run: Path, monkeypatch: pytest.MonkeyPatch
):
    """What the API has written is up to date for the command, and a recipe makes the same again."""
    recipe = files.read_json(run / stage / "manifest.json")["recipe"]
    if stage == "judged":
        recipe["store"] = str(run / "scores")
    for output in (run / stage, Path(stage)):
        Path("recipe.yaml").write_text(yaml.safe_dump({**recipe, "output": str(output)}))
        manifest = (run / stage / "manifest.json").read_bytes()
        execute(module, "recipe.yaml")
        assert (run / stage / "manifest.json").read_bytes() == manifest
    if stage != "data":  # whose images lie in the first
        made, again = (files.read_json(p / stage / "manifest.json") for p in (run, Path()))
        assert made["facts"] == again["facts"]
        assert made["inputs"] == again["inputs"]


def test_evaluate_takes_models_of_every_kind(run: Path, base: dict[str, Any]):
    photos = captioned(Path("photos"))
    found = unime.evaluate(
        {"base": base, "trained": run / "trained", "export": run / "export"}, {"captions": photos}, "eval"
    )  # fmt: skip
    before, trained, export = found.rows()
    assert [row["name"] for row in found.rows()] == ["base", "trained", "export"]
    assert trained["retrieval"] == export["retrieval"]
    assert "chance" in before
    assert str(found) == Path("eval/table.txt").read_text()
    again = unime.evaluate(run / "trained", {"captions": {"root": str(photos), "limit": 4}}, "few")
    assert again.rows()[0]["name"] == "trained"


def test_wrong_arguments_say_what_was_meant(run: Path):
    with pytest.raises(OutputError, match="output of stage 'select', expected one of 'mine'"):
        unime.judge_candidates(run / "rows", "any", "out")
    with pytest.raises(OutputError, match="expected the output of stage 'data', it is not there"):
        unime.mine_negatives("nowhere", "any", "out")
    with pytest.raises(RecipeError, match="no option 'learing_rate'; did you mean 'learning_rate'"):
        unime.train_embedder(run / "data", "any", "out", learing_rate=1e-4)  # type: ignore[call-arg]
    with pytest.raises(RecipeError, match="candidate: no such key; did you mean 'candidates'"):
        unime.mine_negatives(run / "data", "any", "out", candidate=3)  # type: ignore[call-arg]
    with pytest.raises(RecipeError, match=r"candidates: .* greater than 0 \(got 0\)"):
        unime.mine_negatives(run / "data", "any", "out", candidates=0)
    assert not Path("out").exists()


EXAMPLE = ROOT / "examples/own_pictures.py"


def test_own_pictures_has_twenty_lines():
    assert len(ast.parse(EXAMPLE.read_text()).body) <= 20


@pytest.mark.slow
def test_own_pictures_runs(tmp_path: Path):
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    photos = tmp_path / "photos"
    photos.mkdir()
    for colour in COLOURS[:7]:
        picture(colour, 64).save(photos / f"{colour}.png")
        (photos / f"{colour}.txt").write_text(f"a {colour} picture")
    words = [sys.executable, str(EXAMPLE), "photos", "runs/photos", "2"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)}

    def said() -> str:
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "(1, 256)"
        return done.stderr

    assert said().count(": finished runs/photos/") == 7
    assert said().count("is up to date") == 7
    assert (tmp_path / "runs/photos/export/embedder/modules.json").is_file()
