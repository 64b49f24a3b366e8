"""Compositional sets: a few similarities an item, and demands on their order.

SugarCrepe, SugarCrepe++, ARO, Winoground and VALSE differ in their files alone, see
`unime/eval/runners/comparison_forms.py`. A tie is an error of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from unime.core.errors import DataError, lookup
from unime.eval import order_metrics
from unime.eval.benchmark import TaskSpec
from unime.eval.order_metrics import Demands
from unime.eval.pool import Pool, Region
from unime.eval.runners.comparison_forms import FORMS, Content, RowLocation
from unime.eval.scores import TaskScores, ranking_columns
from unime.eval.similarity import Similarities

METRICS: tuple[str, ...] = ("pairwise", "macro")


@dataclass(frozen=True)
class Comparisons:
    """Items with a few pairs of inputs each; rows of the pool."""

    name: str
    metric: str
    left: np.ndarray
    """(n, places) rows."""
    right: np.ndarray
    """(n, places) rows, each compared with the one of `left`."""
    demands: Demands
    ids: list[str]
    groups: list[str]
    """n group names, for macro accuracy."""
    at_least: int

    @property
    def queries(self) -> np.ndarray:
        """(n,) the first encode of each item."""
        return self.left[:, 0]

    @property
    def encodes_without_sharing(self) -> int:
        """The distinct inputs of each item."""
        rows = np.sort(np.concatenate([self.left, self.right], axis=1), axis=1)
        return int((np.diff(rows, axis=1) != 0).sum()) + len(rows)

    def score(self, similarities: Similarities) -> TaskScores:
        """Hold every item's similarities against the demands."""
        places = self.left.shape[1]
        values = np.stack(
            [similarities.pairs(self.left[:, i], self.right[:, i]) for i in range(places)], axis=1
        )
        hit = order_metrics.satisfied(values, self.demands)
        expected = order_metrics.expected_satisfied(values, self.demands)
        weights = order_metrics.macro_weights(self.groups, self.at_least)
        chance = order_metrics.chance_satisfied(self.demands, places)
        scores = {"pairwise": float(hit.mean()), "macro": float((hit * weights).mean())}
        if places == 2:
            scores["auroc"] = order_metrics.auroc(values[:, 0], values[:, 1])
        weighted = self.metric == "macro"
        return TaskScores(
            values=hit * weights if weighted else hit,
            metrics=scores,
            expected=float((expected * weights if weighted else expected).mean()),
            chance={name: 0.5 if name == "auroc" else chance for name in scores},
            per_query=self._table(values, hit, weights),
        )

    def _table(self, values: np.ndarray, hit: np.ndarray, weights: np.ndarray) -> pa.Table:
        rows = np.arange(len(values))[:, None]
        order = np.argsort(-values, axis=1, kind="stable")
        best_right, best_wrong = self.demands[0]
        return pa.table(
            {
                "query": pa.array(self.ids),
                "hit": hit,
                "value": hit * weights if self.metric == "macro" else hit.astype(np.float64),
                "gold_similarity": values[:, best_right],
                "wrong_similarity": values[:, best_wrong],
                "group": pa.array(self.groups),
                **ranking_columns(
                    self.left[:, 0],
                    self.right[:, best_right],
                    self.right[rows, order],
                    values[rows, order],
                ),
            }
        )


def read(spec: TaskSpec, pool: Pool) -> Comparisons:
    """Read one task.

    Raises:
        DataError: for a damaged file, or an item whose demanded pairs are one and the same.
    """
    place = RowLocation(spec.root, spec.images)
    form = lookup(FORMS, spec.form, f"form of benchmark {spec.benchmark}:")
    items = [item for path in spec.paths() for item in form.read(path, place)][: spec.limit]
    if not items:
        raise DataError(f"{spec.benchmark}, task {spec.name}: no items")
    left, right = (
        np.stack(
            [_add(spec, pool, [item.pairs[i][side] for item in items]) for i in range(form.places)],
            axis=1,
        )
        for side in (0, 1)
    )
    for higher, lower in form.demands:
        same = (left[:, higher] == left[:, lower]) & (right[:, higher] == right[:, lower])
        if same.any():
            item = items[int(np.argmax(same))]
            raise DataError(f"{spec.name}: record '{item.id}' has its caption as its negative")
    return Comparisons(
        name=spec.name,
        metric=spec.metric,
        left=left,
        right=right,
        demands=form.demands,
        ids=[item.id for item in items],
        groups=[item.group for item in items],
        at_least=spec.definition.at_least,
    )


def _add(spec: TaskSpec, pool: Pool, contents: list[Content]) -> np.ndarray:
    """Return pool rows: pictures are the queries of these sets, captions the targets."""
    pictures = [content for content in contents if not isinstance(content, str)]
    assert len(pictures) in (0, len(contents)), "a form with pictures and texts at one place"
    definition = spec.definition
    side = "query" if pictures else "target"
    instruction = definition.query_instruction if pictures else definition.target_instruction
    images = [c if isinstance(c, Region) else c.location for c in pictures]
    return pool.add(
        [""] * len(contents) if pictures else [str(content) for content in contents],
        images or [None] * len(contents),
        [instruction] * len(contents),
        root=spec.root,
        side=side,
    )
