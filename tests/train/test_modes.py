"""Only what is trained is in train mode: a frozen tower keeps its buffers, and its dropout off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.families import build_family
from tests.rerank.test_stage import recipe_of as rerank_recipe
from tests.towers import build_batchnorm
from tests.train.folder import drawn_folder
from unime.core.errors import ModelError
from unime.core.provenance import open_output
from unime.export.folder_checks import damage, settings
from unime.export.stage import ExportRecipe, export_embedder
from unime.models.adapters import LoraSection, train_parts
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput
from unime.models.model_config import ModelConfig
from unime.models.modes import evaluating, refuse_batch_statistics, train_mode
from unime.rerank import RerankModel
from unime.rerank import stage as rerank
from unime.train import contrast, loop
from unime.train.contrast import ContrastRecipe
from unime.train.loop import CachedTrainer

HEADS = {"method": "full", "parts": ["language", "projector"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("modes")
    build_batchnorm(path / "base")
    drawn_folder(path / "d")
    return path


def recipe_of(folder: Path, output: Path, tune: dict[str, Any], items: int) -> ContrastRecipe:
    training = {"global_batch_size": 6, "max_steps": 8, "learning_rate": 1e-3, "eval_steps": 3,
                "save_steps": 4, "logging_steps": 1}  # fmt: skip
    return ContrastRecipe.model_validate(
        {
            "stage": "contrast",
            "output": str(output),
            "model": {"id": str(folder / "base"), "dtype": "float32"},
            "data": str(folder / "d"),
            "tune": tune,
            "budget": {"items": items},
            "dev_queries": 3,
            "training": training,
        }
    )


def losses(recipe: ContrastRecipe) -> list[float]:
    contrast.run(recipe, open_output(recipe, {}))
    lines = (Path(recipe.output) / "train.jsonl").read_text().splitlines()
    return [found["loss"] for line in lines if "loss" in (found := json.loads(line))]


def test_a_frozen_batchnorm_tower_stays_bit_equal_and_cached_is_direct(
    folder, tmp_path, monkeypatch
):
    """Eight steps, two evaluations between them; the tower has drop path too."""
    trained: list[Embedder] = []
    plain = CachedTrainer.find_checkpoint
    monkeypatch.setattr(
        CachedTrainer,
        "find_checkpoint",
        lambda self: (trained.append(self._trained), plain(self))[1],
    )
    direct = losses(recipe_of(folder, tmp_path / "direct", HEADS, items=100))
    cached = losses(recipe_of(folder, tmp_path / "cached", HEADS, items=5))
    assert len(cached) == 8 and cached == pytest.approx(direct, rel=1e-4)
    before, after = (
        load_file(path / "model.safetensors")
        for path in (folder / "base", tmp_path / "cached/model")
    )
    tower = [name for name in before if "vision_tower" in name]
    assert sum("num_batches_tracked" in name for name in tower) >= 10
    assert [name for name in tower if not torch.equal(before[name], after[name])] == []
    assert not torch.equal(
        before["model.language_model.norm.weight"], after["model.language_model.norm.weight"]
    )
    memory = trained[1].backbone.state_dict()
    assert [n for n, value in memory.items() if not torch.equal(after[f"model.{n}"], value)] == []


def test_an_export_may_hold_counters(folder, tmp_path):
    config = ModelConfig(id=str(folder / "base"), dtype="float32")
    facts = tmp_path / "unime.json"
    export_embedder(Embedder.load(config, "cpu"), tmp_path, ExportRecipe(output="x", model=config))
    assert damage(tmp_path) == []
    assert settings(tmp_path, json.loads(facts.read_text())) == []
    wrong = json.loads(facts.read_text())
    wrong["preprocessing"]["dtype"] = "bfloat16"
    assert settings(tmp_path, wrong) == ["weights are stored as F32, expected BF16"]


@pytest.mark.parametrize("parts", [["vision"], ["language", "vision", "projector"]])
def test_batch_statistics_in_a_trained_part_are_refused(folder, tmp_path, parts):
    recipe = recipe_of(folder, tmp_path / "out", {"method": "full", "parts": parts}, items=5)
    with pytest.raises(
        ModelError, match=r"a BatchNorm.* is in a part that is trained and would normalise by the"
    ):
        contrast.run(recipe, open_output(recipe, {}))
    assert not (tmp_path / "out/model").exists()


def test_a_reranker_is_refused_alike(folder, tmp_path, monkeypatch):
    # transformers' FastVLM does not take vision output in our form.
    monkeypatch.setattr(RerankModel, "check", lambda self: None)
    tune = {"method": "full", "parts": ["vision"]}
    recipe = rerank_recipe(folder, tmp_path / "out", tune=tune)
    with pytest.raises(ModelError, match="a BatchNorm.* is in a part that is trained"):
        rerank.run(recipe, open_output(recipe, {}))


def test_batch_statistics_without_memory_are_refused_even_where_frozen(folder):
    embedder = Embedder.load(ModelConfig(id=str(folder / "base")), "cpu")
    train_parts(embedder.backbone, LoraSection())
    refuse_batch_statistics(embedder.backbone)
    embedder.backbone.vision_tower.last = torch.nn.BatchNorm2d(4, track_running_stats=False)
    embedder.backbone.vision_tower.requires_grad_(False)
    with pytest.raises(ModelError, match="last, a BatchNorm2d, keeps no running statistics"):
        refuse_batch_statistics(embedder.backbone)


def test_a_buffer_that_training_writes_to_is_an_error(tmp_path, monkeypatch):
    """Of whatever kind: here one that counts the calls in train mode."""

    def count(module, *_):
        module.calls += int(module.training)

    build_family("qwen2_vl", tmp_path / "base")
    drawn_folder(tmp_path / "d")
    recipe = recipe_of(tmp_path, tmp_path / "out", {}, items=100)

    plain = loop.train

    def train_counting(*, model, **rest):
        norm = model.backbone.language_model.norm
        norm.register_buffer("calls", torch.zeros(()))
        norm.requires_grad_(True)
        monkeypatch.setattr("unime.train.loop.train_parts", lambda *_: None)
        norm.register_forward_hook(count)
        return plain(model=model, **rest)

    monkeypatch.setattr(loop, "train", train_counting)
    with pytest.raises(ModelError, match=r"changed the buffer .*norm.calls"):
        contrast.run(recipe, open_output(recipe, {}))


def test_modes_follow_what_is_trained_and_come_back(tmp_path):
    folder = build_family("llava_onevision", tmp_path)
    embedder = Embedder.load(ModelConfig(id=str(folder), dtype="float32"), "cpu")
    tower, language = embedder.backbone.vision_tower, embedder.backbone.language_model
    tower.encoder.layers[0].mlp.dropout = torch.nn.Dropout(0.5)
    language.layers[0].dropout = torch.nn.Dropout(0.5)
    language.layers[0].mlp.dropout = torch.nn.Dropout(0.5)
    train_parts(embedder.backbone, LoraSection(target_modules=["q_proj"], lora_dropout=0.3))
    train_mode(embedder.network)
    adapted = language.layers[0].self_attn.q_proj
    assert embedder.network.training and language.layers[0].self_attn.training
    assert adapted.lora_dropout["default"].training and language.layers[0].dropout.training
    assert not any(module.training for module in tower.modules())
    assert not language.layers[0].mlp.dropout.training
    before = [module.training for module in embedder.network.modules()]
    embedder.encode([ModelInput("a red circle")])
    with pytest.raises(ZeroDivisionError), evaluating(embedder.network):
        assert not any(module.training for module in embedder.network.modules())
        raise ZeroDivisionError
    assert [module.training for module in embedder.network.modules()] == before
    train_mode(embedder.network, recomputes=True)
    # Recomputing needs the layer's own flag, not that of what is in it.
    assert tower.encoder.layers[0].training and not tower.encoder.layers[0].mlp.training
