"""Exact top-k and ranks against brute force, in every blocking."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unime.mine.exact_search import exact_ranks, exact_topk


def brute_force(queries, corpus, k, exclude, ceilings=None):
    """One query at a time, by Python's stable sort."""
    found = []
    for number, query in enumerate(queries):
        similarities = corpus.astype(np.float32) @ query.astype(np.float32)
        rows = [row for row in range(len(corpus)) if row not in set(exclude[number])]
        if ceilings is not None:
            rows = [row for row in rows if similarities[row] <= ceilings[number]]
        rows = sorted(rows, key=lambda row: -similarities[row])[:k]
        found.append(rows + [-1] * (k - len(rows)))
    return np.array(found)


@st.composite
def searches(draw):
    """Small integer embeddings: products are exact, so ties are real ties in every blocking."""
    num_queries = draw(st.integers(1, 6))
    num_rows = draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queries = rng.integers(-2, 3, (num_queries, 3)).astype(np.float16)
    corpus = rng.integers(-2, 3, (num_rows, 3)).astype(np.float16)
    exclude = [
        rng.choice(num_rows, rng.integers(0, num_rows + 1), replace=False).tolist()
        for _ in range(num_queries)
    ]
    return queries, corpus, draw(st.integers(1, 25)), exclude


@settings(max_examples=150, deadline=None)
@given(searches(), st.integers(1, 7), st.integers(1, 21), st.integers(1, 9), st.booleans())
def test_topk_equals_brute_force_in_every_blocking(
    search, query_block, corpus_block, group, capped
):
    queries, corpus, k, exclude = search
    ceilings = np.linspace(-2, 4, len(queries)) if capped else None
    blocks = {"query_block": query_block, "corpus_block": corpus_block}
    with patch("unime.mine.exact_search.GROUP", group):
        rows, similarities = exact_topk(queries, corpus, k, exclude, ceilings, **blocks)
    assert rows.tolist() == brute_force(queries, corpus, k, exclude, ceilings).tolist()
    assert np.isneginf(similarities[rows < 0]).all()
    query, place = np.nonzero(rows >= 0)
    expected = (queries @ corpus.T)[query, rows[query, place]]
    assert (similarities[query, place] == expected).all()


@settings(max_examples=100, deadline=None)
@given(searches(), st.integers(1, 7), st.integers(1, 21), st.data())
def test_ranks_equal_brute_force(search, query_block, corpus_block, data):
    queries, corpus, _, exclude = search
    target = data.draw(
        st.lists(st.integers(0, len(corpus) - 1), min_size=len(queries), max_size=len(queries))
    )
    ranks, similarities = exact_ranks(
        queries,
        corpus,
        np.array(target),
        exclude,
        query_block=query_block,
        corpus_block=corpus_block,
    )
    products = (queries @ corpus.T).astype(np.float32)
    for number, row in enumerate(target):
        others = set(range(len(corpus))) - set(exclude[number]) - {row}
        ahead = sum(products[number, other] >= products[number, row] for other in others)
        assert ranks[number] == 1 + ahead
        assert similarities[number] == products[number, row]


def test_real_vectors_agree_with_a_full_sort():
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(50, 32)).astype(np.float32)
    corpus = rng.normal(size=(3000, 32)).astype(np.float32)
    rows, similarities = exact_topk(queries, corpus, 50, query_block=16, corpus_block=700)
    products = queries @ corpus.T
    assert (rows == np.argsort(-products, axis=1, kind="stable")[:, :50]).all()
    np.testing.assert_allclose(similarities, np.take_along_axis(products, rows, 1), atol=1e-5)


def test_a_nan_embedding_is_refused():
    corpus = np.zeros((3, 2), dtype=np.float32)
    corpus[1, 0] = np.nan
    with pytest.raises(AssertionError, match="NaN"):
        exact_topk(np.ones((1, 2), dtype=np.float32), corpus, 2)
