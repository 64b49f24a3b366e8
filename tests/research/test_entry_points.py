"""What research adds to unime by entry points is there."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

GROUPS = {"unime.stages": 1, "unime.judge_engines": 2, "unime.truth": 1}


@pytest.mark.parametrize("group", GROUPS)
def test_every_entry_point_is_found(group: str):
    points = [p for p in entry_points(group=group) if p.value.startswith("research.")]
    assert len(points) == GROUPS[group]
    assert all(callable(p.load()) or isinstance(p.load(), dict) for p in points)
