"""Every metric against a naive loop, and what a metric must never reward."""

from __future__ import annotations

from itertools import permutations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unime.core.errors import ModelError
from unime.eval import intervals, metrics, order_metrics
from unime.eval.intervals import bootstrap_means, interval

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
    assert not order_metrics.satisfied(np.ones((3, 2)), ((0, 1),)).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_errors(bad):
    values = np.array([0.1, bad], dtype=np.float32)
    with pytest.raises(ModelError, match="1 of 2 similarities are NaN or infinite"):
        metrics.rank_gold(values, np.array([True, False]), np.array([0, 2]))
    with pytest.raises(ModelError, match="NaN or infinite"):
        order_metrics.satisfied(values[None], ((0, 1),))
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


GRADED = st.lists(
    st.lists(
        st.tuples(st.sampled_from([-0.5, 0.0, 0.25, 0.5]), st.sampled_from([0.0, 1.0, 2.0])),
        min_size=1,
        max_size=5,
    ),
    min_size=1,
    max_size=4,
)


def dcg(gains, k):
    return sum(gain / np.log2(place + 2) for place, gain in enumerate(gains[:k]))


@given(GRADED, st.integers(1, 6))
def test_ndcg_is_the_worst_order_of_the_ties_and_its_expectation_the_mean_over_all(lists, k):
    values, expected = metrics.ndcg_at(*flat_graded(lists), k)
    for entries, value, mean in zip(lists, values, expected, strict=True):
        ideal = dcg(sorted((g for _, g in entries), reverse=True), k) or 1.0
        orders = [
            dcg([g for _, g in sorted(order, key=lambda e: -e[0])], k) / ideal
            for order in permutations(entries)
        ]
        assert value == pytest.approx(min(orders))
        assert mean == pytest.approx(np.mean(orders))


def flat_graded(lists):
    similarities = np.array([s for entries in lists for s, _ in entries], dtype=np.float32)
    gains = np.array([g for entries in lists for _, g in entries], dtype=np.float32)
    return similarities, gains, np.cumsum([0, *map(len, lists)])


def test_ndcg_equals_pytrec_eval_without_ties():
    import pytrec_eval

    generator = np.random.default_rng(0)
    lists = [
        list(zip(generator.permutation(40) / 40, generator.integers(0, 4, 40), strict=True))
        for _ in range(20)
    ]
    qrels = {str(q): {str(d): int(g) for d, (_, g) in enumerate(e)} for q, e in enumerate(lists)}
    run = {str(q): {str(d): float(s) for d, (s, _) in enumerate(e)} for q, e in enumerate(lists)}
    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.5"}).evaluate(run)
    values, _ = metrics.ndcg_at(*flat_graded(lists), 5)
    assert values == pytest.approx([found[str(q)]["ndcg_cut_5"] for q in range(20)], abs=1e-6)


@given(LISTS, st.integers(1, 7))
def test_the_first_k_are_a_sorted_list_with_ties_against_the_model(lists, k):
    similarities, gold, offsets = flat(lists)
    entries, best = metrics.top_at(similarities, gold, offsets, k)
    for number, candidates in enumerate(lists):
        order = sorted(
            range(len(candidates)), key=lambda i: (-candidates[i][0], candidates[i][1], i)
        )
        there = entries[number] >= 0
        assert list(entries[number][there] - offsets[number]) == order[:k]
        assert list(best[number][there]) == [candidates[i][0] for i in order[:k]]
        assert not np.isfinite(best[number][~there]).any()


DEMANDS = {
    "sugarcrepe": (((0, 1),), 1 / 2),
    "sugarcrepe++ picture": (((0, 2), (1, 2)), 1 / 3),
    "sugarcrepe++ text": (((0, 1), (0, 2)), 1 / 3),
    "aro order": (((0, 1), (0, 2), (0, 3), (0, 4)), 1 / 5),
    "winoground text": (((0, 1), (3, 2)), 1 / 4),
    "winoground image": (((0, 2), (3, 1)), 1 / 4),
    "winoground group": (((0, 1), (3, 2), (0, 2), (3, 1)), 1 / 6),
}


