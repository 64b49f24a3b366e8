"""Tell true captions from false ones without the picture: what a text alone gives away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

Pair = tuple[str, str]
"""(true caption, false caption)."""


def caption_classifier(pairs: Sequence[Pair], epochs: int = 12) -> Callable[[str], float]:
    """Fit a logistic model of words, word pairs and length to pairs of captions.

    Args:
        pairs: true and false captions of the training partition.
        epochs: passes over them.

    Returns:
        The score of a text: higher where it looks like a true caption.
    """
    vocabulary: dict[str, int] = {}
    for pair in pairs:
        for text in pair:
            for feature in _features(text):
                vocabulary.setdefault(feature, len(vocabulary))
    differences = [_difference(true, false, vocabulary) for true, false in pairs]
    weights = np.zeros(len(vocabulary))
    generator = np.random.default_rng(0)
    for epoch in range(epochs):
        rate = 0.3 / (1 + epoch)
        for index in generator.permutation(len(differences)):
            places, values = differences[index]
            margin = float(weights[places] @ values)
            weights[places] += rate * (values / (1 + np.exp(margin)) - 1e-3 * weights[places])

    def score(text: str) -> float:
        return float(sum(weights[vocabulary[f]] for f in _features(text) if f in vocabulary))

    return score


def _features(text: str) -> Iterator[str]:
    """Yield words, pairs of neighbouring words, and one mark a word that adds up to the length."""
    words = ["<", *text.split(), ">"]
    yield from words
    yield from (f"{one} {two}" for one, two in pairwise(words))
    yield from ("length" for _ in words)


def _difference(true: str, false: str, vocabulary: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the non-zero places and values of features(true) - features(false)."""
    counts: dict[int, float] = {}
    for text, sign in ((true, 1.0), (false, -1.0)):
        for feature in _features(text):
            place = vocabulary[feature]
            counts[place] = counts.get(place, 0.0) + sign
    kept = [(place, value) for place, value in counts.items() if value]
    places = np.array([place for place, _ in kept], dtype=np.int64)
    return places, np.array([value for _, value in kept])
