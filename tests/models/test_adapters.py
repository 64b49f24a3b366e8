"""Adapters: what is trained, merging, saving."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText

from tests.models.inputs import mixed
from unime.core.errors import ModelError
from unime.models.adapters import LoraSection, merged, parts_of, tower_is_frozen, train_parts
from unime.models.embedder import Embedder
from unime.models.model_config import ModelConfig


def scramble_adapters(embedder: Embedder) -> None:
    """Give the adapters an effect; they start as zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in embedder.backbone.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def trainable(embedder: Embedder) -> set[str]:
    return {name for name, p in embedder.backbone.named_parameters() if p.requires_grad}


def test_every_weight_belongs_to_a_part(embedder: Embedder) -> None:
    names = dict(embedder.backbone.named_parameters())
    parts = parts_of(embedder.backbone)
    assert set(parts) == set(names)
    assert set(parts.values()) == {"language", "vision", "projector"}


@pytest.mark.parametrize("parts", [["language"], ["vision"], ["projector"], ["language", "vision"]])
def test_lora_trains_exactly_the_named_parts(load, family: str, parts: list) -> None:
    embedder = load(family)
    before = embedder.encode(mixed())
    train_parts(embedder.backbone, LoraSection(parts=parts, r=2))
    names = trainable(embedder)
    assert names and all("lora_" in name for name in names)
    found = parts_of(embedder.backbone)
    assert {found[name] for name in names} == set(parts)
    assert tower_is_frozen(embedder.backbone) == (parts == ["language"])
    np.testing.assert_allclose(embedder.encode(mixed()), before, atol=1e-6)


def test_full_training_of_a_part(load, family: str) -> None:
    embedder = load(family)
    train_parts(embedder.backbone, LoraSection(method="full", parts=["projector"]))
    parts = parts_of(embedder.backbone)
    assert trainable(embedder) == {name for name, part in parts.items() if part == "projector"}
    assert not tower_is_frozen(embedder.backbone)


def test_merged_equals_adapted_and_saving_leaves_the_model_alone(
    load, family: str, tmp_path
) -> None:
    embedder = load(family)
    plain = embedder.encode(mixed())
    train_parts(embedder.backbone, LoraSection(parts=["language", "vision", "projector"], r=4))
    scramble_adapters(embedder)
    adapted = embedder.encode(mixed())
    assert np.abs(adapted - plain).max() > 0.01
    embedder.save(tmp_path)
    np.testing.assert_allclose(embedder.encode(mixed()), adapted, atol=1e-6)
    assert any("lora_" in name for name in trainable(embedder))
    with merged(embedder.backbone):
        assert not any("lora_" in name for name, _ in embedder.backbone.named_parameters())
        together = embedder.encode(mixed())
    np.testing.assert_allclose(together, adapted, atol=5e-6)
    np.testing.assert_allclose(embedder.encode(mixed()), adapted, atol=1e-6)
    settings = embedder.config.model_dump() | {"id": str(tmp_path)}
    saved = Embedder.load(ModelConfig.model_validate(settings), "cpu")
    np.testing.assert_allclose(saved.encode(mixed()), together, atol=1e-6)
    assert saved.fingerprint == embedder.fingerprint


def test_saved_folder_keeps_the_language_model_head(load, family: str, tmp_path) -> None:
    embedder = load(family)
    embedder.save(tmp_path)
    sources: list[Any] = [AutoModel, AutoModelForImageTextToText]
    model: Any = None
    for source in sources:
        model, info = source.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"], source
    original: Any = AutoModelForImageTextToText.from_pretrained(embedder.config.id)
    expected = original.get_output_embeddings().weight
    torch.testing.assert_close(model.get_output_embeddings().weight, expected, atol=0, rtol=0)


def test_merging_in_half_precision_adds_in_float32(load) -> None:
    embedder = load("qwen2_vl", dtype="bfloat16")
    train_parts(embedder.backbone, LoraSection(r=4))
    scramble_adapters(embedder)
    layer = embedder.backbone.language_model.layers[0].self_attn.q_proj
    delta = layer.scaling["default"] * (
        layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    )
    expected = (layer.base_layer.weight.float() + delta).bfloat16()
    with merged(embedder.backbone):
        weight = embedder.backbone.language_model.layers[0].self_attn.q_proj.weight.clone()
    assert weight.dtype == torch.bfloat16
    torch.testing.assert_close(weight, expected, atol=0, rtol=0)


def test_a_target_that_matches_nothing_is_an_error(load) -> None:
    embedder = load("qwen2_vl")
    with pytest.raises(ModelError, match="'q_porj' matches no .* did you mean 'q_proj'"):
        train_parts(embedder.backbone, LoraSection(target_modules=["v_proj", "q_porj"]))
    train_parts(embedder.backbone, LoraSection(target_modules=["v_proj"], r=2))
    assert all(".v_proj." in name for name in trainable(embedder))
