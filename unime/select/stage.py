"""`unime select`: drop false negatives by the judge's scores, then choose diverse hard negatives.

A rule says which candidates are dropped (`RULES`). What survives is ordered by score, highest
first (equal scores: more similar first, then as mined), or by similarity, and sampled in cyclic
order: positions 0, 5, 10, ..., then 1, 6, 11, ... (UniME-V2, arXiv 2510.13515, section 3.3). A
query gets up to `negatives`; where fewer survive the rest is -1, never filled with what was dropped.

A candidate without a score is dropped wherever scores are used: nothing says that it is no false
negative. A positive without a score leaves no relative cut: `relative` then drops all of the
query's candidates, `either` falls back on its absolute cut. Both are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator

from unime.core import console
from unime.core.config import Recipe
from unime.core.errors import DataError, RecipeError, lookup
from unime.core.provenance import Output
from unime.data.stage_tables import read_judged, read_mined
from unime.data.tables import ROWS, cyclic_order, read_table, write_table

Kept = Bool[np.ndarray, " candidates"]


class SelectRecipe(Recipe):
    """Choose negatives among mined, judged candidates."""

    mined: str
    """The output of `unime mine`."""
    judged: str | None = None
    """The output of `unime judge score`; not needed by rules on similarities."""
    rule: str = "either"
    """Which candidates are dropped; see `RULES`."""
    negatives: int = Field(default=10, gt=0)
    """How many negatives a query gets at most."""
    step: int = Field(default=5, gt=0)
    """Step of the cyclic sampling; 1 takes the first ones of the order."""
    order: Literal["score", "similarity"] = "score"
    """Hardest first: what the judge found most nearly right (UniME-V2), or what the miner confuses most
    with the positive. The second where scores of wrong candidates say little, as an oracle's."""
    relative_margin: float = Field(default=0.01, ge=-1, le=1)
    """beta of the rule on the positive's score; UniME-V2's value."""
    absolute_cut: float = Field(default=0.5, ge=0, le=1)
    """The score above which a candidate counts as relevant whatever the positive's is."""
    similarity_margin: float = Field(default=0.1, ge=-2, le=2)
    """beta of the rule on similarities; UniME's value."""

    @model_validator(mode="after")
    def _rule_has_what_it_needs(self) -> SelectRecipe:
        lookup(RULES, self.rule, "rule")
        if self.rule in JUDGED_RULES and self.judged is None:
            raise RecipeError(f"rule '{self.rule}' needs scores: set judged=FOLDER, or rule=none")
        return self


RECIPE = SelectRecipe


class Candidates(NamedTuple):
    """All candidates of all rows, one after the other, with their rows' positives beside them."""

    rows: Int[np.ndarray, " candidates"]
    """Which row of the mined table a candidate belongs to; ascending."""
    items: Int[np.ndarray, " candidates"]
    similarities: Float[np.ndarray, " candidates"]
    scores: Float[np.ndarray, " candidates"]
    """NaN where unscored, or without a judge."""
    positive_similarities: Float[np.ndarray, " candidates"]
    positive_scores: Float[np.ndarray, " candidates"]


def relative(candidates: Candidates, recipe: SelectRecipe) -> Kept:
    """Drop score > s+ - beta (UniME-V2, section 3.3).

    A false negative's score is exchangeable with the positive's, so about half of them survive
    this rule at any quality of the judge.
    """
    return candidates.scores <= candidates.positive_scores - recipe.relative_margin


def absolute(candidates: Candidates, recipe: SelectRecipe) -> Kept:
    """Drop score > the calibrated cut."""
    return candidates.scores <= recipe.absolute_cut


def either(candidates: Candidates, recipe: SelectRecipe) -> Kept:
    """Drop score > min(s+ - beta, the calibrated cut): what either rule drops."""
    # fmin: a positive without a score leaves the absolute cut alone.
    cut = np.fmin(candidates.positive_scores - recipe.relative_margin, recipe.absolute_cut)
    return candidates.scores <= cut


def similarity(candidates: Candidates, recipe: SelectRecipe) -> Kept:
    """Drop similarity > the positive's + beta (UniME, arXiv 2504.17432, section 3.3); no judge."""
    return candidates.similarities <= candidates.positive_similarities + recipe.similarity_margin


def keep_all(candidates: Candidates, recipe: SelectRecipe) -> Kept:
    """Drop nothing."""
    del recipe
    return np.ones(len(candidates.rows), dtype=bool)


RULES: dict[str, Callable[[Candidates, SelectRecipe], Kept]] = {
    "relative": relative,
    "absolute": absolute,
    "either": either,
    "similarity": similarity,
    "none": keep_all,
}

JUDGED_RULES = ("relative", "absolute", "either")
"""Rules on scores; the others drop nothing for want of a score."""


def inputs(recipe: SelectRecipe) -> dict[str, Path]:
    """Return what the stage reads."""
    places = {"mined": recipe.mined, "judged": recipe.judged}
    return {name: Path(place) for name, place in places.items() if place is not None}


def run(recipe: SelectRecipe, out: Output) -> None:
    """Choose negatives and write `rows.parquet`; say what was dropped."""
    mined, judged = _read(recipe)
    candidates = _gather(mined, judged)
    kept = RULES[recipe.rule](candidates, recipe)
    negatives = choose(candidates, kept, mined.num_rows, recipe)
    write_table(out.file("rows.parquet"), _rows_table(mined, judged, candidates, negatives))
    _report(recipe, candidates, kept, negatives, out)
    if recipe.judged is not None:
        _report_truth(recipe, candidates, out)


