"""Pairwise and listwise training on judged rows, fusion, evaluation and export, as recipes run them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tests.families import build_family
from tests.rerank.test_stage import fill, recipe_of
from tests.train.folder import drawn_folder
from unime.core import files
from unime.core.provenance import open_output
from unime.data.tables import ROWS, write_table
from unime.data.training_rows import PairColumns
from unime.eval import rerank_report as reranking
from unime.eval.rerank_report import RerankEvalRecipe, calibration, ndcg
from unime.export import stage as export
from unime.export.stage import ExportRecipe
from unime.rerank import Reranker

INPUTS = {"dtype": "float32", "max_pixels": 3136}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("stages")
    build_family("qwen3_vl", path / "base")
    data = drawn_folder(path / "d")
    columns = PairColumns.of(data)
    rng = np.random.default_rng(0)
    pairs = data.split("train")
    table = {
        "pair": pairs,
        "negatives": [rng.choice(columns.positives, 4).tolist() for _ in pairs],
        "scores": [rng.random(5).tolist() for _ in pairs],
    }
    (path / "rows").mkdir()
    arrays = [pa.array(table[field.name]).cast(field.type) for field in ROWS]
    write_table(path / "rows/rows.parquet", pa.Table.from_arrays(arrays, schema=ROWS))
    recipe = recipe_of(
        path,
        path / "7_rerank",
        rows=str(path / "rows"),
        losses=[{"name": "yes_no", "options": {"soft": True}}, {"name": "choose", "weight": 0.5}],
        ask={"hard": 1, "drawn": 0, "lists": {"shortest": 2, "longest": 4}},
        retriever={"id": str(path / "base"), **INPUTS},
    )
    fill(recipe)
    return path


def test_both_losses_are_logged_and_the_fusion_weight_is_saved_with_the_model(folder):
    lines = (folder / "7_rerank/train.jsonl").read_text()
    assert '"choose":' in lines and '"yes_no":' in lines
    facts = files.read_json(folder / "7_rerank/facts.json")
    assert facts["dev"]["fused"] >= max(facts["dev"]["embedder"], facts["dev"]["reranker"])
    reranker = Reranker.load(str(folder / "7_rerank/model"), "cpu")
    assert reranker.model.fusion == facts["fusion"]
    alone = reranker.rank("a red circle", ["one circle, red", "a blue square"]).scores
    mixed = reranker.rank(
        "a red circle", ["one circle, red", "a blue square"], similarities=[0.2, 0.9]
    ).scores
    weight = facts["fusion"]
    np.testing.assert_allclose(mixed, (1 - weight) * np.array([0.2, 0.9]) + weight * alone)


def test_evaluation_reports_depths_slots_calibration_and_cost(folder, capsys):
    model = str(folder / "7_rerank/model")
    recipe = RerankEvalRecipe.model_validate({
        "stage": "eval_rerank", "output": str(folder / "9_rerank"), "model": {"id": model},
        "retriever": {"id": str(folder / "base"), **INPUTS}, "data": str(folder / "d"),
        "queries": 2, "depths": [2, 4], "permutations": 2, "window": 3, "slots": 3, "slot_queries": 3,
    })  # fmt: skip
    out = open_output(recipe, reranking.inputs(recipe))
    reranking.run(recipe, out)
    report = files.read_json(folder / "9_rerank/reranking.json")
    for depth, row in report["depths"].items():
        for name in ("embedder", "pointwise", "fused", "listwise"):
            assert row[name]["hit@1"]["mean"] <= row["recall"]["mean"], (depth, name)
        assert row["listwise"]["seconds_a_query"] > 0
    assert report["depths"]["2"]["recall"]["mean"] <= report["depths"]["4"]["recall"]["mean"]
    by_slot = report["by_slot"]
    assert by_slot["queries"] > 0 and list(by_slot["orders"]) == ["1", "2"]
    for row in by_slot["orders"].values():
        means = [slot["mean"] for slot in row["slots"].values()]
        assert len(means) == 3 and row["accuracy"] == pytest.approx(np.mean(means))
        assert row["spread"]["mean"] == pytest.approx(max(means) - min(means))
    assert "calibration error" in capsys.readouterr().out


def test_the_export_holds_embedder_and_reranker(folder):
    recipe = ExportRecipe.model_validate({
        "stage": "export", "output": str(folder / "8_export"), "title": "pair",
        "model": {"id": str(folder / "base"), **INPUTS},
        "reranker": {"id": str(folder / "7_rerank/model")},
    })  # fmt: skip
    out = open_output(recipe, export.inputs(recipe))
    export.run(recipe, out)
    assert (folder / "8_export/embedder/modules.json").is_file()
    modules = files.read_json(folder / "8_export/reranker/modules.json")
    assert [module["type"].rpartition(".")[2] for module in modules] == [
        "Transformer",
        "LogitScore",
    ]


def test_calibration_is_the_gap_between_said_and_true():
    said = np.array([0.05, 0.05, 0.95, 0.95])
    assert calibration(said, np.array([0, 0, 1, 1], bool))["error"] == pytest.approx(0.05)
    assert calibration(said, np.array([1, 1, 0, 0], bool))["error"] == pytest.approx(0.95)


def test_ndcg_by_hand():
    assert ndcg(np.array([True, False, False])) == 1.0
    assert ndcg(np.array([False, False, True])) == pytest.approx(0.5)
    assert ndcg(np.zeros(3, bool)) == 0.0
