"""Sets test pictures aside: no copy, no near-copy and no caption of them stays in training."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from unime.data.dev_split import choose_dev, components
from unime.data.own_data.look import Picture

MAX_BITS = 6
"""Near-copies differ in at most so many of 64 gradient bits ..."""
MAX_COLOUR = 10.0
"""... and by at most so much, of 255, in their thumbnails' colours on average."""
GENERIC_SHARE = 0.02
"""A caption of more than this share of the pictures says nothing about which one is meant."""
ROWS = 1024


class Split(NamedTuple):
    """Which pictures are for the test, and what was found on the way."""

    test: Bool[np.ndarray, " pictures"]
    near: Int[np.ndarray, "pairs 2"]
    """Pairs of pictures that look alike."""
    generic: list[str]
    """Captions that too many pictures share; they hold nothing together."""
    largest_group: int
    """Pictures that hang together and had to stay on one side."""


def split_pictures(pictures: Sequence[Picture], share: float) -> Split:
    """Choose the test pictures by content: the same data in another order gives the same choice.

    Pictures hang together when they look alike or share a caption; a group stays on one side.
    """
    near = near_duplicates(pictures)
    shared, generic = _shared_captions(pictures)
    edges = np.concatenate([near, shared])
    groups = components(edges[:, 0], edges[:, 1], len(pictures))
    ids = np.frombuffer(b"".join(p.hash for p in pictures), dtype=np.uint8).reshape(-1, 16)
    wanted = max(1, round(share * len(pictures)))
    test = choose_dev(groups, np.zeros(len(pictures), dtype=np.int64), ids, [wanted])
    sizes = np.unique(groups, return_counts=True)[1]
    return Split(test, near, generic, int(sizes.max()))


def near_duplicates(pictures: Sequence[Picture]) -> Int[np.ndarray, "pairs 2"]:
    """Return pairs of pictures that look alike: scaled, compressed or slightly changed copies."""
    gradients = np.array([p.gradient for p in pictures], dtype=np.uint64)
    colours = np.array([np.frombuffer(p.colours, dtype=np.uint8) for p in pictures], dtype=np.int16)
    found = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(pictures), ROWS):
        block = gradients[start : start + ROWS, None] ^ gradients[None, start:]
        a, b = np.nonzero(np.bitwise_count(block) <= MAX_BITS)
        a, b = a[a < b] + start, b[a < b] + start
        alike = np.abs(colours[a] - colours[b]).mean(axis=1) <= MAX_COLOUR
        found.append(np.stack([a[alike], b[alike]], axis=1))
    return np.concatenate(found)


def leaks(pictures: Sequence[Picture], split: Split) -> dict[str, int]:
    """Count what test and training have in common, after the split."""
    sides = [
        {text for p, t in zip(pictures, split.test, strict=True) if t == side for text in _plain(p)}
        for side in (True, False)
    ]
    generic = {plain(text) for text in split.generic}
    crossing = split.test[split.near[:, 0]] != split.test[split.near[:, 1]]
    return {
        "near_duplicates": int(crossing.sum()),
        "captions": len((sides[0] & sides[1]) - generic),
        "generic_captions": len(sides[0] & sides[1] & generic),
    }


def plain(caption: str) -> str:
    """Return a caption as it is compared: small letters, no punctuation, single spaces."""
    text = unicodedata.normalize("NFKC", caption).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in text).split()) or caption


def _plain(picture: Picture) -> Iterator[str]:
    return (plain(caption) for caption in picture.captions)


def _shared_captions(
    pictures: Sequence[Picture],
) -> tuple[Int[np.ndarray, "pairs 2"], list[str]]:
    owners: dict[str, list[int]] = defaultdict(list)
    for number, picture in enumerate(pictures):
        for caption in dict.fromkeys(_plain(picture)):
            owners[caption].append(number)
    most = max(3, GENERIC_SHARE * len(pictures))
    generic = sorted(caption for caption, numbers in owners.items() if len(numbers) > most)
    edges = [
        (numbers[0], other)
        for caption, numbers in owners.items()
        if len(numbers) <= most
        for other in numbers[1:]
    ]
    return np.array(edges, dtype=np.int64).reshape(-1, 2), generic
