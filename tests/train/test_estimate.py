"""The estimate counts a model's weights and a recipe's batches; its work grows as it must."""

from __future__ import annotations

import pytest

from tests.families import FAMILIES, build_family
from tests.train.folder import drawn_folder
from unime.config import ModelConfig
from unime.estimate import Machine, Part, estimate, mean_work, model_parts, step_flops
from unime.models import Embedder, LoraSection, apply_lora
from unime.models.adapters import parts_of
from unime.train.plan import Budget, Size


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_counted_without_loading_them(family, tmp_path):
    folder = str(build_family(family, tmp_path))
    tune = LoraSection(parts=["language", "projector"], r=4)
    language, vision = model_parts(folder, tune)
    embedder = Embedder.load(ModelConfig(id=folder), "cpu")
    apply_lora(embedder, tune)
    parts = parts_of(embedder.backbone)
    for part, names in ((language, ("language",)), (vision, ("vision", "projector"))):
        named = [(n, p) for n, p in embedder.backbone.named_parameters() if parts.get(n) in names]
        assert part.weights + part.tables == sum(p.numel() for _, p in named)
        assert part.trained == sum(p.numel() for _, p in named if p.requires_grad) > 0


def test_work_of_a_step():
    language, vision = Part(1000, 0, 0, 8, 0), Part(500, 0, 1, 8, 0)
    sizes = [[Size(10)] * 8]
    whole = mean_work(sizes, Budget(), 1)
    assert (whole.tokens, whole.kept_share) == (80, 1.0)
    # One forward pass, and a backward pass below frozen weights that costs as much.
    assert step_flops(language, vision, whole) == 80 * 2 * 1000 * 2
    replayed = mean_work(sizes, Budget(items=1), 1)
    assert replayed.kept_share == 1 / 8
    assert step_flops(language, vision, replayed) == 80 * 2 * 1000 * (2 + 7 / 8)
    trained = language.__class__(1000, 0, 0, 8, 1000)
    assert step_flops(trained, vision, whole) == 80 * 2 * 1000 * 3


def test_the_page_says_what_fits_and_that_it_is_an_estimate(tmp_path):
    build_family("qwen2_vl", tmp_path / "base")
    drawn_folder(tmp_path / "d")
    recipe = tmp_path / "contrast.yaml"
    recipe.write_text(
        f"stage: contrast\noutput: {tmp_path}/out\nmodel: {{id: {tmp_path}/base}}\n"
        f"data: {tmp_path}/d\ntraining: {{max_steps: 1, global_batch_size: 8}}\n"
    )
    page = estimate(recipe, [], Machine(gpus=1, memory_gb=2.0))
    for words in ("an estimate", "distinct encodes", "optimizer", "of 2: fits", "s a step at 35%"):
        assert words in page
    small = estimate(recipe, [], Machine(gpus=1, memory_gb=0.001))
    assert "to make it fit: halve budget.tokens" in small
