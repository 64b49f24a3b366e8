"""No query and no picture on both sides, whatever the data look like."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unime.data.dev_split import (
    NEGATIVE,
    NONE,
    POSITIVE,
    QUERY,
    Slots,
    choose_dev,
    foreign_negatives,
    groups_of_pairs,
)


class Made(NamedTuple):
    query: int
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    task: int


# Items 0..19; every even one is a picture (or shows one), two items may show the same picture.
def picture_of(item: int) -> int:
    return NONE if item % 2 else item // 4


ITEMS = st.integers(0, 19)
PAIRS = st.lists(
    st.builds(
        Made,
        ITEMS,
        st.lists(ITEMS, min_size=1, max_size=2).map(tuple),
        st.lists(ITEMS, max_size=3).map(tuple),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=30,
)


def slots_of(pairs: list[Made]) -> Slots:
    rows = [
        (number, item, picture_of(item), role)
        for number, pair in enumerate(pairs)
        for role, items in ((QUERY, (pair.query,)), (POSITIVE, pair.positives),
                            (NEGATIVE, pair.negatives))
        for item in items
    ]  # fmt: skip
    pair, item, picture, role = np.array(rows, dtype=np.int64).T
    return Slots(pair, item.astype(np.int32), picture, role.astype(np.uint8))


def ids_of(pairs: list[Made]) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (20, 16), dtype=np.uint8)[[pair.query for pair in pairs]]


def choose(pairs: list[Made], targets: list[int]) -> np.ndarray:
    tasks = np.array([pair.task for pair in pairs])
    return choose_dev(groups_of_pairs(slots_of(pairs)), tasks, ids_of(pairs), targets)


@given(PAIRS, st.tuples(st.integers(0, 8), st.integers(0, 8)))
def test_nothing_is_on_both_sides(pairs: list[Made], targets: tuple[int, int]) -> None:
    slots, dev = slots_of(pairs), choose(pairs, list(targets))
    kept = ~foreign_negatives(slots, dev)
    side = dev[slots.pair]
    seen = (slots.picture != NONE) & kept
    assert not set(slots.picture[seen & side]) & set(slots.picture[seen & ~side])
    queries = slots.role == QUERY
    assert not set(slots.item[queries & side]) & set(slots.item[queries & ~side])
    for task, target in enumerate(targets):
        assert sum(bool(d) for d, p in zip(dev, pairs, strict=True) if p.task == task) <= target


@given(PAIRS)
def test_only_negatives_with_pictures_of_the_other_side_go(pairs: list[Made]) -> None:
    slots = slots_of(pairs)
    everything_train = np.zeros(len(pairs), dtype=bool)
    assert not foreign_negatives(slots, everything_train).any()
    foreign = foreign_negatives(slots, choose(pairs, [5, 5]))
    assert (slots.role[foreign] == NEGATIVE).all()
    assert (slots.picture[foreign] != NONE).all()


@given(PAIRS, st.randoms(use_true_random=False), st.tuples(st.integers(0, 8), st.integers(0, 8)))
def test_the_choice_depends_on_content_not_on_order(
    pairs: list[Made], random: object, targets: tuple[int, int]
) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    chosen = {p for p, d in zip(pairs, choose(pairs, list(targets)), strict=True) if d}
    again = {p for p, d in zip(shuffled, choose(shuffled, list(targets)), strict=True) if d}
    assert chosen == again


@given(PAIRS)
def test_groups_are_the_connected_components(pairs: list[Made]) -> None:
    found = groups_of_pairs(slots_of(pairs))
    # The slow way: join two pairs whenever they share something, until nothing changes.
    marks = [
        {("query", p.query)}
        | {("picture", picture_of(i)) for i in (p.query, *p.positives) if picture_of(i) != NONE}
        for p in pairs
    ]
    groups = list(range(len(pairs)))
    for _ in pairs:
        for a in range(len(pairs)):
            for b in range(len(pairs)):
                if marks[a] & marks[b]:
                    groups[a] = groups[b] = min(groups[a], groups[b])
    for a in range(len(pairs)):
        for b in range(len(pairs)):
            assert (found[a] == found[b]) == (groups[a] == groups[b])


def test_shares_are_met_when_pairs_stand_alone() -> None:
    pairs = [Made(1, (3,), (), i % 2) for i in range(400)]
    numbers = np.arange(400)
    ids = np.random.default_rng(1).integers(0, 256, (400, 16), dtype=np.uint8)
    dev = choose_dev(numbers, np.array([p.task for p in pairs]), ids, [20, 7])
    assert np.bincount(numbers[dev] % 2).tolist() == [20, 7]
