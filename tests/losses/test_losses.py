"""Every loss equals a plain loop, for random masks, duplicates, absent and unscored candidates."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.losses import naive
from unime.core.errors import RecipeError
from unime.losses import (
    LOSSES,
    Combined,
    ContrastBatch,
    LossTerm,
    RelationBatch,
    combine,
    info_nce,
    relational_kl,
    soft_label,
)

FLOOR = 1e-9


def random_batch(
    seed: int, rows: int = 5, candidates: int = 7, negatives: int = 3
) -> ContrastBatch:
    """A batch with duplicated queries, shared positives, absent negatives, NaN scores, masks."""
    g = torch.Generator().manual_seed(seed)

    def unit(count: int) -> torch.Tensor:
        values = torch.randn(count, 6, generator=g, dtype=torch.float64)
        return torch.nn.functional.normalize(values, dim=1).requires_grad_()

    query_id = torch.randint(0, rows, (rows,), generator=g)
    distinct = unit(rows)
    scores = torch.rand(rows, 1 + negatives, generator=g, dtype=torch.float64)
    unscored = torch.rand(rows, 1 + negatives, generator=g) < 0.2
    positive = torch.randint(0, candidates, (rows,), generator=g)
    allowed = torch.rand(rows, candidates, generator=g) < 0.8
    allowed[torch.arange(rows), positive] = False
    return ContrastBatch(
        query=distinct[query_id],
        candidates=unit(candidates),
        positive=positive,
        negatives=torch.randint(-1, candidates, (rows, negatives), generator=g),
        scores=scores.masked_fill(unscored, math.nan),
        allowed=allowed,
        related=~allowed & (torch.rand(rows, candidates, generator=g) < 0.5),
        query_id=query_id,
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    negatives=st.integers(0, 4),
    in_batch=st.booleans(),
    threshold=st.sampled_from([None, -0.2, 0.1]),
    hardest=st.sampled_from([None, 1, 3, 100]),
    symmetric=st.booleans(),
)
def test_info_nce_equals_loop(seed, negatives, in_batch, threshold, hardest, symmetric):
    batch = random_batch(seed, negatives=negatives)
    options = {
        "in_batch": in_batch,
        "threshold": threshold,
        "hardest": hardest,
        "symmetric": symmetric,
    }
    value = info_nce(batch, temperature=0.1, **options)
    assert value.item() == pytest.approx(naive.info_nce(batch, 0.1, **options), abs=FLOOR)
    assert_finite_gradient(value, batch)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    negatives=st.integers(0, 4),
    directions=st.sampled_from(["both", "student_judge", "judge_student"]),
    floor=st.sampled_from([None, 0.0, 0.2]),
)
def test_soft_label_equals_loop(seed, negatives, directions, floor):
    batch = random_batch(seed, negatives=negatives)
    value = soft_label(
        batch,
        temperature=0.2,
        judge_temperature=0.5,
        directions=directions,
        positive_floor=floor,
    )
    expected = naive.soft_label(batch, 0.2, 0.5, directions, floor)
    assert value.item() == pytest.approx(expected, abs=FLOOR)
    assert_finite_gradient(value, batch)


@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher", "both"])
@pytest.mark.parametrize("exclude_diagonal", [True, False])
@pytest.mark.parametrize("teacher_temperature", [None, 0.3])
def test_relational_kl_equals_loop(direction, exclude_diagonal, teacher_temperature):
    g = torch.Generator().manual_seed(1)
    student = torch.randn(6, 4, generator=g, dtype=torch.float64)
    teacher = torch.randn(6, 9, generator=g, dtype=torch.float64)
    batch = RelationBatch(student, teacher)
    value = relational_kl(
        batch,
        temperature=0.2,
        teacher_temperature=teacher_temperature,
        direction=direction,
        exclude_diagonal=exclude_diagonal,
    )
    expected = naive.relational_kl(batch, 0.2, teacher_temperature, direction, exclude_diagonal)
    assert value.item() == pytest.approx(expected, abs=FLOOR)


@pytest.mark.parametrize("name", ["info_nce", "soft_label"])
def test_order_of_negatives_and_of_rows_does_not_matter(name):
    batch = random_batch(3, rows=6, negatives=4)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = dataclasses.replace(
        batch,
        negatives=batch.negatives[:, order],
        scores=torch.cat([batch.scores[:, :1], batch.scores[:, 1:][:, order]], dim=1),
    )
    # The naming of a repeat by two different scores would make "the first" depend on order.
    shuffled, batch = without_repeats(shuffled), without_repeats(batch)
    rows = torch.tensor([4, 1, 5, 0, 3, 2])
    permuted = dataclasses.replace(
        shuffled,
        **{
            field: getattr(shuffled, field)[rows]
            for field in ("query", "positive", "negatives", "scores", "allowed", "query_id")
        },
    )
    assert LOSSES[name](permuted).item() == pytest.approx(LOSSES[name](batch).item(), abs=FLOOR)


def test_soft_label_with_one_hot_scores_is_cross_entropy_plus_constant():
    batch = dataclasses.replace(
        random_batch(5, rows=4, candidates=9, negatives=3),
        allowed=torch.ones(4, 9, dtype=torch.bool),
        positive=torch.tensor([0, 1, 2, 3]),
        negatives=torch.tensor([[4, 5, 6], [5, 6, 7], [6, 7, 8], [4, 6, 8]]),
        scores=torch.tensor([[1.0, 0, 0, 0]] * 4, dtype=torch.float64),
    )
    soft = soft_label(batch, temperature=0.1, judge_temperature=1e-3, directions="judge_student")
    hard = info_nce(batch, temperature=0.1, in_batch=False)
    assert soft.item() == pytest.approx(hard.item(), abs=1e-9)


def test_more_scored_columns_than_rows_are_refused_rather_than_broadcast():
    batch = random_batch(1, rows=4, negatives=3)
    with pytest.raises(Exception, match="(?i)scores|size|shape|type"):
        soft_label(dataclasses.replace(batch, scores=batch.scores[:, :2]))


@pytest.mark.parametrize("name", ["info_nce", "soft_label"])
@pytest.mark.parametrize("case", ["no negatives", "all absent", "nothing allowed", "all unscored"])
def test_nothing_to_learn_from_is_zero_with_zero_gradient(name, case):
    batch = random_batch(2, negatives=0 if case == "no negatives" else 3)
    batch = dataclasses.replace(batch, allowed=torch.zeros_like(batch.allowed))
    if case == "all absent":
        batch = dataclasses.replace(batch, negatives=torch.full_like(batch.negatives, -1))
    if case == "all unscored":
        batch = dataclasses.replace(batch, scores=torch.full_like(batch.scores, math.nan))
    value = LOSSES[name](batch)
    assert value.item() == 0.0
    gradient = torch.autograd.grad(value, batch.candidates, allow_unused=True)[0]
    assert gradient is None or torch.equal(gradient, torch.zeros_like(gradient))


def test_one_text_has_no_relations():
    value = relational_kl(RelationBatch(torch.ones(1, 3, requires_grad=True), torch.ones(1, 2)))
    assert value.item() == 0.0


def test_combine_sums_by_weight_and_names_parts():
    batch = random_batch(4)
    total = combine(
        [
            LossTerm(name="info_nce", options={"temperature": 0.1}),
            LossTerm(name="soft_label", weight=0.5),
            LossTerm(name="info_nce", weight=2.0, options={"symmetric": True}),
        ],
        ContrastBatch,
    )(batch)
    expected = (
        info_nce(batch, temperature=0.1)
        + 0.5 * soft_label(batch)
        + 2.0 * info_nce(batch, symmetric=True)
    )
    assert isinstance(total, Combined)
    assert total.total.item() == pytest.approx(expected.item())
    assert list(total.parts) == ["info_nce_1", "soft_label", "info_nce_3"]


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"name": "infonce"}, "unknown loss 'infonce'; did you mean 'info_nce'"),
        (
            {"name": "info_nce", "options": {"temprature": 1}},
            "loss 'info_nce' has no option 'temprature'; did you mean 'temperature'",
        ),
        ({"name": "soft_label", "options": {"directions": "up"}}, r"directions: .*\(got 'up'\)"),
        ({"name": "relational_kl"}, "takes a RelationBatch, this stage has a ContrastBatch; use"),
    ],
)
def test_mistakes_in_a_recipe_are_one_sentence(term, message):
    with pytest.raises(RecipeError, match=message):
        combine([LossTerm(**term)], ContrastBatch)


def assert_finite_gradient(value: torch.Tensor, batch: ContrastBatch) -> None:
    gradients = torch.autograd.grad(value, [batch.query, batch.candidates], allow_unused=True)
    assert all(g is None or torch.isfinite(g).all() for g in gradients)


def without_repeats(batch: ContrastBatch) -> ContrastBatch:
    index = torch.cat([batch.positive[:, None], batch.negatives], dim=1)
    times = (index[:, :, None] == index[:, None, :]).sum(dim=2)[:, 1:]
    return dataclasses.replace(batch, negatives=batch.negatives.masked_fill(times > 1, -1))
