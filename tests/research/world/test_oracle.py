"""The oracle's faults come at the rates asked for and depend on the pair alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.world.oracle import OracleOptions
from unime.data.items import content_id, pair_key
from unime.judge.engine import JudgeInput, Request


class EvenTruth:
    """A candidate is relevant when its number is even."""

    def relevant(self, task, query, candidates):
        del task, query
        return np.array([int.from_bytes(one, "big") % 2 == 0 for one in candidates])

    def planted(self, task, query):
        del task, query
        return []


def requests(count):
    query = JudgeInput(content_id("query", None), "query")
    candidates = [JudgeInput(i.to_bytes(16, "big"), f"candidate {i}") for i in range(count)]
    return [
        Request(pair_key(query.id, "", one.id, "judge"), "task", "", query, one)
        for one in candidates
    ]


def scores(options, asked):
    return np.array([score.value for score in options.engine(EvenTruth()).score(asked)])


def test_without_faults_relevance_decides():
    values = scores(OracleOptions(blur=0.0), requests(40))
    assert (values[::2] > 0.9).all() and (values[1::2] < 0.1).all()
    assert len(np.unique(values)) == 2


@pytest.mark.parametrize("flip", [0.05, 0.3])
def test_flip_turns_round_that_share_of_both_kinds(flip):
    values = scores(OracleOptions(flip=flip, blur=0.5), requests(6000))
    wrong = np.concatenate([values[::2] < 0.5, values[1::2] > 0.5]).reshape(2, -1)
    # Three standard deviations of a binomial share over 3,000.
    assert np.abs(wrong.mean(axis=1) - flip).max() < 3 * (flip * (1 - flip) / 3000) ** 0.5


def test_a_larger_flip_flips_a_superset():
    asked = requests(2000)
    clean, few, many = (scores(OracleOptions(flip=f, blur=0), asked) for f in (0, 0.1, 0.4))
    assert ((few != clean) <= (many != clean)).all()
    assert 0 < (few != clean).sum() < (many != clean).sum()


def test_blur_makes_relevant_scores_exchangeable_and_bias_says_yes():
    asked = requests(4000)
    blurred = scores(OracleOptions(blur=1.0), asked)[::2]
    logit = np.log(blurred / (1 - blurred))
    assert abs(logit.mean() - 3) < 0.1 and abs(logit.std() - 1) < 0.1
    biased = scores(OracleOptions(blur=0.0, bias=6.0), asked)
    assert (biased > 0.9).all()


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 11), st.integers(-5, 5))
def test_order_and_company_change_no_score(order, cut, seed):
    options, asked = OracleOptions(flip=0.2, seed=seed), requests(12)
    whole = scores(options, asked)
    parts = [scores(options, [asked[i] for i in part]) for part in (order[:cut], order[cut:])]
    assert (np.concatenate(parts) == whole[order]).all()


def test_seeds_differ():
    asked = requests(50)
    assert (scores(OracleOptions(seed=0), asked) != scores(OracleOptions(seed=1), asked)).all()
