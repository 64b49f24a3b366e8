"""Exact top-k over a corpus, with exclusions and stable ties, beside faiss's exact search.

python -m benchmarks.mine [--rows 100000] [--queries 100000] [--dim 256] [--rounds 7]

faiss returns the top-k alone; ours also leaves out a query's known positives and orders ties.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import interleaved_rounds, median_ratio, medians, report, say
from unime.mine.exact_search import exact_topk

K = 50


def unit_vectors(rows: int, dim: int, seed: int) -> np.ndarray:
    """Return random unit vectors, float32."""
    values = np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def peak_bytes(queries: int, rows: int, dim: int) -> int:
    """Return the peak memory of a search in a process of its own."""
    words = ["-m", "benchmarks.mine", "--memory", str(queries), str(rows), str(dim)]
    done = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1])


def measure_memory(queries: int, rows: int, dim: int) -> None:
    """Print the peak beyond the inputs and the result."""
    corpus, asked = unit_vectors(rows, dim, 0), unit_vectors(queries, dim, 1)
    exact_topk(asked, corpus, K)
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    sys.stdout.write(f"{peak - 3 * asked.nbytes - 2 * queries * K * 12}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", type=int, nargs=3, metavar=("QUERIES", "ROWS", "DIM"))
    options = parser.parse_args(arguments)
    if options.memory:
        measure_memory(*options.memory)
        return
    import faiss

    corpus, asked = (
        unit_vectors(options.rows, options.dim, 0),
        unit_vectors(options.queries, options.dim, 1),
    )
    known = np.random.default_rng(2).integers(0, options.rows, (options.queries, 1)).tolist()

    def ours(exclude: list[list[int]] | None = known) -> tuple[np.ndarray, np.ndarray]:
        return exact_topk(asked, corpus, K, exclude)

    def theirs() -> np.ndarray:
        index = faiss.IndexFlatIP(options.dim)
        index.add(corpus)  # pyright: ignore[reportCallIssue]
        return index.search(asked, K)[1]  # pyright: ignore[reportCallIssue]

    agreement = float((ours(None)[0] == theirs()).mean())
    say(f"{agreement:.4%} of the places agree")
    assert agreement > 0.999, f"only {agreement:.2%} of the places agree with faiss"
    seconds = interleaved_rounds({"ours": ours, "faiss": theirs}, options.rounds, warmup=0)
    few, many = (
        peak_bytes(count, min(options.rows, 50_000), options.dim) for count in (2_000, 20_000)
    )
    report(
        "mine",
        {
            "time_over_faiss": median_ratio(seconds, "ours", "faiss"),
            "memory_growth": round(many / few - 1, 3),
        },
        rows=options.rows,
        queries=options.queries,
        dim=options.dim,
        k=K,
        rounds=options.rounds,
        seconds=medians(seconds),
        agreement=agreement,
    )


if __name__ == "__main__":
    main()
