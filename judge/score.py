"""`python -m judge score`: scores each distinct pair of a mined table once.

The work is cut into blocks of queries. A block's new pairs are scored together and appended to
`scores.jsonl` as one line; a killed run continues with the first missing block. Which pairs share
a batch depends on the table alone, so a resumed run writes the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from judge.engine import Content, Engine, EngineOptions, Request, Truth
from judge.engines import ENGINES, Engines
from judge.log import ScoreLog
from judge.report import report_truth
from unime import console, files
from unime.config import Recipe
from unime.errors import RecipeError, lookup
from unime.images import load_rgb
from unime.provenance import Output
from unime.records import pair_key
from unime.tables import JUDGED, DataFolder, read_table, write_table


class ScoreRecipe(Recipe):
    """Score mined candidates, each query's positive first."""

    data: str
    """The output of `unime data`."""
    mined: str
    """The output of `unime mine`."""
    engine: str
    """Which engine scores; its options stand under `engines`."""
    engines: Engines = Engines()
    truth: str | None = None
    """The output of a world, when the true relevance is known: the oracle needs it, and the
    report then says how good the candidates and the judge are."""
    block_queries: int = Field(default=16, gt=0)
    """Queries whose candidates are scored and saved together."""

    @model_validator(mode="after")
    def _engine_has_what_it_needs(self) -> ScoreRecipe:
        _options(self)
        if self.engine == "oracle" and self.truth is None:
            raise RecipeError(
                "engine 'oracle' needs the truth of a generated world: set truth=FOLDER to the "
                "output of its stage 'world', or choose engine=transformers"
            )
        return self


RECIPE = ScoreRecipe


def inputs(recipe: ScoreRecipe) -> dict[str, Path]:
    """Return what the stage reads."""
    places = {"data": Path(recipe.data), "mined": Path(recipe.mined)}
    if recipe.truth is not None:
        places["truth"] = Path(recipe.truth)
    model = getattr(_options(recipe), "model", None)
    if model is not None:
        places["model"] = Path(model.id)
    return places


def run(recipe: ScoreRecipe, out: Output) -> None:
    """Score what is not scored yet, then write `judged.parquet` and the report."""
    truth = _load_truth(recipe.truth)
    engine = _options(recipe).engine(truth)
    job = Job(DataFolder.open(recipe.data), _read_mined(recipe.mined), engine.fingerprint)
    log = ScoreLog(out.file("scores.jsonl"))
    score_blocks(job, engine, log, recipe.block_queries)
    judged = job.judged_table(log)
    write_table(out.file("judged.parquet"), judged)
    _report(job, log, out)
    if truth is not None:
        report_truth(job.data, job.mined, judged, truth, out)
    out.facts(judge=engine.fingerprint)


def score_blocks(job: Job, engine: Engine, log: ScoreLog, block_queries: int) -> None:
    """Score and log every block that the log lacks.

    Pairs that an earlier block has scored are not scored again. Blocks are logged in order, so
    the earlier blocks are the same whether or not the run was interrupted.
    """
    starts = range(0, job.mined.num_rows, block_queries)
    label = f"judge, blocks of {block_queries} queries"
    for block, start in enumerate(console.progress(starts, label=label, unit="blocks")):
        if block in log.blocks:
            continue
        distinct: dict[bytes, Request] = {}
        for row in range(start, min(start + block_queries, job.mined.num_rows)):
            for request in job.requests(row):
                if request.key not in log.values:
                    distinct.setdefault(request.key, request)
        log.add(block, engine.score(list(distinct.values())) if distinct else [])


class MinedRow(NamedTuple):
    """One row of the mined table: its pair, and item rows."""

    pair: int
    candidates: list[int]


