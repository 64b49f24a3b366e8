"""`unime search` over 5,000 pictures: seconds of a query, from a cold shell and from a running server.

python -m benchmarks.search [--pictures FOLDER] [--model EXPORT] [--count 5000]

`served_query_seconds`: the best of five queries to `unime search --serve`, the page's thumbnails not
counted. `cold_seconds`: the best of three whole processes, index there, files of the disk in memory.
Building the index, which happens once, is said beside them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from benchmarks.common import report, say

QUERIES = ("a red circle", "two blue squares", "a green star", "a striped thing", "a cat")


def main(
    pictures: Annotated[Path, typer.Option(help="Where pictures are.")] = Path(
        "runs/mini/0_world/images"
    ),
    model: Annotated[Path, typer.Option(help="An exported model.")] = Path("runs/mini/8_export"),
    count: int = 5000,
) -> None:
    """Measure and print one JSON line."""
    found = sorted(path for path in pictures.rglob("*.png"))[:count]
    if len(found) < count:
        raise SystemExit(f"{pictures} holds {len(found)} pictures, expected {count}")
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(found):
            shutil.copyfile(path, Path(folder) / f"{number:05}.png")
        built = timed(folder, model, QUERIES[0])
        say(f"index built and asked in {built:.1f} s")
        cold = [timed(folder, model, query) for query in QUERIES[:3]]
        with serving(folder, model) as address:
            ask(address, "warm-up")
            served = [ask(address, query) for query in QUERIES]
    report(
        "search",
        {"served_query_seconds": round(min(served), 3), "cold_seconds": round(min(cold), 2)},
        pictures=count,
        index_seconds=round(built, 1),
        all_cold=[round(value, 2) for value in cold],
        all_served=[round(value, 3) for value in served],
    )


def command(folder: str, model: Path, *words: str) -> list[str]:
    """Return the command line of a search."""
    return [sys.executable, "-m", "unime", "search", folder, *words, "--model", str(model)]


def timed(folder: str, model: Path, query: str) -> float:
    """Return the seconds of a whole process."""
    start = time.perf_counter()
    subprocess.run(command(folder, model, query), check=True, capture_output=True)
    return time.perf_counter() - start


@contextlib.contextmanager
def serving(folder: str, model: Path) -> Iterator[str]:
    """Run the server; yield its address."""
    process = subprocess.Popen(
        command(folder, model, "--serve", "--port", "0"), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "http://127.0.0.1:" in line:
            break
    else:
        raise SystemExit("the server did not start")
    try:
        yield next(word for word in line.split() if word.startswith("http://"))
    finally:
        process.terminate()
        process.wait(30)


def ask(address: str, query: str) -> float:
    """Return the seconds of one query."""
    start = time.perf_counter()
    with urllib.request.urlopen(f"{address}/api?q={quote(query)}") as answer:  # noqa: S310  # our own server
        assert json.load(answer)
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
