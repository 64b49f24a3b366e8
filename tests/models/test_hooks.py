"""Where an inner working of transformers is missing or ignored, results are those of the plain model.

One log line says so. Each case changes the model's class as another version of transformers might.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from PIL import Image

from tests.families import FAMILIES, build_family
from tests.models.inputs import mixed
from unime.models import hooks, vision
from unime.models.backbones import load_generative
from unime.models.embedder import Embedder
from unime.models.image_blocks import KeyedImage
from unime.models.model_config import ModelConfig
from unime.models.pair_scorer import PairInput, PairScorer, PairSide
from unime.models.prompts import load_judge_prompt
from unime.rerank import RerankConfig, Reranker, RerankModel, RerankQuestion

PROMPT = "judge/yes_no.v1"


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    return build_family(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(hooks, "log", lines.append)
    monkeypatch.setattr(vision, "log", lines.append)
    return lines


def features_are_computed_elsewhere(backbone: type, monkeypatch) -> None:
    own, forward = backbone.get_image_features, backbone.forward

    @functools.wraps(forward)
    def changed(self, *args, **kwargs):
        ours = self.__dict__.pop("get_image_features", own.__get__(self))
        try:
            return forward(self, *args, **kwargs)
        finally:
            self.__dict__["get_image_features"] = ours

    monkeypatch.setattr(backbone, "forward", changed)


def features_have_another_name(backbone: type, monkeypatch) -> None:
    own, forward = backbone.get_image_features, backbone.forward

    class Renamed:
        def __init__(self, output):
            self.pooled = output

    def renamed(self, *args, **kwargs):
        return Renamed(own(self, *args, **kwargs))

    @functools.wraps(forward)
    def changed(self, *args, **kwargs):
        ours = self.__dict__.pop("get_image_features", None)
        self.__dict__["get_image_features"] = lambda *a, **k: ours(*a, **k).pooled
        try:
            return forward(self, *args, **kwargs)
        finally:
            self.__dict__["get_image_features"] = ours

    monkeypatch.setattr(backbone, "get_image_features", renamed)
    monkeypatch.setattr(backbone, "forward", changed)


def positions_are_numbered_elsewhere(backbone: type, monkeypatch) -> None:
    own, compute = backbone.get_rope_index, backbone.compute_3d_position_ids

    def changed(self, *args, **kwargs):
        self.get_rope_index = own.__get__(self)
        try:
            return compute(self, *args, **kwargs)
        finally:
            del self.get_rope_index

    monkeypatch.delattr(backbone, "get_rope_index")
    monkeypatch.setattr(backbone, "compute_3d_position_ids", changed)


def keys_and_values_are_ignored(backbone: type, monkeypatch) -> None:
    forward = backbone.forward

    @functools.wraps(forward)
    def changed(self, *args, **kwargs):
        if kwargs.pop("cache", kwargs.pop("past_key_values", None)) is not None:
            kwargs["use_cache"] = False
            kwargs["attention_mask"] = kwargs["attention_mask"][:, -kwargs["input_ids"].shape[1] :]
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(backbone, "forward", changed)


def layers_of_a_cache_have_no_keys(backbone: type, monkeypatch) -> None:
    from transformers.cache_utils import DynamicLayer

    # Nothing can be read from a property without a getter.
    monkeypatch.setattr(DynamicLayer, "keys", property(fset=lambda *_: None), raising=False)


CHANGES = {
    "pixels": (
        features_are_computed_elsewhere,
        features_have_another_name,
        positions_are_numbered_elsewhere,
    ),
    "share": (keys_and_values_are_ignored, layers_of_a_cache_have_no_keys),
}
EVERY = [(what, change) for what, changes in CHANGES.items() for change in changes]


@pytest.fixture(params=EVERY, ids=[change.__name__ for _, change in EVERY])
def changed(request, folder, monkeypatch, said):
    """Change the family's class; return what the log line has to be about."""
    what, change = request.param
    if change is positions_are_numbered_elsewhere and "qwen" not in folder.name:
        pytest.skip("its positions do not depend on pictures")
    model, _, _ = load_generative(ModelConfig(id=str(folder)), "cpu")
    return what, lambda: change(type(model.model), monkeypatch)


def picture(seed: int) -> KeyedImage:
    size = (40, 30 + 20 * (seed % 3), 3)
    pixels = np.random.default_rng(seed).integers(0, 255, size, np.uint8)
    return KeyedImage(seed.to_bytes(16, "big"), lambda: Image.fromarray(pixels))


