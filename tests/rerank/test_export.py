"""An exported reranker scores in sentence-transformers as it did in training, pictures included."""

from __future__ import annotations

import pytest

from tests.families import build_family
from unime import files
from unime.errors import ModelError
from unime.rerank import RerankConfig, RerankModel
from unime.rerank.export import PROBES, compare, export_reranker, vllm_overrides

# Two families: positions in three axes, and tiles with a role-less first turn.
FAMILIES = ("qwen2_vl", "smolvlm")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    folder = build_family(request.param, tmp_path_factory.mktemp(request.param))
    return RerankModel.load(RerankConfig(id=str(folder), dtype="float32", max_pixels=3136), "cpu")


def test_the_folder_scores_as_trained_and_loads_again(model, tmp_path):
    template = model.processor.chat_template
    (tmp_path / "reranker").mkdir()
    export_reranker(model, tmp_path / "reranker", "a-reranker", 'license: "mit"\n')
    assert compare(tmp_path / "reranker") < 1e-4
    assert model.processor.chat_template == template
    card = (tmp_path / "reranker/README.md").read_text()
    assert 'license: "mit"' in card and "--hf-overrides" in card
    again = RerankModel.load(RerankConfig(id=str(tmp_path / "reranker")), "cpu")
    assert again.preprocessing == model.preprocessing

    scores = files.read_json(tmp_path / "reranker" / PROBES)
    files.write_json(tmp_path / "reranker" / PROBES, {**scores, "text, text": 2.0})
    with pytest.raises(ModelError, match="scores differ by"):
        compare(tmp_path / "reranker")


def test_vllm_is_told_the_two_answers(model):
    arguments, overrides = vllm_overrides(model)
    no, yes = model.processor.tokenizer.convert_ids_to_tokens([model.no, model.yes])
    assert (
        f'"classifier_from_token": ["{no}", "{yes}"]'.encode("ascii", "backslashreplace").decode()
        in overrides
    )
    assert "ForSequenceClassification" in overrides and arguments == "--convert classify"
