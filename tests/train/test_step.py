"""The cached step equals direct back-propagation, whatever the chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.families import build_family
from tests.train.toy import ToyEncoder, ToyRunner, toy_batch, toy_chunks, toy_loss, toy_rows
from unime.losses import LOSSES
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput
from unime.models.model_config import ModelConfig
from unime.train.batch import Chunk
from unime.train.step import cached_step

COUNT = 17


def gradient_of(
    model: ToyEncoder, chunks: list[Chunk], kept: int, name: str
) -> tuple[float, Tensor]:
    model.zero_grad()
    batch, runner = toy_batch(chunks, kept), ToyRunner(model)
    combined = cached_step(batch, runner, lambda e: toy_loss(name, e)).combined
    return combined.total.item(), flat_gradient(model)


def direct_gradient_of(model: ToyEncoder, chunks: list[Chunk], name: str) -> tuple[float, Tensor]:
    """One graph through the whole batch; the same chunks, so that dropout draws the same."""
    model.zero_grad()
    order = torch.cat([chunk.places for chunk in chunks]).argsort()
    blocks = []
    for chunk in chunks:
        torch.manual_seed(chunk.seed)
        blocks.append(model(chunk.features))
    total = toy_loss(name, torch.cat(blocks)[order]).total
    total.backward()
    return total.item(), flat_gradient(model)


def flat_gradient(model: ToyEncoder) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("size", [1, 3, 7, COUNT])
def test_cached_equals_direct_gradient(name, dropout, size):
    model = ToyEncoder(dropout)
    chunks = toy_chunks(toy_rows(COUNT), size)
    loss, direct = direct_gradient_of(model, chunks, name)
    assert direct.abs().max() > 1e-3
    for kept in {1, 2, len(chunks)}:
        cached_loss, cached = gradient_of(model, chunks, min(kept, len(chunks)), name)
        assert cached_loss == pytest.approx(loss, abs=1e-12)
        assert torch.allclose(cached, direct, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_chunk_size_changes_nothing(name):
    model, rows = ToyEncoder(), toy_rows(COUNT)
    _, reference = gradient_of(model, toy_chunks(rows, COUNT), 1, name)
    for size in (1, 3, 7):
        _, gradient = gradient_of(model, toy_chunks(rows, size), 1, name)
        assert torch.allclose(gradient, reference, rtol=0, atol=1e-9)


def test_the_step_leaves_the_generators_as_they_were():
    model, chunks = ToyEncoder(dropout=0.5), toy_chunks(toy_rows(COUNT), 4)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    gradient_of(model, chunks, 1, "info_nce")
    assert torch.equal(torch.rand(3), expected)


def test_a_dummy_chunk_takes_part_and_counts_nowhere():
    model, rows = ToyEncoder(), toy_rows(COUNT)
    chunks = toy_chunks(rows, 5)
    dummy = Chunk(torch.tensor([], dtype=torch.int64), {"rows": rows[:1]})
    expected_loss, expected = gradient_of(model, chunks, 1, "info_nce")
    for kept in (1, 3):
        loss, gradient = gradient_of(model, [dummy, *chunks, dummy], kept, "info_nce")
        assert loss == expected_loss
        assert torch.allclose(gradient, expected, atol=1e-12)


def test_every_chunk_is_encoded_twice_but_the_kept_ones():
    calls: list[int] = []
    model = ToyEncoder()

    def forward(features: Mapping[str, Any]) -> Tensor:
        calls.append(len(features["rows"]))
        return model(features)

    batch = toy_batch(toy_chunks(toy_rows(COUNT), 5), 2)
    cached_step(batch, ToyRunner(forward), lambda e: toy_loss("info_nce", e))
    assert sum(calls) == COUNT + 10


def test_a_runner_sees_scalars_whose_gradients_add_up():
    model, chunks = ToyEncoder(), toy_chunks(toy_rows(COUNT), 5)
    _, expected = gradient_of(model, chunks, 1, "info_nce")
    model.zero_grad()
    told: list[bool] = []

    class Fourfold(ToyRunner):
        def backward(self, scalar: Tensor, is_last: bool) -> None:
            told.append(is_last)
            (scalar * 4).backward()

    cached_step(toy_batch(chunks, 1), Fourfold(model), lambda e: toy_loss("info_nce", e))
    assert told == [False] * (len(chunks) - 1) + [True]
    assert torch.allclose(flat_gradient(model), 4 * expected, atol=1e-12)


def test_in_bfloat16_the_gradient_points_the_same_way(tmp_path):
    """Cached under autocast, in chunks, beside one fp32 graph through the whole batch."""
    colours = ("red", "green", "blue", "white", "black")
    encodes = [
        ModelInput(f"a {colour} thing {number}", Image.new("RGB", (28, 28), colour), "target")
        if number % 2
        else ModelInput(f"a {colour} thing {number}", None, "query", "find it")
        for number in range(3)
        for colour in colours
    ]
    model = ModelConfig(id=str(build_family("qwen2_vl", tmp_path)), dtype="float32")
    embedder = Embedder.load(model, "cpu")

    def gradient(size: int, **autocast: bool) -> Tensor:
        embedder.module.zero_grad()
        places = torch.arange(len(encodes)).split(size)
        chunks = [Chunk(p, embedder.features([encodes[i] for i in p.tolist()])) for p in places]

        def forward(features: Mapping[str, Any]) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, **autocast):
                return embedder.module(dict(features))["sentence_embedding"]

        batch = toy_batch(chunks, 1)
        cached_step(batch, ToyRunner(forward), lambda e: toy_loss("info_nce", e.double()))
        return torch.cat(
            [p.grad.flatten() for p in embedder.module.parameters() if p.grad is not None]
        )

    half, direct = gradient(4), gradient(len(encodes), enabled=False)
    assert torch.cosine_similarity(half.double(), direct.double(), dim=0) >= 0.999
