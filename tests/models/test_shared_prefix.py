"""A shared prefix changes neither embeddings nor gradients, in any family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from tests.families import FAMILIES, build_family
from unime.models.embedder import Embedder
from unime.models.hooks import select_rows
from unime.models.inputs import ModelInput
from unime.models.model_config import ModelConfig
from unime.models.shared_prefix import SharedPrefix, prefix_length

TEXTS = ("a red circle", "one blue square, left of a green triangle", "grey")


def inputs(kind: str) -> list[ModelInput]:
    images = [Image.new("RGB", (28, 28), colour) for colour in ("red", "green", "white")]
    if kind == "text":
        return [ModelInput(text, None, "query", "find it:") for text in TEXTS]
    if kind == "image":
        return [ModelInput("", image, "target", "represent it") for image in images]
    return [
        ModelInput(text, image, "query", "find it:")
        for text, image in zip(TEXTS, images, strict=True)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_and_gradients_are_those_of_the_plain_model(family, tmp_path):
    embedder = Embedder.load(ModelConfig(id=str(build_family(family, tmp_path))), "cpu")
    shared, weights = SharedPrefix(embedder.module), list(embedder.module.parameters())
    for kind in ("text", "image", "both"):
        features = embedder.features(inputs(kind))
        image_token = embedder.backbone.config.image_token_id
        # LLaVA-OneVision puts the picture first and has hardly any prefix then.
        assert prefix_length(features, image_token) > 8 or (
            family == "llava_onevision" and kind != "text"
        )
        results = []
        for module in (embedder.module, shared):
            out = module(dict(features))["sentence_embedding"]
            total = (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()
            results.append((out, torch.autograd.grad(total, weights, allow_unused=True)))
        (plain, plain_gradients), (ours, our_gradients) = results
        assert (plain - ours).abs().max() < 1e-5
        assert sum(g is not None for g in plain_gradients) > 10
        largest = max(g.abs().max() for g in plain_gradients if g is not None)
        for expected, found in zip(plain_gradients, our_gradients, strict=True):
            assert (expected is None) == (found is None)
            if expected is not None and found is not None:
                assert (expected - found).abs().max() < 1e-4 * largest


def test_prefix_ends_before_images_differences_padding_and_the_last_token():
    ids = torch.tensor([[1, 2, 3, 9, 5], [1, 2, 3, 9, 6]])
    full = torch.ones_like(ids)
    assert prefix_length({"input_ids": ids, "attention_mask": full}, 9) == 3
    assert prefix_length({"input_ids": ids, "attention_mask": full}, None) == 4
    short = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    assert prefix_length({"input_ids": ids, "attention_mask": short}, None) == 1
    same = {"input_ids": ids[:1].expand(2, -1), "attention_mask": full}
    assert prefix_length(same, None) == 4


def test_a_shared_beginning_has_the_same_gradient_in_every_run() -> None:
    """With two threads too: added up in a fixed order, or killed trainings would not end in equal bytes."""
    from transformers import DynamicCache

    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 4, 64, 32, generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for rows in (torch.zeros(48, dtype=torch.int64), torch.arange(48) % 2):
            weights = torch.randn(48, 4, 64, 32, generator=generator)
            found = []
            for _ in range(8):
                keys = start[: int(rows.max()) + 1].clone().requires_grad_()
                cache = DynamicCache()
                cache.update(keys, keys, 0)
                select_rows(cache, rows)
                layer: Any = cache.layers[0]
                assert torch.equal(layer.keys, keys[rows])
                (layer.keys * weights).sum().backward()
                assert keys.grad is not None
                found.append(keys.grad)
            expected = torch.stack([weights[rows == row].sum(0) for row in range(len(found[0]))])
            torch.testing.assert_close(found[0], expected)
            assert all(torch.equal(found[0], other) for other in found)
    finally:
        torch.set_num_threads(threads)
