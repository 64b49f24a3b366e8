"""How long a step waits for its batch, with the computation replaced by a sleep of its length.

python -m benchmarks.data_wait [--batch 64] [--negatives 8] [--steps 12] [--workers 2]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import report
from benchmarks.mixture import adapted, build_model
from benchmarks.train_step import LORA, Ours, make_batch
from unime.train.chunking import ChunkBudget
from unime.train.loader import make_loader


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--negatives", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(adapted(build_model(Path(folder)), LORA)[0], ChunkBudget())
        batch = make_batch(options.batch, options.negatives, 0.3)
        start = time.perf_counter()
        ours.source(batch)[0]
        preparing = time.perf_counter() - start
        ours.step(batch)
        start = time.perf_counter()
        ours.step(batch)
        computing = time.perf_counter() - start - preparing
        loader = iter(make_loader(ours.source(batch), 0, options.steps, options.workers))
        # The first batches of the workers are waited for in any case.
        for _ in range(options.workers):
            next(loader)
            time.sleep(computing)
        start = time.perf_counter()
        for _ in loader:
            time.sleep(computing)
        total = time.perf_counter() - start
    asleep = computing * (options.steps - options.workers)
    report(
        "data_wait",
        {"data_wait": round(1 - asleep / total, 3)},
        batch=options.batch,
        negatives=options.negatives,
        workers=options.workers,
        seconds={"preparing": round(preparing, 3), "computing": round(computing, 3)},
    )


if __name__ == "__main__":
    main()
