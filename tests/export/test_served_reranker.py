"""vLLM serves an exported reranker as its card says, with the scores of sentence-transformers."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.serving import ask, vllm_server
from unime.export.reranker_export import export_reranker, vllm_overrides
from unime.rerank import RerankConfig, RerankModel

pytestmark = pytest.mark.slow


def test_vllm_scores_and_reranks_as_sentence_transformers_does(tmp_path: Path):
    from sentence_transformers import CrossEncoder

    config = RerankConfig(
        id=str(ROOT / "assets/student"), dtype="float32", min_pixels=4096, max_pixels=4096
    )
    model, folder = RerankModel.load(config, "cpu"), tmp_path / "reranker"
    folder.mkdir()
    export_reranker(model, folder, "a-reranker")
    arguments, overrides = vllm_overrides(model)
    query, documents = "a red circle", ["one circle , red", "a blue square", "bread"]
    expected = CrossEncoder(str(folder)).predict([(query, document) for document in documents])
    words = [
        *shlex.split(arguments), "--chat-template", str(folder / "chat_template.jinja"),
        "--hf-overrides", overrides,
    ]  # fmt: skip
    with vllm_server(folder, tmp_path / "server.log", *words) as address:
        scored = ask(f"{address}/score", {"queries": query, "documents": documents})["data"]
        ranked = ask(f"{address}/rerank", {"query": query, "documents": documents})["results"]
    assert [row["score"] for row in scored] == pytest.approx(expected.tolist(), abs=1e-3)
    assert [row["index"] for row in ranked] == (-expected).argsort().tolist()