def choose(
    candidates: Candidates, kept: Kept, num_rows: int, recipe: SelectRecipe
) -> Int[np.ndarray, "rows negatives"]:
    """Return each row's chosen candidates, as positions in `candidates`; -1 where fewer survive."""
    survivors = np.flatnonzero(kept)
    # NaN, a candidate without a score, sorts last.
    hardness = [-candidates.similarities[survivors], -candidates.scores[survivors]]
    if recipe.order == "similarity":
        hardness.reverse()
    survivors = survivors[np.lexsort((*hardness, candidates.rows[survivors]))]
    counts = np.bincount(candidates.rows[survivors], minlength=num_rows)
    starts = np.concatenate([[0], counts.cumsum()])
    negatives = recipe.negatives
    chosen = np.full((num_rows, negatives), -1, dtype=np.int64)
    orders = {
        count: cyclic_order(count, recipe.step)[:negatives] for count in np.unique(counts).tolist()
    }
    for row, count in enumerate(counts.tolist()):
        places = orders[count]
        chosen[row, : len(places)] = survivors[starts[row] + places]
    return chosen


def _read(recipe: SelectRecipe) -> tuple[pa.Table, pa.Table | None]:
    mined = read_mined(Path(recipe.mined))
    if recipe.judged is None:
        return mined, None
    judged = read_judged(Path(recipe.judged))
    same = mined["pair"].equals(judged["pair"]) and _lengths(mined, "candidates").equals(
        _lengths(judged, "scores")
    )
    if not same:
        raise DataError(f"{recipe.judged} does not score the candidates of {recipe.mined}")
    return mined, judged


def _lengths(table: pa.Table, column: str) -> pa.Array:
    return table[column].combine_chunks().value_lengths()


def _gather(mined: pa.Table, judged: pa.Table | None) -> Candidates:
    lengths = _lengths(mined, "candidates").to_numpy()
    rows = np.repeat(np.arange(mined.num_rows), lengths)
    unscored = np.full(len(rows), np.nan)
    return Candidates(
        rows,
        _flat(mined, "candidates"),
        _flat(mined, "similarities").astype(np.float64),
        unscored if judged is None else _flat(judged, "scores").astype(np.float64),
        mined["positive_similarity"].to_numpy().astype(np.float64)[rows],
        unscored if judged is None else judged["positive_score"].to_numpy().astype(float)[rows],
    )


def _flat(table: pa.Table, column: str) -> np.ndarray:
    return table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)


def _rows_table(
    mined: pa.Table, judged: pa.Table | None, candidates: Candidates, chosen: np.ndarray
) -> pa.Table:
    present = chosen >= 0
    items = np.where(present, _take(candidates.items, chosen), -1).astype(np.int32)
    scores = np.where(present, _take(candidates.scores, chosen), np.nan)
    positives = (
        np.full(mined.num_rows, np.nan) if judged is None else judged["positive_score"].to_numpy()
    )
    both = np.concatenate([positives[:, None], scores], axis=1).astype(np.float32)
    columns = [mined["pair"].combine_chunks(), _lists(items), _lists(both)]
    return pa.Table.from_arrays(columns, schema=ROWS)


def _take(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return `values[places]`, also when there are no values and all places are -1."""
    return np.append(values, values.dtype.type(0))[places]


def _lists(matrix: np.ndarray) -> pa.ListArray:
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * np.int32(matrix.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.ravel()))


def _report(
    recipe: SelectRecipe, candidates: Candidates, kept: Kept, chosen: np.ndarray, out: Output
) -> None:
    found = (chosen >= 0).sum(axis=1)
    first = np.unique(candidates.rows, return_index=True)[1]
    facts = {
        "candidates": len(kept),
        "dropped": int((~kept).sum()),
        "kept": int(kept.sum()),
        "chosen": int(found.sum()),
        "queries": len(chosen),
        "queries_with_fewer": int((found < recipe.negatives).sum()),
        "queries_with_none": int((found == 0).sum()),
        "unscored_candidates": int(np.isnan(candidates.scores).sum()),
        "unscored_positives": int(np.isnan(candidates.positive_scores[first]).sum()),
    }
    out.facts(**facts)
    console.log(
        f"select, rule '{recipe.rule}': {facts['dropped']} of {facts['candidates']} candidates "
        f"dropped, {facts['kept']} kept, {facts['chosen']} chosen for {facts['queries']} queries; "
        f"{facts['queries_with_fewer']} queries have fewer than {recipe.negatives} negatives, "
        f"{facts['queries_with_none']} of them none"
    )
    if recipe.judged is not None and (facts["unscored_candidates"] or facts["unscored_positives"]):
        console.log(
            f"select: {facts['unscored_candidates']} candidates and "
            f"{facts['unscored_positives']} positives have no score"
        )


def _report_truth(recipe: SelectRecipe, candidates: Candidates, out: Output) -> None:
    """Where the judge left a known truth, say what the rule removed, with `relative` beside it."""
    path = Path(str(recipe.judged)) / "truth.parquet"
    if not path.is_file():
        return
    table = read_table(path)
    kinds = {
        "planted false negatives": _flat(table, "planted"),
        "all false negatives": _flat(table, "relevant"),
        "true negatives": ~_flat(table, "relevant"),
    }
    facts: dict[str, dict[str, dict[str, int]]] = {}
    for name in dict.fromkeys([recipe.rule, "relative"]):
        dropped = ~RULES[name](candidates, recipe)
        facts[name] = {
            kind: {"removed": int((dropped & of_kind).sum()), "of": int(of_kind.sum())}
            for kind, of_kind in kinds.items()
        }
        parts = [
            f"{count['removed']} of {count['of']} {kind}"
            + (f" ({100 * count['removed'] / count['of']:.1f} %)" if count["of"] else "")
            for kind, count in facts[name].items()
        ]
        console.log(f"select, rule '{name}' removes {', '.join(parts)}")
    out.facts(truth=facts)