class Job:
    """The pairs to be scored: for each mined row its positive, then its candidates."""

    def __init__(self, data: DataFolder, mined: pa.Table, fingerprint: str) -> None:
        self.data = data
        self.mined = mined
        self._fingerprint = fingerprint

    def row(self, number: int) -> MinedRow:
        """Return one mined row."""
        return MinedRow(int(self._pairs[number]), self._candidates[number].as_py())

    def requests(self, number: int) -> Iterator[Request]:
        """Yield the requests of one mined row, the positive's first."""
        row = self.row(number)
        pair = self.data.pair(row.pair)
        query = self._content(pair.query)
        for item in (pair.positives[0], *row.candidates):
            candidate = self._content(item)
            key = pair_key(query.id, pair.query_instruction, candidate.id, self._fingerprint)
            yield Request(key, pair.task, pair.query_instruction, query, candidate)

    def judged_table(self, log: ScoreLog) -> pa.Table:
        """Return the scores of all rows (schema JUDGED), NaN where unscored."""
        positives = np.empty(self.mined.num_rows, dtype=np.float32)
        scores: list[np.ndarray] = []
        for number in range(self.mined.num_rows):
            values = [log.values[key] for key in self._keys(number)]
            positives[number] = values[0]
            scores.append(np.array(values[1:], dtype=np.float16))
        offsets = np.cumsum([0, *(len(values) for values in scores)]).astype(np.int32)
        flat = np.concatenate([np.empty(0, np.float16), *scores])
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))
        return pa.Table.from_arrays(
            [self.mined["pair"].combine_chunks(), pa.array(positives), lists], schema=JUDGED
        )

    def unscored(self, log: ScoreLog) -> Iterator[dict[str, object]]:
        """Yield what has no score, once for every row it is missing in."""
        if not log.reasons:
            return
        for number in range(self.mined.num_rows):
            row = self.row(number)
            items = [self.data.pair(row.pair).positives[0], *row.candidates]
            for item, key in zip(items, self._keys(number), strict=True):
                if key in log.reasons:
                    yield {"pair": row.pair, "item": item, "reason": log.reasons[key]}

    def _keys(self, number: int) -> list[bytes]:
        return [request.key for request in self.requests(number)]

    def _content(self, row: int) -> Content:
        items = self.data.items
        item = items.item(row)
        if item.image is None:
            return Content(items.content_id(row), item.text)
        image = partial(load_rgb, self.data.root, item.image)
        return Content(items.content_id(row), item.text, image, int(self._pixels[row]))

    @cached_property
    def _pixels(self) -> np.ndarray:
        return self.data.items.sizes(range(len(self.data.items)))

    @cached_property
    def _pairs(self) -> np.ndarray:
        return self.mined["pair"].to_numpy()

    @cached_property
    def _candidates(self) -> pa.Array:
        return self.mined["candidates"].combine_chunks()


def _options(recipe: ScoreRecipe) -> EngineOptions:
    lookup(ENGINES, recipe.engine, "engine")
    options = getattr(recipe.engines, recipe.engine)
    if options is None:
        raise RecipeError(
            f"engine '{recipe.engine}' has no options in this recipe; "
            f"give them under engines.{recipe.engine}"
        )
    return options


def _load_truth(folder: str | None) -> Truth | None:
    if folder is None:
        return None
    from world.truth import Truth as WorldTruth

    return WorldTruth.load(folder)


def _read_mined(folder: str) -> pa.Table:
    return read_table(Path(folder) / "mined.parquet", ["pair", "candidates"])


def _report(job: Job, log: ScoreLog, out: Output) -> None:
    lines = [json.dumps(line) for line in job.unscored(log)]
    files.write_text(out.file("unscored.jsonl"), "".join(f"{line}\n" for line in lines))
    unscored = len(log.reasons)
    console.log(
        f"judge: {len(log.values)} distinct pairs of {job.mined.num_rows} queries, "
        f"{unscored} unscored"
        + (
            f" (see unscored.jsonl; such as: {next(iter(log.reasons.values()))})"
            if unscored
            else ""
        )
    )
    out.facts(distinct_pairs=len(log.values), unscored_pairs=unscored)
