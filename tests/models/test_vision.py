"""The faster vision tower computes what the family's own does, gradients too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.families import build_family
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput
from unime.models.model_config import ModelConfig
from unime.models.vision import GROUPED, PatchProjection, speed_up_vision

SIZES = [(56, 56), (84, 56), (56, 56), (112, 84)]


def gradients(embedder: Embedder, features: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    embedder.module.zero_grad()
    vectors = embedder.forward(features)
    (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
    named = embedder.backbone.visual.named_parameters()
    return vectors.detach(), {n: p.grad.clone() for n, p in named if p.grad is not None}


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("sizes", [SIZES, SIZES[:1] * 3], ids=["mixed", "equal"])
def test_embeddings_and_gradients_are_the_familys_own(
    family: str, sizes: list[tuple[int, int]], tmp_path: Path
):
    torch.manual_seed(0)
    folder = build_family(family, tmp_path / family)
    embedder = Embedder.load(ModelConfig(id=str(folder), dtype="float32"), "cpu")
    tower = embedder.backbone.visual
    assert isinstance(tower.patch_embed.proj, PatchProjection)
    encodes = [
        ModelInput("two", Image.effect_noise(size, 90).convert("RGB"), "query", "say")
        for size in sizes
    ]
    features = embedder.features(encodes)
    fast, fast_gradients = gradients(embedder, features)

    tower.patch_embed.proj.__class__ = torch.nn.Conv3d  # type: ignore[assignment]
    assert tower.config._attn_implementation == GROUPED
    tower.config._attn_implementation = "sdpa"
    slow, slow_gradients = gradients(embedder, features)
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)
    assert fast_gradients.keys() == slow_gradients.keys()
    assert len(fast_gradients) > 5
    for name, value in slow_gradients.items():
        torch.testing.assert_close(fast_gradients[name], value, atol=1e-5, rtol=1e-3, msg=name)


def test_a_tower_of_another_kind_is_left_alone():
    assert not speed_up_vision(torch.nn.Linear(2, 2))