SIDES = (
    PairSide("a blue square"),
    PairSide("", picture(2)),
    PairSide("the small purple star", picture(3)),
    PairSide("a red circle", picture(1)),
)


def about(what: str, said: list[str]) -> bool:
    (line,) = set(said)
    named = {"pixels": "in place of pixels", "share": "cannot share keys and values"}[what]
    return named in line and "the results are the same" in line


def test_a_judge_says_the_same(folder, changed, said):
    config = ModelConfig(id=str(folder), dtype="float32", max_pixels=56 * 56)
    pairs = [PairInput("find it", query, side) for query in SIDES[1:3] for side in SIDES]

    def logits() -> torch.Tensor:
        model, processor, _ = load_generative(config, "cpu")
        scorer = PairScorer(model, processor, load_judge_prompt(PROMPT), 4096, 3)
        return scorer.read(pairs, lambda logits: logits).values

    what, change = changed
    expected = logits()
    assert not said
    change()
    torch.testing.assert_close(logits(), expected, atol=1e-4, rtol=0)
    assert len(said) == 1 and about(what, said)


def test_a_reranker_ranks_and_learns_the_same(folder, changed, said):
    config = RerankConfig(id=str(folder), dtype="float32", max_pixels=56 * 56)
    questions = [
        RerankQuestion("find it", query, (side,))
        for query in (SIDES[2], SIDES[0])
        for side in SIDES
    ]

    def found() -> tuple[torch.Tensor, list[torch.Tensor | None], np.ndarray]:
        model = RerankModel.load(config, "cpu")
        ranked = Reranker(model, batch_size=3).log_odds(questions)
        model.module.requires_grad_(True)
        logits = model.forward(model.features(questions))
        weights = torch.linspace(-1, 1, logits.numel()).view_as(logits)
        parameters = list(model.module.parameters())
        gradients = torch.autograd.grad((logits * weights).sum(), parameters, allow_unused=True)
        return logits.detach(), list(gradients), ranked

    what, change = changed
    expected = found()
    change()
    ours = found()
    torch.testing.assert_close(ours[0], expected[0], atol=1e-4, rtol=0)
    for one, two in zip(ours[1], expected[1], strict=True):
        if one is not None and two is not None:
            tolerance = 1e-4 * float(two.abs().max()) + 1e-6
            torch.testing.assert_close(one, two, atol=tolerance, rtol=1e-3)
    np.testing.assert_allclose(ours[2], expected[2], atol=1e-4)
    assert len(said) == 1 and about(what, said)


def test_an_embedder_embeds_the_same(folder, changed, said):
    config = ModelConfig(id=str(folder), dtype="float32", max_pixels=4096)
    what, change = changed
    expected = Embedder.load(config, "cpu").encode(mixed())
    change()
    np.testing.assert_allclose(Embedder.load(config, "cpu").encode(mixed()), expected, atol=1e-5)
    assert len(said) == 1 and about(what, said)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("change", ["name", "borders", "result"])
def test_a_tower_that_takes_no_other_attention_keeps_its_own(
    family, change, tmp_path, monkeypatch, said
):
    folder = build_family(family, tmp_path)
    config = ModelConfig(id=str(folder), dtype="float32", max_pixels=4096)
    expected = Embedder.load(config, "cpu").encode(mixed())
    assert not said

    grouped = vision.grouped_attention

    def without_borders(module, query, key, value, *args, **kwargs):
        del kwargs["cu_seq_lens_q"]
        return grouped(module, query, key, value, *args, **kwargs)

    def across_pictures(module, query, key, value, *args, **kwargs):
        kwargs["cu_seq_lens_q"] = kwargs["cu_seq_lens_q"][[0, -1]]
        return grouped(module, query, key, value, *args, **kwargs)

    if change == "name":
        monkeypatch.setattr(vision, "GROUPED", "unime_grouped")
    else:
        other = without_borders if change == "borders" else across_pictures
        monkeypatch.setattr(vision, "grouped_attention", other)
    embedder = Embedder.load(config, "cpu")
    tower = embedder.backbone.visual
    assert tower.config._attn_implementation == "sdpa"
    assert type(tower.patch_embed.proj) is torch.nn.Conv3d
    np.testing.assert_allclose(embedder.encode(mixed()), expected, atol=1e-5)
    assert len(said) == 1 and "keeps its own" in said[0] and "the results are the same" in said[0]
