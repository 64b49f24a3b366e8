"""What the functions of the API return: a finished output of a stage, that can be read and passed on.

Each is a folder with a manifest, the same that a recipe's run leaves; `open` takes any such folder, and
wherever a result is expected, its path will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pyarrow as pa

from unime.core import files
from unime.core.errors import OutputError
from unime.data.data_folder import DataFolder
from unime.data.tables import read_table

R = TypeVar("R", bound="StageResult")


@dataclass(frozen=True, repr=False)
class StageResult:
    """A stage's finished output."""

    path: Path
    """Its folder."""

    STAGES: ClassVar[tuple[str, ...]] = ()
    """Which stages write such an output."""

    @classmethod
    def open(cls: type[R], folder: str | PathLike[str]) -> R:
        """Open an output, whoever wrote it: this API, or a recipe's run.

        Raises:
            OutputError: when it is unfinished, or of another stage.
        """
        found = cls(Path(fspath(folder)))
        check_stage(found.path, cls.STAGES)
        return found

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The recipe, hashes of inputs and files, and facts: equal for equal runs."""
        return files.read_json(self.path / "manifest.json")

    @property
    def recipe(self) -> dict[str, Any]:
        """The values it was made by, as a YAML recipe would hold them."""
        return self.manifest["recipe"]

    @property
    def facts(self) -> dict[str, Any]:
        """What the stage found out, such as counts and recalls."""
        return self.manifest["facts"]

    def __fspath__(self) -> str:
        """Return the path, so that a result can be given for its folder anywhere."""
        return str(self.path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}: {self.summary()})"

    __str__ = __repr__

    def summary(self) -> str:
        """Return the figures worth a glance."""
        return f"stage {self.recipe['stage']}"


@dataclass(frozen=True, repr=False)
class TableResult(StageResult):
    """An output that is a table, one row a training pair."""

    TABLE: ClassVar[str] = ""

    def to_arrow(self) -> pa.Table:
        """Return the table itself; items are row numbers of `data.items`."""
        return read_table(self.path / self.TABLE)

    @cached_property
    def data(self) -> DataFolder:
        """The data it is about."""
        return DataFolder.open(self._data_path())

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each row with its contents: query, positive, candidates or negatives."""
        for batch in self.to_arrow().to_batches(1024):
            for values in batch.to_pylist():
                pair = self.data.pair(values["pair"])
                yield {
                    "task": pair.task,
                    "instruction": pair.query_instruction,
                    "query": self.data.content(pair.query),
                    "positive": self.data.content(pair.positives[0]),
                    **self._contents(values),
                }

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.to_arrow().num_rows

    def _data_path(self) -> str:
        return self.recipe["data"]

    def _contents(self, values: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class MinedNegatives(TableResult):
    """Each query's nearest candidates: what `mine_negatives` returns."""

    STAGES = ("mine",)
    TABLE = "mined.parquet"

    def summary(self) -> str:
        """Return counts and recalls."""
        found = sorted(self.facts["recall"].items(), key=lambda one: int(one[0].partition("@")[2]))
        recall = ", ".join(f"{name} {value:g}" for name, value in found)
        return f"{self.facts['pairs']} queries; positives' {recall}"

    def _contents(self, values: dict[str, Any]) -> dict[str, Any]:
        pairs = zip(values["candidates"], values["similarities"], strict=True)
        return {
            "positive_similarity": float(values["positive_similarity"]),
            "positive_rank": values["positive_rank"],
            "candidates": [
                {**self.data.content(item), "similarity": float(value)} for item, value in pairs
            ],
        }


@dataclass(frozen=True, repr=False)
class JudgedCandidates(TableResult):
    """The judge's probability of yes for each candidate: what `judge_candidates` returns."""

    STAGES = ("judge",)
    TABLE = "judged.parquet"

    @cached_property
    def mined(self) -> MinedNegatives:
        """The candidates that were judged."""
        return MinedNegatives.open(self.recipe["mined"])

    def summary(self) -> str:
        """Return counts."""
        return f"{self.facts['distinct_pairs']} distinct pairs, {self.facts['unscored_pairs']} unscored"

    @cached_property
    def _candidates(self) -> dict[int, list[int]]:
        table = self.mined.to_arrow().select(["pair", "candidates"])
        return dict(zip(table["pair"].to_pylist(), table["candidates"].to_pylist(), strict=True))

    def _contents(self, values: dict[str, Any]) -> dict[str, Any]:
        pairs = zip(self._candidates[values["pair"]], values["scores"], strict=True)
        return {
            "positive_score": values["positive_score"],
            "candidates": [
                {**self.data.content(item), "score": float(score)} for item, score in pairs
            ],
        }


@dataclass(frozen=True, repr=False)
class SelectedNegatives(TableResult):
    """Training rows with hard negatives: what `select_negatives` returns."""

    STAGES = ("select",)
    TABLE = "rows.parquet"

    def summary(self) -> str:
        """Return counts."""
        facts = self.facts
        return (
            f"{facts['queries']} queries, {facts['dropped']} of {facts['candidates']} candidates "
            f"dropped, {facts['chosen']} negatives chosen"
        )

    def _data_path(self) -> str:
        return MinedNegatives.open(self.recipe["mined"]).recipe["data"]

    def _contents(self, values: dict[str, Any]) -> dict[str, Any]:
        pairs = zip(values["negatives"], values["scores"][1:], strict=True)
        return {
            "positive_score": values["scores"][0],
            "negatives": [
                {**self.data.content(item), "score": score} for item, score in pairs if item >= 0
            ],
        }


@dataclass(frozen=True, repr=False)
class TrainedModel(StageResult):
    """What `train_embedder` and `train_reranker` return; load it with `Embedder` or `Reranker`."""

    STAGES = ("contrast", "distill", "rerank")

    @property
    def model(self) -> Path:
        """The folder of the weights, which transformers loads too."""
        return self.path / "model"

    def summary(self) -> str:
        """Return the facts that are numbers."""
        shown = [f"{k} {v:g}" for k, v in self.facts.items() if isinstance(v, int | float)]
        return f"stage {self.recipe['stage']}; {', '.join(shown)}"


@dataclass(frozen=True, repr=False)
class ExportedModel(StageResult):
    """What `export_model` returns: folders for people who have no unime."""

    STAGES = ("export",)

    @property
    def embedder(self) -> Path:
        """The folder that sentence-transformers, transformers and vLLM load."""
        return self.path / "embedder"

    @property
    def reranker(self) -> Path | None:
        """The folder of the CrossEncoder, where one was exported."""
        folder = self.path / "reranker"
        return folder if folder.is_dir() else None

    def summary(self) -> str:
        """Return the length of an embedding."""
        return f"{self.facts['dim']} dimensions"


@dataclass(frozen=True, repr=False)
class EvaluationResult(StageResult):
    """What `evaluate` returns: one row a model, one score a benchmark."""

    STAGES = ("eval",)

    @property
    def table(self) -> str:
        """The table as the command prints it."""
        return (self.path / "table.txt").read_text(encoding="utf-8")

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a model, in the order they were given, scores in percent."""
        return files.read_json(self.path / "results.json")["rows"]

    def summary(self) -> str:
        """Return which models on which benchmarks."""
        models = ", ".join(model["name"] for model in self.recipe["models"])
        return f"{models} on {', '.join(choice['name'] for choice in self.recipe['benchmarks'])}"

    def __str__(self) -> str:
        return self.table


def check_stage(folder: Path, expected: tuple[str, ...]) -> None:
    """Refuse a folder that is no finished output of one of the stages.

    Raises:
        OutputError: saying what it is.
    """
    wanted = " or ".join(f"'{stage}'" for stage in expected)
    path = folder / "manifest.json"
    if not path.is_file():
        state = "is unfinished; call what writes it again" if folder.is_dir() else "is not there"
        raise OutputError(f"{folder}: expected the output of stage {wanted}, it {state}")
    found = files.read_json(path).get("recipe", {}).get("stage")
    if found not in expected:
        raise OutputError(f"{folder} is an output of stage '{found}', expected one of {wanted}")
