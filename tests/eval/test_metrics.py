"""Every metric against a naive loop, and what a metric must never reward."""

from __future__ import annotations

from itertools import permutations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import metrics
from eval.intervals import bootstrap_means, interval
from unime.errors import ModelError

# Few distinct values, so that ties are common.
LISTS = st.lists(
    st.lists(
        st.tuples(st.sampled_from([-0.5, 0.0, 0.25, 0.5]), st.booleans()), min_size=1, max_size=6
    ).filter(lambda entries: any(gold for _, gold in entries)),
    min_size=1,
    max_size=5,
)


def flat(lists):
    similarities = np.array([s for entries in lists for s, _ in entries], dtype=np.float32)
    gold = np.array([g for entries in lists for _, g in entries])
    return similarities, gold, np.cumsum([0, *map(len, lists)])


@given(LISTS, st.integers(1, 7))
def test_hit_and_recall_equal_a_naive_loop_with_ties_against_the_model(lists, k):
    similarities, gold, offsets = flat(lists)
    hits = metrics.hit_at(metrics.rank_gold(similarities, gold, offsets), k)
    recalls = metrics.recall_at(similarities, gold, offsets, k)
    for entries, hit, recall in zip(lists, hits, recalls, strict=True):
        first = sorted(entries, key=lambda entry: (-entry[0], entry[1]))[:k]
        assert hit == any(g for _, g in first)
        assert recall == sum(g for _, g in first) / sum(g for _, g in entries)


@given(LISTS, st.integers(1, 7))
def test_expected_hit_is_the_mean_over_all_orders_of_the_ties(lists, k):
    similarities, gold, offsets = flat(lists)
    expected = metrics.expected_hit_at(metrics.rank_gold(similarities, gold, offsets), k)
    for entries, value in zip(lists, expected, strict=True):
        orders = [sorted(order, key=lambda e: -e[0])[:k] for order in permutations(entries)]
        naive = np.mean([any(g for _, g in order) for order in orders])
        assert value == pytest.approx(naive)


@given(LISTS, st.integers(1, 7))
def test_chance_counts_draws_without_a_gold_candidate(lists, k):
    _, gold, offsets = flat(lists)
    for entries, value in zip(lists, metrics.chance_hit_at(gold, offsets, k), strict=True):
        wrong = sum(not g for _, g in entries)
        drawn = min(k, len(entries))
        assert value == pytest.approx(1 - comb(wrong, drawn) / comb(len(entries), drawn))


@given(LISTS, st.randoms(use_true_random=False))
def test_the_order_of_candidates_never_matters(lists, random):
    shuffled = [random.sample(entries, len(entries)) for entries in lists]
    assert np.array_equal(metrics.rank_gold(*flat(lists)), metrics.rank_gold(*flat(shuffled)))


@given(LISTS)
def test_the_strongest_wrong_candidate_is_the_first_of_the_best(lists):
    similarities, gold, offsets = flat(lists)
    entries, best = metrics.strongest_wrong(similarities, gold, offsets)
    for query, (candidates, entry) in enumerate(zip(lists, entries, strict=True)):
        wrong = [(-s, i) for i, (s, g) in enumerate(candidates) if not g]
        assert entry == (min(wrong)[1] + offsets[query] if wrong else -1)
        assert best[query] == (-min(wrong)[0] if wrong else -np.inf)


def test_a_constant_scorer_gets_nothing_and_chance_in_expectation():
    gold = np.tile([True, False, False, False], 50)
    offsets = np.arange(0, 201, 4)
    ranks = metrics.rank_gold(np.full(200, 0.3, np.float32), gold, offsets)
    assert metrics.hit_at(ranks, 1).sum() == 0
    assert metrics.expected_hit_at(ranks, 1).mean() == pytest.approx(0.25)
    assert not metrics.pairwise(np.ones(3), np.ones(3)).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_errors(bad):
    values = np.array([0.1, bad], dtype=np.float32)
    with pytest.raises(ModelError, match="1 of 2 similarities are NaN or infinite"):
        metrics.rank_gold(values, np.array([True, False]), np.array([0, 2]))
    with pytest.raises(ModelError, match="NaN or infinite"):
        metrics.pairwise(values, np.zeros(2))
    with pytest.raises(ModelError, match="NaN or infinite"):
        metrics.recall_at(values, np.array([True, False]), np.array([0, 2]), 1)


def test_bootstrap_covers_the_true_mean_about_19_times_of_20():
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        low, high = interval(bootstrap_means(generator.random(300) < 0.3, f"trial {trial}"))
        covered += low <= 0.3 <= high
    assert 178 <= covered <= 200


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40))
def test_bootstrap_has_the_moments_of_resampling(values):
    means = bootstrap_means(np.array(values), "task", resamples=4000)
    spread = np.std(values) / np.sqrt(len(values))
    assert means.mean() == pytest.approx(np.mean(values), abs=5 * spread / np.sqrt(4000) + 1e-9)
    assert means.std() == pytest.approx(spread, rel=0.1, abs=1e-9)
    assert np.array_equal(means, bootstrap_means(np.array(values), "task", resamples=4000))
