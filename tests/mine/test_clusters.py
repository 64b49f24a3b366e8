"""SaHa clusters: every row in one, mates whose targets look right and whose queries differ."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unime.mine.clusters import ClusterSection, make_clusters


def unit(rows: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@settings(max_examples=25)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 3), st.integers(1, 20))
def test_every_row_is_in_a_cluster_and_no_cluster_repeats_a_target(rows, mates, pool, kinds):
    contents = np.arange(rows) % kinds
    section = ClusterSection(mates=mates, pool=pool)
    clusters = make_clusters(unit(rows, 0), unit(kinds, 1)[contents], contents, section)
    assert clusters.shape[1] == mates + 1
    assert set(clusters.ravel().tolist()) == set(range(rows))
    for anchor, *others in clusters.tolist():
        real = [row for row in others if row != anchor]
        assert len(set(real)) == len(real)
        assert all(contents[row] != contents[anchor] for row in real)


@pytest.mark.parametrize("keep_order", [False, True])
def test_of_the_near_targets_those_of_unlike_queries_are_mates(keep_order):
    """Rows 1 to 4 have targets near the anchor's query; the queries of 3 and 4 are unlike it."""
    east, west = np.array([1.0, 0.0]), np.array([-1.0, 0.0])
    queries = np.stack([east, east, east, west, west, west, west]).astype(np.float32)
    targets = np.stack([east] * 5 + [west] * 2).astype(np.float32)
    targets[1:5, 1] = [0.01, 0.02, 0.03, 0.04]
    section = ClusterSection(mates=2, pool=2)
    first = make_clusters(queries, targets, np.arange(7), section, keep_order=keep_order)[0]
    assert first.tolist()[0] == 0
    assert set(first.tolist()[1:]) == ({1, 2} if keep_order else {3, 4})
