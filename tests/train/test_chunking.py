"""Every input is in exactly one chunk, no chunk exceeds the budget, kinds do not mix."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unime.models.model_config import ModelConfig
from unime.train.chunking import GROUP, PIXELS, TOKENS, ChunkBudget, estimate_sizes, plan_chunks

SIZES = st.lists(
    st.tuples(st.integers(1, 300), st.sampled_from([0, 0, 400, 3000]), st.integers(0, 1)),
    min_size=1,
    max_size=60,
).map(np.array)


@settings(max_examples=80, deadline=None)
@given(SIZES, st.integers(1, 900), st.integers(1, 9000), st.integers(1, 20))
def test_chunks_partition_the_batch_within_the_budget(sizes, tokens, pixels, items):
    budget = ChunkBudget(tokens=tokens, pixels=pixels, items=items)
    plan = plan_chunks(sizes, budget)
    assert sorted(plan.places(0)) == list(range(len(sizes)))
    chunks = plan.chunks[0]
    for chunk in chunks:
        assert len({(sizes[p, PIXELS] > 0, sizes[p, GROUP]) for p in chunk}) == 1
        assert len(chunk) == 1 or within([chunk], sizes, budget)
    assert plan.kept == 1 or within(chunks[-plan.kept :], sizes, budget)
    assert plan.kept == len(chunks) or not within(chunks[-plan.kept - 1 :], sizes, budget)


def within(chunks, sizes: np.ndarray, budget: ChunkBudget) -> bool:
    padded = sum(len(chunk) * max(sizes[place, TOKENS] for place in chunk) for chunk in chunks)
    pixels = sum(sizes[place, PIXELS] for chunk in chunks for place in chunk)
    items = sum(map(len, chunks))
    return padded <= budget.tokens and pixels <= budget.pixels and items <= budget.items


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(1, 900), st.integers(2, 5))
def test_processes_share_a_batch_in_step(sizes, tokens, world):
    """Every input once; equally many chunks; image chunks at the same places everywhere."""
    plan = plan_chunks(sizes, ChunkBudget(tokens=tokens), world)
    assert sorted(p for rank in range(world) for p in plan.places(rank)) == list(range(len(sizes)))
    kinds = [[sizes[places[0], PIXELS] > 0 for places in chunks] for chunks in plan.chunks]
    assert all(kind == kinds[0] for kind in kinds)
    assert 1 <= plan.kept <= len(kinds[0])
    dummies = sum(map(sum, plan.dummies))
    assert dummies < 2 * world
    if len(sizes) >= 8 * world and not sizes[:, PIXELS].any():
        assert not dummies


def test_one_process_gets_no_five_times_the_work_of_the_other():
    sizes = np.array([(100, 0, 0)] * 80 + [(120, 9000, 0)] * 16)
    plan = plan_chunks(sizes, ChunkBudget(tokens=1600), 2)
    work = [sizes[plan.places(rank)][:, [TOKENS, PIXELS]].sum() for rank in (0, 1)]
    assert max(work) < 1.2 * min(work)


def test_a_batch_that_fits_needs_no_second_pass():
    sizes = np.array([(20, 0, 0)] * 30 + [(40, 4096, 0)] * 30)
    plan = plan_chunks(sizes, ChunkBudget(tokens=60 * 40, pixels=30 * 4096))
    assert plan.kept == len(plan.chunks[0]) == 2


def test_long_texts_do_not_pad_short_ones():
    plan = plan_chunks(np.array([(10, 0, 0)] * 40 + [(200, 0, 0)] * 40), ChunkBudget())
    assert [len(places) for places in plan.chunks[0]] == [40, 40]


def test_sizes_know_the_pixel_limits_and_the_longest_length():
    model = ModelConfig(id="x", min_pixels=784, max_pixels=7840, max_length=100)
    characters, pixels = np.array([4, 4, 10**6]), np.array([10, 10**6, 0])
    small, large, long = estimate_sizes(characters, pixels, model)
    assert (small[PIXELS], large[PIXELS], long[PIXELS]) == (784, 7840, 0)
    assert large[TOKENS] == small[TOKENS] + 9
    assert long[TOKENS] == 100
    assert estimate_sizes(characters, pixels, model, "target")[:, GROUP].tolist() == [1, 1, 1]