@pytest.mark.parametrize(("demands", "chance"), DEMANDS.values(), ids=DEMANDS)
def test_demands_their_chance_and_their_expectation_under_ties(demands, chance):
    places = 1 + max(max(demand) for demand in demands)
    assert order_metrics.chance_satisfied(demands, places) == pytest.approx(chance)
    generator = np.random.default_rng(1)
    values = generator.choice([0.0, 0.25, 0.5], size=(200, places)).astype(np.float32)
    hits = order_metrics.satisfied(values, demands)
    expected = order_metrics.expected_satisfied(values, demands)
    for row, hit, mean in zip(values, hits, expected, strict=True):
        assert hit == all(row[h] > row[low] for h, low in demands)
        broken = [
            all((row[h], order[h]) > (row[low], order[low]) for h, low in demands)
            for order in permutations(range(places))
        ]
        assert mean == pytest.approx(np.mean(broken))
    # A constant model gets nothing, and chance in expectation.
    constant = np.full((3, places), 0.7, dtype=np.float32)
    assert not order_metrics.satisfied(constant, demands).any()
    assert order_metrics.expected_satisfied(constant, demands) == pytest.approx([chance] * 3)
    # A random one is at chance within its interval.
    random = generator.normal(size=(4000, places)).astype(np.float32)
    low, high = interval(bootstrap_means(order_metrics.satisfied(random, demands), "random"))
    assert low - 0.01 <= chance <= high + 0.01


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=1, max_size=30),
    st.integers(1, 4),
)
def test_macro_weights_give_the_mean_of_group_means(items, at_least):
    groups, hits = [g for g, _ in items], np.array([h for _, h in items])
    weights = order_metrics.macro_weights(groups, at_least)
    by_group = {g: [h for name, h in items if name == g] for g in set(groups)}
    means = [np.mean(found) for found in by_group.values() if len(found) >= at_least]
    assert (hits * weights).mean() == pytest.approx(np.mean(means) if means else 0.0)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=25))
def test_spearman_and_auroc_equal_scipy_and_a_loop(pairs):
    from scipy.stats import spearmanr

    left, right = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    found = order_metrics.spearman(left, right)
    if len(set(left)) > 1 and len(set(right)) > 1:
        assert found == pytest.approx(spearmanr(left, right)[0])
    else:
        assert np.isnan(found)
    wins = [(a > b) + 0.5 * (a == b) for a in left for b in right]
    assert order_metrics.auroc(left, right) == pytest.approx(np.mean(wins))


def test_paired_test_finds_a_difference_where_there_is_one_and_seldom_where_none():
    generator = np.random.default_rng(2)
    first = generator.random(400) < 0.4
    better = first | (generator.random(400) < 0.1)
    null = intervals.paired_null(first, better, "t")
    assert intervals.p_value(better.mean() - first.mean(), null) < 0.001
    low, high = interval(intervals.paired_bootstrap(first, better, "t"))
    assert 0 < low < better.mean() - first.mean() < high
    found = 0
    for trial in range(200):
        one, other = generator.random((2, 100)) < 0.5
        null = intervals.paired_null(one, other, f"null {trial}")
        found += intervals.p_value(other.mean() - one.mean(), null) < 0.05
    # 10 are expected; 22 would be four standard deviations above.
    assert found <= 22


def test_the_randomisation_test_equals_going_through_all_sign_flips():
    first = np.array([0.0, 1.0, 0.0, 0.5, 0.0, 1.0])
    second = np.array([1.0, 1.0, 0.5, 1.0, 0.5, 0.0])
    flips = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    exact = flips @ (second - first) / 6
    observed = (second - first).mean()
    wanted = np.mean(np.abs(exact) >= abs(observed) - 1e-12)
    found = intervals.p_value(observed, intervals.paired_null(first, second, "flips"))
    assert found == pytest.approx(wanted, abs=0.02)


def test_holm_corrects_for_many_tasks():
    assert intervals.holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert intervals.holm([]) == []
