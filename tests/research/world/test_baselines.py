"""The gate that keeps the world honest, and the figures it is judged by."""

from __future__ import annotations

import numpy as np
import torch

from research.world.baselines import Lists, accuracy, gate, hits
from research.world.towers import Input, Reference, Senses, Tower
from unime.data.items import Item


class Fixed(Reference):
    """A reference model with given embeddings."""

    def __init__(self, vectors: torch.Tensor) -> None:
        self.vectors = vectors

    def embed_all(self, inputs, batch=512):
        return dict(zip(inputs, self.vectors, strict=True))


LISTS = Lists(
    [Input(Item.of(str(number)), "") for number in range(5)],
    np.array([0, 1], np.int32),
    [np.array([2, 3, 4], np.int32), np.array([3, 2], np.int32)],
)


def test_a_tie_is_a_miss_and_an_oracle_misses_nothing() -> None:
    assert hits(Fixed(torch.ones(5, 4)), LISTS) == 0
    oracle = torch.eye(4)[[0, 1, 0, 1, 2]]
    assert hits(Fixed(oracle), LISTS) == 100


def test_a_text_that_cannot_be_told_apart_is_half_right() -> None:
    assert accuracy([(1.0, 0.5), (0.2, 0.2)]) == 75


def rows(**changes: float) -> dict:
    """Rows that pass, but for the changes."""
    values = {"overall": 50.0, "set": 50.0, "swap_obj": 50.0, "blind": 50.0, **changes}
    return {
        "chance": {"datasets": {"set": 2.0}},
        "contrastive": {"overall": values["overall"], "datasets": {"set": values["set"]}},
        "bag_of_words": {"compositional": {"swap_obj": values["swap_obj"], "add_obj": 90.0}},
        "image_blind": {"compositional": {"swap_obj": values["blind"]}},
    }


def test_the_gate_names_what_is_wrong() -> None:
    assert gate(rows()) == []
    assert gate(rows(overall=30.0)) == ["contrastive overall is 30.0, expected 35 to 85"]
    assert gate(rows(set=3.9)) == ["contrastive on set is 3.9, expected 4.0 to 95"]
    assert gate(rows(set=95.1)) == ["contrastive on set is 95.1, expected 4.0 to 95"]
    assert gate(rows(swap_obj=52.1)) == ["bag_of_words on swap_obj is 52.1, expected 48 to 52"]
    assert gate(rows(blind=55.5)) == ["image_blind on swap_obj is 55.5, expected at most 55"]


def test_a_bag_of_words_does_not_see_their_order() -> None:
    torch.manual_seed(0)
    words = torch.tensor([[5, 6, 7, 8, 0], [8, 7, 6, 5, 0]])
    bag = Tower(10, Senses(order=False), seen=6).eval()(words, torch.ones(2, 16, 6))
    torch.testing.assert_close(bag[0], bag[1])
    ordered = Tower(10, Senses(), seen=6).eval()(words, torch.ones(2, 16, 6))
    assert (ordered[0] - ordered[1]).abs().max() > 1e-3
