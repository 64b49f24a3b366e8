"""The stages of a run as the report shows them: provenance, training curves, the judge."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from unime.core import files
from unime.core.hashes import sha256

BINS = np.linspace(0.0, 1.0, 41)


@dataclass(frozen=True)
class StageHistory:
    """One finished output of a run."""

    run: str
    name: str
    folder: Path
    manifest: dict[str, Any]
    host: dict[str, Any]
    hash: str
    """SHA-256 of the manifest; outputs that were made from this one name it."""

    @property
    def recipe(self) -> str:
        """The resolved recipe as YAML."""
        return yaml.safe_dump(self.manifest["recipe"], sort_keys=False, allow_unicode=True)

    @property
    def facts(self) -> str:
        """What the stage found, as YAML."""
        return yaml.safe_dump(self.manifest["facts"], sort_keys=False, allow_unicode=True)

    @property
    def verb(self) -> str:
        """Which stage it is."""
        return str(self.manifest["recipe"].get("stage", ""))

    def curves(self) -> list[dict[str, Any]]:
        """Return training's log: one record a logged step."""
        return [json.loads(line) for line in files.read_lines(self.folder / "train.jsonl")]


def stages_of(run: Path) -> list[StageHistory]:
    """Return the finished outputs of a run folder, in the order of their numbers."""
    folder = run.parent if (run / "manifest.json").is_file() else run
    found = []
    for path in sorted(folder.glob("*/manifest.json")):
        host = path.with_name("run.json")
        found.append(
            StageHistory(
                run=folder.name,
                name=path.parent.name,
                folder=path.parent,
                manifest=files.read_json(path),
                host=files.read_json(host) if host.is_file() else {},
                hash=sha256(path),
            )
        )
    return found


def origins(stage: StageHistory, stages: Sequence[StageHistory]) -> list[tuple[str, str]]:
    """Return (input, the stage it came from or its hash) of a stage's inputs."""
    known = {f"manifest:{other.hash}": other.name for other in stages if other.run == stage.run}
    return [
        (name, known.get(value, value if len(value) < 40 else f"{value[:24]}..."))
        for name, value in stage.manifest["inputs"].items()
    ]


def judge_histograms(stage: StageHistory) -> list[dict[str, Any]]:
    """Return counts of a judge's scores by kind: positives, candidates; by truth where known."""
    judged = pq.read_table(stage.folder / "judged.parquet")
    kinds = {"positives": judged["positive_score"].to_numpy()}
    scores = judged["scores"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    truth = stage.folder / "truth.parquet"
    if truth.is_file():
        relevant = pq.read_table(truth)["relevant"].combine_chunks().flatten()
        is_relevant = relevant.to_numpy(zero_copy_only=False).astype(bool)
        kinds["candidates, truly relevant"] = scores[is_relevant]
        kinds["candidates, truly irrelevant"] = scores[~is_relevant]
    else:
        kinds["candidates"] = scores
    return [
        {
            "kind": kind,
            "from": round(float(low), 4),
            "to": round(float(high), 4),
            "count": int(count),
        }
        for kind, values in kinds.items()
        for low, high, count in zip(
            BINS, BINS[1:], np.histogram(_finite(values), BINS)[0], strict=False
        )
    ]


def cuts(stage: StageHistory) -> list[dict[str, Any]]:
    """Return the cuts of a selection that lie on the judge's scale."""
    recipe = stage.manifest["recipe"]
    value = recipe.get("absolute_cut")
    used = str(recipe.get("rule", "")) in ("absolute", "either", "both")
    return (
        [{"cut": f"{stage.name}: absolute cut", "at": value}] if used and value is not None else []
    )


def judge_opinions(stages: Sequence[StageHistory]) -> dict[tuple[bytes, bytes], float]:
    """Return judged P(yes) by the contents of query and candidate, of all judge stages."""
    found: dict[tuple[bytes, bytes], float] = {}
    for stage in stages:
        if stage.verb != "judge":
            continue
        data = Path(str(stage.manifest["recipe"].get("data", "")))
        mined = Path(str(stage.manifest["recipe"].get("mined", "")))
        tables = (data / "items.parquet", data / "pairs.parquet", mined / "mined.parquet")
        if not all(path.is_file() for path in tables):
            continue
        contents = pq.read_table(tables[0], columns=["content_id"])["content_id"].to_pylist()
        queries = pq.read_table(tables[1], columns=["query"])["query"].to_pylist()
        candidates = pq.read_table(tables[2], columns=["candidates"])["candidates"].to_pylist()
        judged = pq.read_table(stage.folder / "judged.parquet")
        rows = zip(
            judged["pair"].to_pylist(), judged["scores"].to_pylist(), candidates, strict=True
        )
        for pair, scores, items in rows:
            query = contents[queries[pair]]
            for item, score in zip(items, scores, strict=True):
                if not math.isnan(score):
                    found[query, contents[item]] = round(float(score), 3)
    return found


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]
