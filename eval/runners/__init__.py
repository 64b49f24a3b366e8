"""One runner a file layout. To add one: write the module, add one line here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from eval.benchmark import Benchmark
from eval.pool import Pool
from eval.runners import candidates, retrieval, sugarcrepe
from eval.score import ParsedTask


@runtime_checkable
class Runner(Protocol):
    """What a runner module offers."""

    METRICS: tuple[str, ...]
    """The metrics it computes; a benchmark's main metric is one of them."""

    def read(
        self, benchmark: Benchmark, root: Path, names: Sequence[str], limit: int | None, pool: Pool
    ) -> Sequence[ParsedTask]:
        """Read the named tasks, their distinct encodes into the pool."""
        ...


RUNNERS: dict[str, Runner] = {
    "candidates": candidates,
    "retrieval": retrieval,
    "sugarcrepe": sugarcrepe,
}
