"""Pictures with captions, several a picture: R@1/5/10 both ways over the whole set.

The files may have any form of `unime/eval/runners/caption_forms.py`.
`image_to_text` is right when any caption of the picture is among the first
k, as the CLIP literature counts it; `text_to_image` when the caption's picture is. Candidates
equal in content to a right one are right, and queries equal in content share their right answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unime.core.errors import DataError, RecipeError, did_you_mean, lookup
from unime.eval.benchmark import TaskSpec
from unime.eval.pool import Pool
from unime.eval.runners.caption_forms import FORMS
from unime.eval.runners.whole_set import WholeSet

METRICS: tuple[str, ...] = ("R@1",)
AT = tuple(f"R@{k}" for k in (1, 5, 10))
DIRECTIONS = ("image_to_text", "text_to_image")


def read(spec: TaskSpec, pool: Pool) -> WholeSet:
    """Read one direction."""
    if spec.name not in DIRECTIONS:
        raise RecipeError(
            f"{spec.benchmark}: unknown direction '{spec.name}'{did_you_mean(spec.name, DIRECTIONS)}"
        )
    read_file = lookup(FORMS, spec.form or "folder", f"form of benchmark {spec.benchmark}:")
    records = [record for path in spec.paths() for record in read_file(path, spec)]
    records = records[: spec.pictures][: spec.limit]
    if not records:
        raise DataError(f"{spec.benchmark}: {spec.root / spec.files} holds no pictures")
    return _parse(spec, [(image, texts[: spec.captions]) for image, texts in records], pool)


def _parse(spec: TaskSpec, records: Sequence[tuple[str, list[str]]], pool: Pool) -> WholeSet:
    task = spec.definition
    by_picture = spec.name == "image_to_text"
    owner = np.repeat(np.arange(len(records)), [len(captions) for _, captions in records])
    pictures = [image for image, _ in records]
    captions = [caption for _, captions in records for caption in captions]
    image_rows = pool.add(
        [""] * len(pictures),
        pictures,
        [task.query_instruction if by_picture else task.target_instruction] * len(pictures),
        root=spec.root,
        side="query" if by_picture else "target",
    )
    text_rows = pool.add(
        captions,
        [None] * len(captions),
        [task.target_instruction if by_picture else task.query_instruction] * len(captions),
        root=spec.root,
        side="target" if by_picture else "query",
    )
    if by_picture:
        return _whole_set(spec.name, image_rows, text_rows, owner, np.arange(len(captions)))
    return _whole_set(spec.name, text_rows, image_rows, np.arange(len(captions)), owner)


def _whole_set(
    name: str,
    queries: np.ndarray,
    candidates: np.ndarray,
    pair_query: np.ndarray,
    pair_candidate: np.ndarray,
) -> WholeSet:
    """Join right answers over equal contents, of queries and of candidates.

    Args:
        name: the task.
        queries: (n,) pool rows.
        candidates: (m,) pool rows.
        pair_query: (pairs,) indices into `queries`.
        pair_candidate: (pairs,) indices into `candidates`, right for the query beside it.
    """
    places: dict[int, list[int]] = {}
    for place, row in enumerate(candidates.tolist()):
        places.setdefault(row, []).append(place)
    contents, groups = np.unique(queries, return_inverse=True)
    golds: list[set[int]] = [set() for _ in contents]
    for query, candidate in zip(groups[pair_query], candidates[pair_candidate], strict=True):
        golds[query].update(places[int(candidate)])
    gold_lists = [np.array(sorted(gold)) for gold in golds]
    return WholeSet(name, queries, candidates, groups, gold_lists, None, AT)
