"""How embeddings lie on the sphere: alignment, uniformity, modality gap.

Source: Wang and Isola 2020, Understanding Contrastive Representation Learning through Alignment
and Uniformity on the Hypersphere; Liang et al. 2022, Mind the Gap.
"""

from __future__ import annotations

import numpy as np

SAMPLE = 2000
"""Embeddings of a side that uniformity looks at."""


def geometry(
    values: np.ndarray, queries: np.ndarray, golds: np.ndarray, has_image: np.ndarray
) -> dict[str, float | None]:
    """Return the three numbers of one task, rounded.

    Args:
        values: embeddings of the pool `(encodes, dim)`.
        queries: (n,) rows.
        golds: (n,) rows of a right answer each.
        has_image: (encodes,) bool.

    Returns:
        `alignment`: mean squared distance of query and gold, 0 is best. `uniformity`: log of the
        mean Gaussian potential of different queries and golds, lower is more even. `modality_gap`:
        distance of the centres of the query and the gold embeddings where one side has pictures
        and the other has not, else None.
    """
    left, right = np.asarray(values[queries]), np.asarray(values[golds])
    both = np.unique(np.concatenate([queries, golds]))
    generator = np.random.default_rng(0)
    if len(both) > SAMPLE:
        both = np.sort(generator.choice(both, SAMPLE, replace=False))
    sample = np.asarray(values[both], dtype=np.float64)
    squared = np.maximum(2 - 2 * (sample @ sample.T)[np.triu_indices(len(sample), 1)], 0)
    gap = None
    if has_image[queries].all() != has_image[golds].all():
        gap = float(np.linalg.norm(left.mean(axis=0) - right.mean(axis=0)))
    return {
        "alignment": _rounded(((left - right) ** 2).sum(axis=1).mean()),
        "uniformity": _rounded(np.log(np.exp(-2 * squared).mean())) if len(squared) else None,
        "modality_gap": None if gap is None else _rounded(gap),
    }


def _rounded(value: float | np.floating) -> float:
    return round(float(value), 4)
