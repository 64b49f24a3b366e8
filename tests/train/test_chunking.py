"""Every encode is in exactly one chunk, no chunk exceeds the budget, kinds do not mix."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from unime.models.model_config import ModelConfig
from unime.train.chunking import Budget, Size, plan_chunks, size_of

SIZES = st.lists(
    st.builds(Size, st.integers(1, 300), st.sampled_from([0, 0, 400, 3000]), st.integers(0, 1)),
    min_size=1,
    max_size=60,
)


@settings(max_examples=80, deadline=None)
@given(SIZES, st.integers(1, 900), st.integers(1, 9000), st.integers(1, 20))
def test_chunks_partition_the_batch_within_the_budget(sizes, tokens, pixels, items):
    budget = Budget(tokens=tokens, pixels=pixels, items=items)
    plan = plan_chunks(sizes, budget)
    assert sorted(plan.places(0)) == list(range(len(sizes)))
    chunks = [cut.places for cut in plan.ranks[0]]
    for chunk in chunks:
        assert len({(sizes[p].pixels > 0, sizes[p].group) for p in chunk}) == 1
        assert len(chunk) == 1 or within([chunk], sizes, budget)
    assert plan.kept == 1 or within(chunks[-plan.kept :], sizes, budget)
    assert plan.kept == len(chunks) or not within(chunks[-plan.kept - 1 :], sizes, budget)


def within(chunks, sizes: list[Size], budget: Budget) -> bool:
    padded = sum(len(chunk) * max(sizes[place].tokens for place in chunk) for chunk in chunks)
    pixels = sum(sizes[place].pixels for chunk in chunks for place in chunk)
    items = sum(map(len, chunks))
    return padded <= budget.tokens and pixels <= budget.pixels and items <= budget.items


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(1, 900), st.integers(2, 5))
def test_processes_share_a_batch_in_step(sizes, tokens, world):
    """Every encode once; equally many chunks; image chunks at the same places everywhere."""
    plan = plan_chunks(sizes, Budget(tokens=tokens), world)
    assert sorted(p for rank in range(world) for p in plan.places(rank)) == list(range(len(sizes)))
    kinds = [[sizes[cut.places[0]].pixels > 0 for cut in hand] for hand in plan.ranks]
    assert all(kind == kinds[0] for kind in kinds)
    assert 1 <= plan.kept <= len(kinds[0])
    dummies = sum(cut.dummy for hand in plan.ranks for cut in hand)
    assert dummies < 2 * world
    if len(sizes) >= 8 * world and not any(size.pixels for size in sizes):
        assert not dummies


def test_one_process_gets_no_five_times_the_work_of_the_other():
    sizes = [Size(100)] * 80 + [Size(120, 9000)] * 16
    plan = plan_chunks(sizes, Budget(tokens=1600), 2)
    shares = [sum(sizes[p].tokens + sizes[p].pixels for p in plan.places(r)) for r in (0, 1)]
    assert max(shares) < 1.2 * min(shares)


def test_a_batch_that_fits_needs_no_second_pass():
    sizes = [Size(20)] * 30 + [Size(40, 4096)] * 30
    plan = plan_chunks(sizes, Budget(tokens=60 * 40, pixels=30 * 4096))
    assert plan.kept == len(plan.ranks[0]) == 2


def test_long_texts_do_not_pad_short_ones():
    plan = plan_chunks([Size(10)] * 40 + [Size(200)] * 40, Budget())
    assert [len(cut.places) for cut in plan.ranks[0]] == [40, 40]


def test_size_knows_the_pixel_limits_and_the_longest_length():
    model = ModelConfig(id="x", min_pixels=784, max_pixels=7840, max_length=100)
    small, large = size_of(4, 10, model), size_of(4, 10**6, model)
    assert (small.pixels, large.pixels) == (784, 7840)
    assert large.tokens == small.tokens + 9
    assert size_of(10**6, 0, model).tokens == 100
