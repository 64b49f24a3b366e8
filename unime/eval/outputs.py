"""What others read: TREC runs, VLM2Vec's report, the Hub's `.eval_results`, CSV, the items."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from unime.core import files
from unime.core.overwrite import check_replaceable
from unime.data.items import ID_BYTES
from unime.data.tables import NAME, write_table
from unime.eval.pool import Pool
from unime.eval.scores import ParsedTask, RankedTask

if TYPE_CHECKING:
    from unime.eval.benchmark import Benchmark
    from unime.eval.encoders.registry import ModelEntry

TREC = "trec"
NOTE = "ties count against the model; 95 % bootstrap interval {low} to {high}"


def items_table(pool: Pool) -> pa.Table:
    """Return what every row of a pool is."""
    entries = pool.entries
    places = [e.image for e in entries]
    return pa.table(
        {
            "content_id": pa.array([e.content for e in entries], pa.binary(ID_BYTES)),
            # Typed: where no text has a picture there would be no type to write.
            "text": pa.array([e.text for e in entries], pa.large_string()),
            "root": pa.array([str(p.root) if p else None for p in places], NAME),
            "image": pa.array([p.location if p else None for p in places], pa.large_string()),
            "region": pa.array(
                [list(p.region[1:]) if p and p.region else None for p in places],
                pa.list_(pa.int32()),
            ),
            "side": pa.array([e.side for e in entries], NAME),
            "instruction": pa.array([e.instruction for e in entries], NAME),
        }
    )


def write_items(pool: Pool, path: Path) -> None:
    """Write what every row of the pool is, for the report and for precomputed embeddings."""
    if not path.is_file():
        write_table(path, items_table(pool))


def write_inputs(pool: Pool, folder: Path) -> Path:
    """Write `inputs.parquet` for embeddings made elsewhere; see `unime/eval/encoders/precomputed.py`."""
    from unime.eval.encode import encode_ids
    from unime.eval.encoders.precomputed import INPUTS

    ids = pa.array(encode_ids(pool, ""), pa.binary(ID_BYTES))
    table = items_table(pool).add_column(0, "id", ids)
    check_replaceable(
        folder / INPUTS,
        lambda path: pq.read_schema(path).names == table.column_names,
        "unime eval inputs",
    )
    write_table(folder / INPUTS, table)
    return folder / INPUTS


def write_qrels(
    pool: Pool, selected: Sequence[Any], tasks: Sequence[Sequence[ParsedTask]], folder: Path
) -> None:
    """Write TREC relevance judgements of every task that ranks: `query 0 document grade`."""
    if folder.is_dir():
        return
    with files.atomic_folder(folder) as temporary:
        for (_, benchmark, _), group in zip(selected, tasks, strict=True):
            for task in group:
                if isinstance(task, RankedTask):
                    lines = (
                        f"{query} 0 {pool.entries[row].content.hex()} {grade:g}"
                        for query, row, grade in task.relevance()
                    )
                    _write_lines(temporary / benchmark.name / f"{task.name}.qrels", lines)


def write_trec(pool: Pool, benchmarks: Mapping[str, Any], folder: Path) -> None:
    """Write TREC runs of a model: `query Q0 document rank similarity tag`, its best candidates.

    A document's id is the hash of its content, as in the judgements; its repetitions are left out.
    """
    if (folder / TREC).is_dir():
        return
    with files.atomic_folder(folder / TREC) as temporary:
        for benchmark, facts in benchmarks.items():
            for task in facts["tasks"]:
                table = pq.read_table(folder / benchmark / f"{task}.parquet")
                if "rank" in table.column_names:
                    lines = _run_lines(pool, table, folder.name)
                    _write_lines(temporary / benchmark / f"{task}.run", lines)


def _run_lines(pool: Pool, table: pa.Table, tag: str) -> Iterable[str]:
    columns = (table[name].to_pylist() for name in ("query", "top_rows", "top_similarities"))
    for query, rows, values in zip(*columns, strict=True):
        distinct = dict(zip(reversed(rows), reversed(values), strict=True))
        for rank, row in enumerate(dict.fromkeys(rows), start=1):
            yield f"{query} Q0 {pool.entries[row].content.hex()} {rank} {distinct[row]:.7f} {tag}"


def leaderboard_report(
    entry: ModelEntry, dim: int, benchmarks: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a report in the layout MMEB's leaderboard takes: metrics in [0, 1] by modality.

    Source: VLM2Vec, experiments/public/all_scores.
    """
    config = getattr(entry, entry.kind)
    metadata = {
        "model_name": entry.name,
        "embedding_dimension": dim,
        "max_length_tokens": getattr(config, "max_length", None),
        "data_source": "Self-Reported",
        "report_generated_date": _today(),
        **entry.metadata,
    }
    metrics: dict[str, dict[str, Any]] = {"image": {}, "video": {}, "visdoc": {}}
    for facts in benchmarks.values():
        if facts["role"] != "overall":
            continue
        for task, found in facts["tasks"].items():
            shares = {name: round(value / 100, 6) for name, value in found["metrics"].items()}
            counts = {"num_pred": found["n"], "num_data": found["queries"] or found["n"]}
            metrics.setdefault(found["modality"], {})[task] = {**shares, **counts}
    return {"metadata": metadata, "metrics": metrics}


def write_eval_results(
    definitions: Sequence[Benchmark], benchmarks: Mapping[str, Any], folder: Path
) -> None:
    """Write `.eval_results/BENCHMARK.yaml` as a model repository on the Hub holds them.

    Tasks without a data set on the Hub are left out; a task of which queries were left out too.
    """
    for definition in definitions:
        lines = []
        for task, found in benchmarks[definition.name]["tasks"].items():
            own = definition.tasks[task]
            repo = own.hub or definition.hub
            if repo is None or benchmarks[definition.name]["limit"] is not None:
                continue
            revision = own.revision if own.hub else definition.revision
            dataset = {"id": repo.format(task=task), "task_id": task}
            lines.append(
                {
                    "dataset": dataset | ({"revision": revision} if revision else {}),
                    "value": found["score"],
                    "date": _today(),
                    "notes": f"{found['metric']}; {NOTE.format(**found)}",
                }
            )
        if lines:
            text = yaml.safe_dump(lines, sort_keys=False, allow_unicode=True)
            files.write_text(folder / ".eval_results" / f"{definition.name}.yaml", text)


CSV_FIELDS: tuple[str, ...] = (
    "model", "benchmark", "version", "task", "meta_task", "metric", "score", "low", "high",
    "expected", "chance", "n", "complete",
)  # fmt: skip


def scores_csv(scores: Mapping[str, Any]) -> str:
    """Return all tasks and means of all models as CSV, in percent."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for model, facts in scores.items():
        for benchmark, found in facts["benchmarks"].items():
            where = {"model": model, "benchmark": benchmark, "version": found["version"]}
            for task, values in found["tasks"].items():
                complete = found["limit"] is None
                writer.writerow({**where, "task": task, **values, "complete": complete})
            for group, values in found["means"].items():
                writer.writerow({**where, "task": f"mean {group}", **values, "n": ""})
    return text.getvalue()


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _today() -> str:
    # The day alone: a run that is resumed writes the same report.
    return time.strftime("%Y-%m-%d", time.gmtime())
