"""The reranker's losses against naive loops, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unime.losses import RerankBatch, combine
from unime.losses.combine import LossTerm
from unime.losses.listwise import choose, listwise
from unime.losses.yes_no import yes_contrast, yes_no

SEEDS = st.integers(0, 10_000)


def batch(seed: int, rows: int = 4, slots: int = 5, lists: int = 3) -> RerankBatch:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    present = torch.rand(rows, slots, generator=draw) > 0.3
    present[:, 0] = True
    scores = torch.rand(rows, slots, generator=draw).float()
    scores[torch.rand(rows, slots, generator=draw) > 0.7] = torch.nan
    choice = normal(lists, 6)
    lengths = torch.randint(2, 7, (lists,), generator=draw)
    choice[torch.arange(6) >= lengths[:, None]] = -torch.inf
    gold = torch.tensor([int(torch.randint(int(n), (1,), generator=draw)) for n in lengths])
    return RerankBatch(
        normal(rows, slots), normal(rows, slots), present, scores, choice, gold.long()
    )


def naive_yes_no(b: RerankBatch, soft: bool) -> float:
    rows = []
    for i in range(len(b.yes)):
        terms = []
        for j in range(b.yes.shape[1]):
            target = float(b.scores[i, j]) if soft else float(j == 0)
            if not b.present[i, j] or math.isnan(target):
                continue
            p = math.exp(b.yes[i, j]) / (math.exp(b.yes[i, j]) + math.exp(b.no[i, j]))
            terms.append(-target * math.log(p) - (1 - target) * math.log(1 - p))
        if terms:
            rows.append(sum(terms) / len(terms))
    return sum(rows) / len(rows) if rows else 0.0


@settings(max_examples=25)
@given(SEEDS, st.booleans())
def test_yes_no_is_the_naive_loop(seed: int, soft: bool) -> None:
    b = batch(seed)
    assert float(yes_no(b, soft=soft)) == pytest.approx(naive_yes_no(b, soft), abs=1e-9)


@settings(max_examples=25)
@given(SEEDS)
def test_yes_contrast_is_the_naive_loop(seed: int) -> None:
    b, rows = batch(seed), []
    for i in range(len(b.yes)):
        logits = [float(z) / 0.5 for z, here in zip(b.yes[i], b.present[i], strict=True) if here]
        rows.append(-logits[0] + math.log(sum(map(math.exp, logits))))
    expected = sum(rows) / len(rows)
    assert float(yes_contrast(b, temperature=0.5)) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=25)
@given(SEEDS)
def test_choose_is_the_naive_loop(seed: int) -> None:
    b, rows = batch(seed), []
    for row, gold in zip(b.choice, b.gold.tolist(), strict=True):
        total = sum(math.exp(z) for z in row.tolist())
        rows.append(-math.log(math.exp(row[gold]) / total))
    assert float(choose(b)) == pytest.approx(sum(rows) / len(rows), abs=1e-9)


@settings(max_examples=25)
@given(SEEDS)
def test_contrastive_weights_give_infonce_gradient_in_the_yes_minus_no_direction(seed: int) -> None:
    """GMR's W_CL with D_SFT: along z_yes the gradient is InfoNCE's, along z_no its negative."""
    b = batch(seed)
    yes, no = b.yes.requires_grad_(), b.no.requires_grad_()
    contrast = yes_contrast(b)
    (expected,) = torch.autograd.grad(contrast, yes)
    got_yes, got_no = torch.autograd.grad(yes_no(b, weights="contrastive"), (yes, no))
    # InfoNCE sums over a query's candidates where yes_no takes their mean.
    expected = expected / b.present.sum(dim=1, keepdim=True)
    torch.testing.assert_close(got_yes, expected)
    torch.testing.assert_close(got_no, -expected)


@settings(max_examples=25)
@given(SEEDS, st.permutations([1, 2, 3, 4]))
def test_the_order_of_negatives_is_nothing(seed: int, order: list[int]) -> None:
    b, places = batch(seed), [0, *order]
    moved = RerankBatch(
        b.yes[:, places], b.no[:, places], b.present[:, places], b.scores[:, places],
        b.choice, b.gold,
    )  # fmt: skip
    for loss in (yes_no, yes_contrast, lambda x: yes_no(x, weights="uniform")):
        torch.testing.assert_close(loss(b), loss(moved))


def test_list_mle_of_hard_labels_is_the_log_likelihood_of_the_order() -> None:
    b = batch(3, rows=1, slots=2)
    b = RerankBatch(
        b.yes, b.no, torch.ones(1, 2, dtype=torch.bool), torch.full((1, 2), torch.nan),
        b.choice, b.gold,
    )  # fmt: skip
    score = (b.yes - b.no)[0]
    expected = -torch.log_softmax(score, dim=0)[0]
    assert float(listwise(b)) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("which", ["list_mle", "rank_net", "lambda", "list_net"])
def test_library_losses_fall_when_scores_follow_the_grades(which) -> None:
    b = batch(1, rows=6, slots=6)
    grades = b.scores.nan_to_num(0.5).double()
    good = RerankBatch(grades * 4, -grades * 4, b.present, grades, b.choice, b.gold)
    bad = RerankBatch(-grades * 4, grades * 4, b.present, grades, b.choice, b.gold)
    assert float(listwise(good, which=which)) < float(listwise(bad, which=which))


def test_nothing_to_learn_from_is_zero_with_a_gradient() -> None:
    b = batch(1)
    yes = b.yes.clone().requires_grad_()
    empty = RerankBatch(
        yes, b.no, b.present, torch.full_like(b.scores, torch.nan),
        b.choice[:0], b.gold[:0],
    )  # fmt: skip
    total = yes_no(empty, soft=True) + choose(empty)
    total.backward()
    assert float(total) == 0.0 and yes.grad is not None and not yes.grad.any()


def test_pairwise_and_listwise_are_summed_by_a_recipe() -> None:
    b = batch(2)
    loss = combine([LossTerm(name="yes_no"), LossTerm(name="choose", weight=0.5)], RerankBatch)
    assert float(loss(b).total) == pytest.approx(float(yes_no(b) + 0.5 * choose(b)))
