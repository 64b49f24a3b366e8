"""One runner a file layout. To add one: write the module, add one line here."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from unime.eval.benchmark import TaskSpec
from unime.eval.pool import Pool
from unime.eval.runners import candidates, comparisons, corpus, retrieval, sts
from unime.eval.scores import ParsedTask


@runtime_checkable
class Runner(Protocol):
    """What a runner module offers."""

    METRICS: tuple[str, ...]
    """The metrics it computes; a task's main metric is one of them."""

    def read(self, spec: TaskSpec, pool: Pool) -> ParsedTask:
        """Read one task, its distinct inputs into the pool."""
        ...


RUNNERS: dict[str, Runner] = {
    "candidates": candidates,
    "retrieval": retrieval,
    "corpus": corpus,
    "comparisons": comparisons,
    "sts": sts,
}
