"""Short vectors: the mean of a loss over lengths, for any loss of the table."""

from __future__ import annotations

import pytest
import torch

from tests.losses.test_losses import random_batch
from unime.core.errors import RecipeError
from unime.losses import LOSSES, ContrastBatch, LossTerm, RelationBatch, combine
from unime.losses.combine import record_of
from unime.losses.matryoshka import shortened


def batch_for(name: str) -> ContrastBatch | RelationBatch:
    if record_of(LOSSES[name]) == "ContrastBatch":
        return random_batch(0)
    torch.manual_seed(0)
    return RelationBatch(torch.randn(6, 8), torch.randn(6, 5))


CONTRASTS = [
    name for name in LOSSES if record_of(LOSSES[name]) in ("ContrastBatch", "RelationBatch")
]


@pytest.mark.parametrize("name", CONTRASTS)
def test_the_loss_is_the_mean_over_lengths(name: str):
    batch = batch_for(name)
    term = LossTerm(name=name, matryoshka_dims=[4, 2])
    total = combine([term], type(batch))(batch).total
    expected = [LOSSES[name](b) for b in (batch, shortened(batch, 4), shortened(batch, 2))]
    torch.testing.assert_close(total, torch.stack(expected).mean())
    plain = combine([LossTerm(name=name)], type(batch))(batch).total
    torch.testing.assert_close(plain, expected[0])


def test_short_vectors_have_length_one_and_gradient_reaches_the_beginning_only():
    query = torch.randn(3, 8, requires_grad=True)
    short = shortened(RelationBatch(query, torch.randn(3, 5)), 2)
    assert isinstance(short, RelationBatch)
    torch.testing.assert_close(short.student.norm(dim=1), torch.ones(3))
    short.student[:, 0].sum().backward()
    assert query.grad is not None
    assert (query.grad[:, 2:] == 0).all() and (query.grad[:, :2] != 0).any()


@pytest.mark.parametrize("dim", [8, 9, 0])
def test_a_length_that_is_none_is_one_sentence(dim: int):
    batch = RelationBatch(torch.randn(3, 8), torch.randn(3, 5))
    total = combine([LossTerm(name="relational_kl", matryoshka_dims=[dim])], RelationBatch)
    with pytest.raises(RecipeError, match=f"matryoshka_dims: {dim} is not below the embedding's 8"):
        total(batch)
