"""An exported reranker scores in sentence-transformers as it did in training, pictures included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.families import build_family
from unime.core import files
from unime.core.errors import ModelError
from unime.export.reranker_export import PROBES, compare, export_reranker, vllm_overrides
from unime.models.pair_scorer import PairSide
from unime.rerank import RerankConfig, Reranker, RerankModel, RerankQuestion

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


@pytest.mark.parametrize("family", ["smolvlm", "llava_onevision"])
def test_half_precision_exports_score_as_trained(family, tmp_path):
    """Logits of 16 to 50 that differ little, as trained models have them: 1/8 apart in bfloat16."""
    folder = build_family(family, tmp_path / "base")
    config = RerankConfig(id=str(folder), dtype="bfloat16", max_pixels=3136)
    answers = RerankModel.load(config, "cpu")
    weights = load_file(folder / "model.safetensors")
    text = [name for name in weights if "vision" not in name]
    norm = next(name for name in text if name.endswith(".norm.weight"))
    # Tied weights have no head of their own.
    head = min(name for name in text if name.endswith(("lm_head.weight", "embed_tokens.weight")))
    weights[norm] *= 30
    noise = torch.randn(32, generator=torch.Generator().manual_seed(0))
    weights[head][answers.no] = weights[head][answers.yes] + 0.02 * noise
    save_file(weights, folder / "model.safetensors", {"format": "pt"})

    model = RerankModel.load(config, "cpu")
    question = RerankQuestion("", PairSide("a dog"), (PairSide("a cat"),))
    asked = Reranker(model)._ask([question], model.module.answers.tolist())
    with torch.inference_mode():
        logits = model.forward(model.features([question]))
    assert logits.dtype == torch.float32 and not torch.equal(logits, logits.bfloat16().float())
    np.testing.assert_allclose(logits.numpy(), asked, atol=0.3)
    (tmp_path / "reranker").mkdir()
    export_reranker(model, tmp_path / "reranker", "half")
    # Before: 0.031 in the first family; 0.02 is allowed.
    assert compare(tmp_path / "reranker") < 0.02


def test_vllm_is_told_the_two_answers(model):
    arguments, overrides = vllm_overrides(model)
    no, yes = model.processor.tokenizer.convert_ids_to_tokens([model.no, model.yes])
    assert (
        f'"classifier_from_token": ["{no}", "{yes}"]'.encode("ascii", "backslashreplace").decode()
        in overrides
    )
    assert "ForSequenceClassification" in overrides and arguments == "--convert classify"
