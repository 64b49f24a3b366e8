"""What a known truth says about candidates and judge: false negatives reached, AUC, verdicts.

Writes `truth.parquet` beside the scores: for each mined row which candidates are truly relevant,
and which of these are planted false negatives. `unime select` reads it, when it is there, to say
what its rules removed; nothing else does.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from unime.core import console
from unime.core.provenance import Output
from unime.data.data_folder import DataFolder
from unime.data.tables import write_table
from unime.judge.engine import KnownTruth

TRUTH = pa.schema(
    [
        pa.field("pair", pa.int32(), nullable=False),
        pa.field("relevant", pa.list_(pa.bool_()), nullable=False),
        pa.field("planted", pa.list_(pa.bool_()), nullable=False),
    ]
)


class Verdicts(NamedTuple):
    """The truth about all mined candidates, row after row."""

    relevant: Bool[np.ndarray, " candidates"]
    planted: Bool[np.ndarray, " candidates"]
    planted_in_corpus: int
    """Over all rows: planted false negatives of the query among its task's targets."""


def report_truth(
    data: DataFolder, mined: pa.Table, judged: pa.Table, truth: KnownTruth, out: Output
) -> None:
    """Write `truth.parquet`; say how good candidates and judge are."""
    verdicts = look_up(data, mined, truth)
    offsets = mined["candidates"].combine_chunks().offsets
    columns = [pa.array(verdicts.relevant), pa.array(verdicts.planted)]
    lists = [pa.ListArray.from_arrays(offsets, column) for column in columns]
    pairs = mined["pair"].combine_chunks()
    write_table(out.file("truth.parquet"), pa.Table.from_arrays([pairs, *lists], schema=TRUTH))

    scores = judged["scores"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    positives = judged["positive_score"].to_numpy()
    positives = positives[~np.isnan(positives)]
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets.to_numpy()))
    tasks = np.array([data.pair(pair).task for pair in pairs.to_pylist()], dtype=object)[rows]
    values = scores.astype(np.float64)
    by_task = {
        name: auc(values[tasks == name], verdicts.relevant[tasks == name])
        for name in sorted(set(tasks.tolist()))
    }
    facts = {
        "planted_in_corpus": verdicts.planted_in_corpus,
        "planted_among_candidates": int(verdicts.planted.sum()),
        "relevant_among_candidates": int(verdicts.relevant.sum()),
        "candidates": len(verdicts.relevant),
        "auc": auc(values, verdicts.relevant),
        "positives_above_half": round(float((positives > 0.5).mean()), 4)
        if len(positives)
        else None,
    }
    out.facts(truth={**facts, "auc_by_task": by_task})
    for line in [*_sentences(facts), _by_task(by_task)]:
        console.log(f"judge: {line}")


def look_up(data: DataFolder, mined: pa.Table, truth: KnownTruth) -> Verdicts:
    """Return what is true of every mined candidate."""
    pairs = mined["pair"].to_pylist()
    candidates = mined["candidates"].combine_chunks()
    corpora = _corpora(data, pairs)
    relevant: list[np.ndarray] = [np.empty(0, bool)]
    planted: list[np.ndarray] = [np.empty(0, bool)]
    in_corpus = 0
    for number, row in enumerate(pairs):
        pair = data.pair(row)
        query = data.items.content_id(pair.query)
        ids = [data.items.content_id(item) for item in candidates[number].as_py()]
        # A sample of the queries may have candidates that are no target of the sample.
        of_query = set(truth.planted(pair.task, query)) & (corpora[pair.task] | set(ids))
        in_corpus += len(of_query - {data.items.content_id(item) for item in pair.positives})
        relevant.append(np.asarray(truth.relevant(pair.task, query, ids), dtype=bool))
        planted.append(np.array([one in of_query for one in ids], dtype=bool))
    return Verdicts(np.concatenate(relevant), np.concatenate(planted), in_corpus)


def auc(
    scores: Float[np.ndarray, " candidates"], relevant: Bool[np.ndarray, " candidates"]
) -> float | None:
    """Return how often a relevant candidate scores above an irrelevant one, ties counted half.

    Unscored candidates (NaN) are left out; None when one of the two kinds is missing.
    """
    scored = ~np.isnan(scores)
    positives, negatives = scores[scored & relevant], np.sort(scores[scored & ~relevant])
    if not len(positives) or not len(negatives):
        return None
    below = np.searchsorted(negatives, positives, side="left")
    not_above = np.searchsorted(negatives, positives, side="right")
    return round(float((below + not_above).sum() / 2 / len(positives) / len(negatives)), 4)


def _corpora(data: DataFolder, pairs: list[int]) -> dict[str, set[bytes]]:
    """Return the content ids of each task's targets."""
    rows: defaultdict[str, set[int]] = defaultdict(set)
    for row in pairs:
        pair = data.pair(row)
        rows[pair.task].update(pair.positives)
    return {task: {data.items.content_id(item) for item in of} for task, of in rows.items()}


def _sentences(facts: dict[str, int | float | None]) -> list[str]:
    reached, planted = facts["planted_among_candidates"], facts["planted_in_corpus"]
    return [
        f"{reached} of {planted} planted false negatives are among the candidates"
        f" ({_percent(reached, planted)})",
        f"{facts['relevant_among_candidates']} of {facts['candidates']} candidates are relevant; "
        f"the judge's AUC on them is {facts['auc']}; "
        f"{_percent(facts['positives_above_half'], 1)} of the scored positives are above 0.5",
    ]


def _by_task(found: dict[str, float | None]) -> str:
    known = {name: value for name, value in found.items() if value is not None}
    return "AUC by task: " + (", ".join(f"{n} {v:.3f}" for n, v in known.items()) or "none known")


def _percent(part: int | float | None, whole: int | float | None) -> str:
    return f"{100 * part / whole:.1f} %" if part is not None and whole else "no share"
