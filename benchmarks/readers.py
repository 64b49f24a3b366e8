"""Rows a second of the readers, beside parsing alone: no check, no pair, no item.

python -m benchmarks.readers [--rows 100000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import interleaved_rounds, median_ratio, medians, report
from unime.data.readers import read
from unime.data.stage import DataRecipe, open_sources

NAMES = ("anchor", "positive", "negative")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_tables(root, options.rows)
        contestants: dict[str, Callable[[], Any]] = {}
        for file, parse in PARSERS.items():
            contestants[file] = partial(read_all, root, file, options.rows)
            contestants[f"{file} parsed"] = partial(count, parse, root / file, options.rows)
        seconds = interleaved_rounds(contestants, options.rounds)
    ratios = {
        f"over_parsing {file}": median_ratio(seconds, file, f"{file} parsed") for file in PARSERS
    }
    spent = medians(seconds)
    rates = {file: round(options.rows / spent[file]) for file in PARSERS}
    report("readers", ratios, rows=options.rows, rounds=options.rounds, rows_a_second=rates)


def write_tables(root: Path, rows: int) -> None:
    """Write the same triples of texts in every format."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [
        (
            f"what is shown in photograph {n}?",
            f"a dog, number {n}, runs",
            f"two children on swing {n}",
        )
        for n in range(rows)
    ]
    with (root / "quoted.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([NAMES, *cells])
    with (root / "plain.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([NAMES, *cells])
    lines = ["\t".join(row) for row in (NAMES, *cells)]
    (root / "plain.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = [json.dumps(dict(zip(NAMES, row, strict=True))) for row in cells]
    (root / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    columns = zip(*cells, strict=True)
    table = pa.table({name: list(column) for name, column in zip(NAMES, columns, strict=True)})
    pq.write_table(table, root / "rows.parquet")


def read_all(root: Path, file: str, rows: int) -> None:
    """Read a file as `unime data` does."""
    source = {"reader": "sentence_transformers", "path": file, "task": "rows"}
    recipe = DataRecipe.model_validate({"root": str(root), "sources": [source], "output": "none"})
    (job,) = open_sources(recipe)
    found = sum(row.error is None for row in read(job))
    assert found == rows, (file, found)


def count(parse: Callable[[Path], Iterator[dict[str, Any]]], path: Path, rows: int) -> None:
    """Parse a file into dicts, which are counted."""
    found = sum(1 for _ in parse(path))
    assert found == rows, (path, found)


def _parse_csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")


def _parse_json(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _parse_parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(1024):
        yield from batch.to_pylist()


PARSERS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    "plain.csv": _parse_csv,
    "quoted.csv": _parse_csv,
    "plain.tsv": _parse_csv,
    "rows.jsonl": _parse_json,
    "rows.parquet": _parse_parquet,
}


if __name__ == "__main__":
    main()
