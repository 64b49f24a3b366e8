"""The estimate counts a model's weights and a recipe's batches; its work grows as it must."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from tests.families import FAMILIES, build_family
from tests.train.folder import drawn_folder
from unime.core.errors import ModelError
from unime.models.adapters import LoraSection, parts_of, train_parts
from unime.models.backbones import renderer_of
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput
from unime.models.model_config import ModelConfig
from unime.train.estimate import (
    ChunkWork,
    Machine,
    ModelPart,
    chunk_work,
    estimate,
    mean_work,
    model_parts,
    step_flops,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_counted_without_loading_them(family, tmp_path):
    folder = str(build_family(family, tmp_path))
    tune = LoraSection(parts=["language", "projector"], r=4)
    language, vision = model_parts(folder, tune)
    embedder = Embedder.load(ModelConfig(id=folder), "cpu")
    train_parts(embedder.backbone, tune)
    parts = parts_of(embedder.backbone)
    for part, names in ((language, ("language",)), (vision, ("vision", "projector"))):
        named = [(n, p) for n, p in embedder.backbone.named_parameters() if parts.get(n) in names]
        assert part.weights + part.tables == sum(p.numel() for _, p in named)
        assert part.trained == sum(p.numel() for _, p in named if p.requires_grad) > 0


def test_work_of_a_step():
    language, vision = ModelPart(1000, 0, 0, 8, 0), ModelPart(500, 0, 1, 8, 0)
    chunk = ChunkWork(
        inputs=8, tokens=80, padded=88, computed=80, patches=0, image_tokens=0, square_tokens=800
    )
    whole = mean_work([([[chunk]], 1)])
    assert (whole.tokens, whole.kept_share) == (80, 1.0)
    # One forward pass, and a backward pass below frozen weights that costs as much.
    assert step_flops(language, vision, whole) == 80 * 2 * 1000 * 2
    one = ChunkWork(1, 10, 11, 10, 0, 0, 100)
    replayed = mean_work([([[one] * 8], 1)])
    assert replayed.kept_share == 1 / 8
    assert step_flops(language, vision, replayed) == 80 * 2 * 1000 * (2 + 7 / 8)
    # Two processes that keep one chunk each.
    assert mean_work([([[one] * 4, [one] * 4], 1)]).kept_share == 1 / 4
    trained = language.__class__(1000, 0, 0, 8, 1000)
    assert step_flops(trained, vision, whole) == 80 * 2 * 1000 * 3


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_and_patches_are_the_models_own(family, tmp_path):
    config = ModelConfig(id=str(build_family(family, tmp_path)))
    embedder = Embedder.load(config, "cpu")
    encodes = [
        ModelInput(f"thing {n}", Image.new("RGB", (56, 56), "red"), "query", "find")
        for n in range(3)
    ]
    features = embedder.features(encodes)
    renderer, model = renderer_of(config)
    assert torch.equal(renderer.features(encodes)["input_ids"], features["input_ids"])
    work = chunk_work(features, model)
    assert work.tokens == int(features["attention_mask"].sum())
    assert work.computed <= work.padded
    seen = []
    tower = next(
        m
        for n, m in embedder.backbone.named_modules()
        if n.endswith(("visual", "vision_tower", "vision_model"))
    )
    patches = next(
        m
        for n, m in tower.named_modules()
        if "patch" in n and isinstance(m, (torch.nn.Conv2d, torch.nn.Conv3d))
    )
    patches.register_forward_hook(lambda *call: seen.append(call[2].numel() // call[2].shape[1]))
    embedder.network.shares_prefix = False
    with torch.inference_mode():
        embedder.forward(features)
    assert not seen or sum(seen) == work.patches


def test_the_page_says_what_fits_and_that_it_is_an_estimate(tmp_path):
    build_family("qwen2_vl", tmp_path / "base")
    drawn_folder(tmp_path / "d")
    recipe = tmp_path / "contrast.yaml"
    recipe.write_text(
        f"stage: contrast\noutput: {tmp_path}/out\nmodel: {{id: {tmp_path}/base}}\n"
        f"data: {tmp_path}/d\ntraining: {{max_steps: 1, global_batch_size: 8}}\n"
    )
    page = estimate(recipe, [], Machine(gpus=1, memory_gb=2.0))
    for words in ("an estimate", "distinct inputs", "optimizer", "of 2: fits", "s a step at 35%"):
        assert words in page
    small = estimate(recipe, [], Machine(gpus=1, memory_gb=0.001))
    assert "to make it fit: halve budget.tokens" in small


def test_a_model_that_is_not_there_yet_is_one_sentence(tmp_path):
    drawn_folder(tmp_path / "data")
    recipe = tmp_path / "6_contrast.yaml"
    recipe.write_text(
        f"stage: contrast\nmodel: {{id: runs/none/2_warmup/model}}\ndata: {tmp_path / 'data'}\n"
        "training: {global_batch_size: 4, max_steps: 2}\n"
    )
    with pytest.raises(ModelError, match=r"cannot load the configuration runs/none/2_warmup/model: there is no such folder"):  # fmt: skip
        estimate(recipe, [], Machine(1, 80.0, 312.0, 0.35))
