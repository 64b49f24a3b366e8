"""Every stage run once from Python, on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import unime
from tests.api.given import SETTINGS, SHORT, pairs
from tests.families import build_family


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("base") / "qwen"
    return {"id": str(build_family("qwen2_vl", folder)), **SETTINGS}


@pytest.fixture(scope="module")
def run(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage once, each on what the one before returned."""
    out = tmp_path_factory.mktemp("run")
    data = unime.load_data(pairs(), out / "data", dev_count=2)
    first = unime.train_embedder(data, base, out / "warmup", **SHORT)
    mined = unime.mine_negatives(data, first, out / "mined", candidates=3)
    judged = unime.judge_candidates(
        mined, base, out / "judged", engine_options={"min_answer_mass": 0.0}
    )
    rows = unime.select_negatives(judged, out / "rows", rule="relative", relative_margin=-1.0)
    trained = unime.train_embedder(
        data, first, out / "trained", rows=rows, losses=["info_nce", "soft_label"], **SHORT
    )
    reranker = unime.train_reranker(
        data, base, out / "reranker", rows=rows, retriever=trained, ask={"hard": 1}, **SHORT
    )
    unime.export_model(trained, out / "export", reranker=reranker, title="small")
    return out
