"""Intervals over seeds and queries together: the hierarchical bootstrap.

A resample draws seeds with replacement, and for each drawn seed the queries of every data set,
anew even where a seed is drawn twice. Two rows are compared on the same draws of both. With three
seeds the spread between seeds is known badly and comes out too small (by a third of its variance
on average): such intervals are a lower bound on the doubt.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from unime.eval.intervals import RESAMPLES, bootstrap_means

Seed = Mapping[str, np.ndarray]
"""Of one seed, by data set, (queries,) values: hits, or differences of hits."""


def resampled(seeds: Sequence[Seed], resamples: int = RESAMPLES) -> Float[np.ndarray, " resamples"]:
    """Return the mean over seeds of the mean over data sets, resampled.

    Args:
        seeds: of each seed the values by data set; the same sets for all.
        resamples: how many.
    """
    drawn = _generator("seeds", len(seeds)).integers(len(seeds), size=(resamples, len(seeds)))
    total = np.zeros(resamples)
    for slot in range(len(seeds)):
        # (seeds, resamples): whichever seed a resample has drawn for this slot, its own queries.
        means = np.stack([_macro(seed, f"{i}/{slot}", resamples) for i, seed in enumerate(seeds)])
        total += means[drawn[:, slot], np.arange(resamples)]
    return total / len(seeds)


def _macro(seed: Seed, name: str, resamples: int) -> np.ndarray:
    draws = [bootstrap_means(seed[task], f"{name}/{task}", resamples) for task in sorted(seed)]
    return np.mean(draws, axis=0)


def _generator(name: str, number: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(name.encode()), number])
