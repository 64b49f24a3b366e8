"""Pairs a second of a judge's servers: `python -m benchmarks.judge_load [ADDRESS ...] [--options]`.

Asks running servers (`unime judge serve`, the replicas of judge/compose.yaml), or one that it starts
from vLLM's environment, about made-up pairs: every query a picture, its candidates texts. Every
concurrency is measured several times, in an order that turns round, and gets pairs of its own, so
that nothing is found in a cache but what a query's candidates share. `--write FILE` puts the table
into a Markdown file, between two marks.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.common import report, say
from benchmarks.judge import CANDIDATES, MODEL, pairs
from unime.core import files
from unime.core.errors import RecipeError, UnimeError
from unime.judge.vllm_engine import VllmOptions

BEGIN, END = "<!-- throughput -->", "<!-- end -->"


@dataclass(frozen=True)
class Load:
    """What is asked of the servers."""

    model: str = MODEL["id"]
    concurrencies: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Calls under way at once, at every server."""
    queries: int = 8
    """Of 50 candidates each, in every measurement."""
    rounds: int = 3
    size: int = 64
    """Pixels of a picture's side."""


@dataclass(frozen=True)
class Measured:
    """One concurrency."""

    concurrency: int
    rates: tuple[float, ...]
    """Pairs a second, one for every round."""
    unscored: int
    """Pairs without a score, of all rounds."""


def measure(addresses: Sequence[str], load: Load) -> list[Measured]:
    """Return what the servers reach at every concurrency.

    Raises:
        EngineError: when a server is not there or serves another model.
    """
    seeds = iter(range(1000, 10**6))
    _rate(
        addresses, load, max(load.concurrencies), next(seeds)
    )  # the servers' first calls are slow
    rates: dict[int, list[float]] = {number: [] for number in load.concurrencies}
    unscored = dict.fromkeys(load.concurrencies, 0)
    for round_ in range(load.rounds):
        order = load.concurrencies if round_ % 2 == 0 else load.concurrencies[::-1]
        for concurrency in order:
            rate, missing = _rate(addresses, load, concurrency, next(seeds))
            rates[concurrency].append(rate)
            unscored[concurrency] += missing
            say(
                f"round {round_ + 1}/{load.rounds}, {concurrency} calls at once: {rate:.1f} pairs/s"
            )
    return [Measured(c, tuple(rates[c]), unscored[c]) for c in load.concurrencies]


def _rate(addresses: Sequence[str], load: Load, concurrency: int, seed: int) -> tuple[float, int]:
    """Return pairs a second, and how many pairs got no score."""
    options = VllmOptions.model_validate({
        "model": {**MODEL, "id": load.model, "max_pixels": max(4096, load.size**2)},
        "min_answer_mass": 0.0,
        "endpoints": [{"url": address, "concurrency": concurrency} for address in addresses],
    })  # fmt: skip
    groups = pairs(load.queries * len(addresses), seed=seed, size=load.size)
    engine = options.engine(None)
    start = time.perf_counter()
    scores = [score for part in engine.stream(iter(groups)) for score in part]
    seconds = time.perf_counter() - start
    return len(scores) / seconds, sum(math.isnan(score.value) for score in scores)


def table(measured: Sequence[Measured]) -> str:
    """Return the Markdown table."""
    lines = [
        "| calls at once, per server | pairs/s, median | lowest | highest | without a score |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in measured:
        cells = statistics.median(one.rates), min(one.rates), max(one.rates)
        numbers = " | ".join(f"{value:.1f}" for value in cells)
        lines.append(f"| {one.concurrency} | {numbers} | {one.unscored} |")
    return "\n".join(lines)


def written(page: str, heading: str, text: str) -> str:
    """Return a page whose measurement of this heading is the new one; others stay.

    Raises:
        RecipeError: when the page has no marks.
    """
    before, begin, rest = page.partition(f"{BEGIN}\n")
    middle, end, after = rest.partition(END)
    if not begin or not end:
        raise RecipeError(f"the page holds no lines {BEGIN} and {END} to write between")
    kept = [part for part in middle.split("### ")[1:] if part.partition("\n")[0] != heading]
    newline = "\n"
    sections = [f"### {part.strip()}\n" for part in [*kept, f"{heading}\n\n{text}"]]
    return f"{before}{begin}{newline.join(sections)}{end}{after}"


def machine() -> str:
    """Return what the servers ran on, where this is the same machine."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores, {names[0] if names else platform.machine()}"


def main(words: Sequence[str] | None = None) -> None:
    """Measure; print the table on standard error, the report on standard output."""
    given = _arguments(words)
    load = Load(given.model, tuple(given.concurrency), given.queries, given.rounds, given.size)
    with _servers(given.addresses, load) as addresses:
        measured = measure(addresses, load)
    text = table(measured)
    say(text)
    heading = given.name or f"{load.model}, {len(addresses)} server{'s' * (len(addresses) > 1)}"
    if given.write is not None:
        facts = (
            f"Measured {datetime.now(UTC):%Y-%m-%d} by `python -m benchmarks.judge_load`: "
            f"{load.rounds} rounds of {load.queries * len(addresses) * CANDIDATES} pairs; queries of "
            f"one picture of {load.size} x {load.size} pixels, {CANDIDATES} candidates of one short text. "
            f"The client's machine: {machine()}, load at the end {os.getloadavg()[0]:.1f}."
        )
        page = written(given.write.read_text(), heading, f"{facts}\n\n{text}\n")
        files.write_text(given.write, page)
    best = max(statistics.median(one.rates) for one in measured)
    rates = {f"pairs_per_second_{one.concurrency}": round(statistics.median(one.rates), 1) for one in measured}  # fmt: skip
    report("judge_load", {"best_pairs_per_second": round(best, 1), **rates}, model=load.model, servers=len(addresses), heading=heading)  # fmt: skip


@contextlib.contextmanager
def _servers(addresses: Sequence[str], load: Load) -> Iterator[Sequence[str]]:
    if addresses:
        yield addresses
        return
    from unime.judge.serve import Service, running

    options = VllmOptions.model_validate({"model": {**MODEL, "id": load.model}})
    slots = ("--max-num-seqs", str(max(load.concurrencies)))
    with running(options, Service(port=0, with_key=False, extra=slots)) as address:
        yield [address]


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    default = Load()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge_load", description=__doc__)
    parser.add_argument("addresses", nargs="*", help="such as http://127.0.0.1:8000/v1; none: start one")  # fmt: skip
    parser.add_argument("--model", default=default.model, help="the name the servers know it by")
    parser.add_argument("--concurrency", type=int, nargs="+", default=default.concurrencies)
    parser.add_argument("--queries", type=int, default=default.queries, help="a server and round")
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--size", type=int, default=default.size, help="pixels of a picture's side")
    parser.add_argument("--name", help="heading of the measurement: what ran where")
    parser.add_argument("--write", type=Path, help="a Markdown page with the two marks")
    return parser.parse_args(words)


if __name__ == "__main__":
    try:
        main()
    except UnimeError as error:
        raise SystemExit(f"error: {error}") from None
