"""The cached step equals direct back-propagation, whatever the chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.train.toy import ToyEncoder, toy_chunks, toy_loss, toy_rows
from unime.losses import LOSSES
from unime.train.step import Chunk, cached_step

COUNT = 17


def gradient_of(
    model: ToyEncoder, chunks: list[Chunk], kept: int, name: str
) -> tuple[float, Tensor]:
    model.zero_grad()
    torch.manual_seed(11)
    combined = cached_step(chunks, kept, model, lambda e: toy_loss(name, e))
    return combined.total.item(), flat_gradient(model)


def direct_gradient_of(model: ToyEncoder, chunks: list[Chunk], name: str) -> tuple[float, Tensor]:
    """One graph through the whole batch; the same chunks, so that dropout draws the same."""
    model.zero_grad()
    torch.manual_seed(11)
    order = torch.cat([chunk.places for chunk in chunks]).argsort()
    total = toy_loss(name, torch.cat([model(c.features) for c in chunks])[order]).total
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


def test_random_state_after_the_step_is_as_after_one_pass():
    model, chunks = ToyEncoder(dropout=0.5), toy_chunks(toy_rows(COUNT), 4)
    direct_gradient_of(model, chunks, "info_nce")
    expected = torch.rand(3)
    gradient_of(model, chunks, 1, "info_nce")
    assert torch.equal(torch.rand(3), expected)


def test_every_chunk_is_encoded_twice_but_the_kept_ones():
    calls: list[int] = []
    model = ToyEncoder()

    def forward(features: dict[str, Tensor]) -> Tensor:
        calls.append(len(features["rows"]))
        return model(features)

    cached_step(toy_chunks(toy_rows(COUNT), 5), 2, forward, lambda e: toy_loss("info_nce", e))
    assert sum(calls) == COUNT + 10


def test_backward_hook_sees_scalars_whose_gradients_add_up():
    model, chunks = ToyEncoder(), toy_chunks(toy_rows(COUNT), 5)
    _, expected = gradient_of(model, chunks, 1, "info_nce")
    model.zero_grad()
    cached_step(
        chunks, 1, model, lambda e: toy_loss("info_nce", e), lambda total: (total * 4).backward()
    )
    assert torch.allclose(flat_gradient(model), 4 * expected, atol=1e-12)
