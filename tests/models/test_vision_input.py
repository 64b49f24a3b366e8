"""Packed pictures and reused features give the embeddings and gradients of the plain model."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from tests.families import FAMILIES, build_family
from tests.train.toy import toy_batch
from unime.losses import Combined
from unime.models.adapters import LoraSection, tower_is_frozen, train_parts
from unime.models.backbones import load_generative
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput
from unime.models.model_config import ModelConfig
from unime.models.vision_input import VisionInput
from unime.train.backends import DataParallelRunner
from unime.train.batch import Chunk
from unime.train.step import cached_step


def pictures() -> list[ModelInput]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((28, 56), (56, 28), (40, 40))
    arrays = [torch.randint(0, 255, (*s, 3), generator=generator).byte().numpy() for s in sizes]
    return [ModelInput(f"picture {i}", Image.fromarray(a), "query") for i, a in enumerate(arrays)]


def load(family: str, folder, parts: list) -> Embedder:
    embedder = Embedder.load(ModelConfig(id=str(build_family(family, folder))), "cpu")
    torch.manual_seed(0)
    train_parts(embedder.backbone, LoraSection(parts=parts, r=2))
    for name, parameter in embedder.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return embedder


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_pictures_are_the_same_pictures(family, tmp_path):
    embedder = load(family, tmp_path, ["language"])
    plain, packed = (embedder.features(pictures(), packed=flag) for flag in (False, True))
    if family.startswith("qwen"):
        assert packed["pixel_values"].dtype == torch.uint8
        assert 8 * packed["pixel_values"].nbytes == plain["pixel_values"].nbytes
    with torch.no_grad():
        error = (embedder.forward(plain) - embedder.forward(packed)).abs().max()
    assert error < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_reused_features_change_no_gradient(family, tmp_path):
    embedder = load(family, tmp_path, ["language"])
    assert tower_is_frozen(embedder.backbone)
    features = [embedder.features([one], packed=True) for one in pictures()]
    chunks = [Chunk(torch.tensor([i]), f) for i, f in enumerate(features)]

    runner = DataParallelRunner(embedder.network, embedder.vision, torch.device("cpu"))

    def loss(embeddings: torch.Tensor) -> Combined:
        return Combined((embeddings @ embeddings.T).square().sum(), {})

    found = []
    # Nothing, everything, and too little for more than the first chunk.
    for budget, reused in ((0, 0), (10**9, 2), (one_chunk(embedder, features[0]), 1)):
        embedder.vision.budget, before = budget, embedder.vision.reused
        embedder.module.zero_grad()
        with runner.step(True):
            cached_step(toy_batch(chunks, 1), runner, loss)
        assert embedder.vision.reused - before == reused
        found.append([p.grad.clone() for p in embedder.module.parameters() if p.grad is not None])
    for gradients in found[1:]:
        for ours, expected in zip(gradients, found[0], strict=True):
            assert torch.allclose(ours, expected, atol=1e-6)


def one_chunk(embedder: Embedder, features: dict) -> int:
    """What one chunk's features take."""
    embedder.vision.budget = 10**9
    with embedder.vision.reuse(), torch.no_grad():
        embedder.vision.announce(0)
        embedder.network(dict(features))
        return 10**9 - embedder.vision._left


def test_an_adapter_in_the_projector_is_seen(tmp_path):
    assert not tower_is_frozen(load("qwen2_vl", tmp_path, ["language", "projector"]).backbone)


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_answers_as_before(family, tmp_path):
    """`generate()` calls the tower by its signature: it must find all that the tower takes."""
    model, processor, _ = load_generative(ModelConfig(id=str(build_family(family, tmp_path))))
    content = [{"type": "image"}, {"type": "text", "text": "what is to be seen"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    shown = [one.image.resize((56, 28)) for one in pictures() if one.image is not None]
    batch = processor(
        text=[text] * len(shown), images=[[one] for one in shown], return_tensors="pt"
    )

    def answers() -> torch.Tensor:
        wanted = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
        out = model.generate(**batch, **wanted, output_scores=True, return_dict_in_generate=True)
        return torch.stack(out.scores)

    before = answers()
    VisionInput.of(model.base_model, processor.image_processor)
    assert torch.allclose(answers(), before, atol=1e-6)
    assert not torch.allclose(before[:, 0], before[:, 1], atol=1e-3)  # it sees its pictures
