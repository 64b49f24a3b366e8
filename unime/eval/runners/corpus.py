"""Queries, a corpus and relevance grades (BEIR's layout), nDCG with linear gain.

A task is a folder with `queries`, `corpus` and `qrels`: Parquet files in folders of these names or
named so, as visual-document sets have them (columns `query-id, query`; `corpus-id, image`;
`query-id, corpus-id, score`), or `queries.jsonl`, `corpus.jsonl` and `qrels/test.tsv` or `.jsonl`,
as text sets do (`_id, text`; `_id, title, text`). Sources: Thakur et al. 2021, BEIR; Faysse et al.
2024, ViDoRe.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unime.core import console
from unime.core.errors import DataError
from unime.data.readers import cells, formats
from unime.data.readers.base import DataSource, ResolvedSource, RowError
from unime.data.readers.instructions import Instructions
from unime.eval.benchmark import TaskSpec
from unime.eval.pool import Pool
from unime.eval.runners.whole_set import WholeSet

METRICS: tuple[str, ...] = ("ndcg_linear@5", "ndcg_linear@10")
OTHERS = ("R@1", "R@5", "R@10", "recall@10")
SUFFIXES = (".parquet", ".jsonl", ".tsv", ".json")


def read(spec: TaskSpec, pool: Pool) -> WholeSet:
    """Read one task; queries without a relevant document are left out, as BEIR does."""
    try:
        return _read(spec, pool)
    except (DataError, RowError) as error:
        raise DataError(f"{spec.benchmark}, task {spec.name}: {error}") from None


def _read(spec: TaskSpec, pool: Pool) -> WholeSet:
    (folder,) = spec.paths()
    grades = _grades(folder, spec)
    queries = [
        (key, text)
        for key, text, language in _queries(folder, spec)
        if key in grades and spec.language in (None, language)
    ][: spec.limit]
    corpus = list(_corpus(folder, spec))
    places = {key: place for place, (key, _, _) in enumerate(corpus)}
    if not queries or not corpus:
        raise DataError(f"{folder} holds {len(queries)} judged queries, {len(corpus)} documents")
    lost = sorted({doc for key, _ in queries for doc in grades[key]} - places.keys())
    if lost:
        raise DataError(
            f"{len(lost)} relevant documents are not in the corpus, such as '{lost[0]}'"
        )
    definition = spec.definition
    query_rows = pool.add(
        [text for _, text in queries], [None] * len(queries),
        [definition.query_instruction] * len(queries), root=spec.root, side="query",
    )  # fmt: skip
    candidate_rows = pool.add(
        [text for _, text, _ in corpus], [image for _, _, image in corpus],
        [definition.target_instruction] * len(corpus), root=spec.root, side="target",
    )  # fmt: skip
    golds, gains = _by_content(queries, grades, places, candidate_rows)
    others = tuple(name for name in (*METRICS, *OTHERS) if name != spec.metric)
    return WholeSet(
        name=spec.name,
        queries=query_rows,
        candidates=candidate_rows,
        query_groups=np.arange(len(queries)),
        group_golds=golds,
        group_gains=gains,
        at=(spec.metric, *others),
        query_ids=[key for key, _ in queries],
    )


def _by_content(
    queries: list[tuple[str, str]],
    grades: dict[str, dict[str, float]],
    places: dict[str, int],
    candidate_rows: np.ndarray,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return each query's gold places and their grades; a document's duplicates count like it."""
    duplicates: dict[int, list[int]] = {}
    for place, row in enumerate(candidate_rows.tolist()):
        duplicates.setdefault(row, []).append(place)
    golds, gains = [], []
    for key, _ in queries:
        found: dict[int, float] = {}
        for document, grade in grades[key].items():
            for place in duplicates[int(candidate_rows[places[document]])]:
                found[place] = max(grade, found.get(place, 0.0))
        golds.append(np.array(sorted(found)))
        gains.append(np.array([found[place] for place in sorted(found)], dtype=np.float32))
    return golds, gains


def _grades(folder: Path, spec: TaskSpec) -> dict[str, dict[str, float]]:
    """Return positive grades by query and document."""
    grades: dict[str, dict[str, float]] = {}
    count = 0
    for values in _rows(folder, "qrels", spec):
        cells.require(values, "query-id", "corpus-id", "score")
        grade = float(values["score"])
        count += 1
        if grade > 0:
            of_query = grades.setdefault(str(values["query-id"]), {})
            document = str(values["corpus-id"])
            of_query[document] = max(grade, of_query.get(document, 0.0))
    if not grades:
        raise DataError(f"none of {count} judgements in {folder} is positive")
    return grades


def _queries(folder: Path, spec: TaskSpec) -> Iterator[tuple[str, str, str | None]]:
    for values in _rows(folder, "queries", spec):
        key = values["query-id"] if "query-id" in values else values.get("_id")
        text = cells.text(values["query"] if "query" in values else values.get("text"), "query")
        if key is None or not text:
            raise DataError(f"a query has no id or no text, columns: {', '.join(values)}")
        yield str(key), text, values.get("language")


def _corpus(folder: Path, spec: TaskSpec) -> Iterator[tuple[str, str, str | None]]:
    empty = 0
    for values in _rows(folder, "corpus", spec):
        key = values["corpus-id"] if "corpus-id" in values else values.get("_id")
        image = cells.image(values.get("image"), "image", spec.images)
        # A page is its picture; the text some sets add beside it is no part of the benchmark.
        parts = () if image else (values.get("title"), values.get("text"))
        text = " ".join(part for part in (cells.text(p, "text") for p in parts) if part)
        if key is None:
            raise DataError(f"a document has no id, columns: {', '.join(values)}")
        if image or text:
            yield str(key), text, image
        else:
            empty += 1
    if empty:
        console.log(f"{folder}: {empty} documents without text or picture left out")


def _rows(folder: Path, part: str, spec: TaskSpec) -> Iterator[dict[str, Any]]:
    found = [p for p in sorted(folder.rglob("*")) if p.suffix in SUFFIXES and _is(part, p, folder)]
    # Text sets come with judgements of several splits.
    tests = [path for path in found if path.stem.split("-")[0] == "test"]
    found = tests or found
    if not found:
        raise DataError(f"{folder} holds no {part}; expected {part}/*.parquet or {part}.jsonl")
    for path in found:
        source = DataSource(reader="rows", path=str(path))
        job = ResolvedSource(source, spec.root, path, spec.name, spec.images, Instructions({}))
        for record in formats.records(job):
            if isinstance(record.values, RowError):
                raise DataError(f"{path}, row {record.number}: {record.values}")
            yield record.values


def _is(part: str, path: Path, folder: Path) -> bool:
    """Tell whether a file belongs to queries, corpus or qrels, by its own or its folder's name."""
    names = [*path.relative_to(folder).parts[:-1], path.name.split("-")[0].split(".")[0]]
    return part in names
