"""The data loader: whole prepared batches, asked for by number, ready before they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, Sampler

from unime.train.batch import LiveBudget, Prepared


@runtime_checkable
class Source(Protocol):
    """Batch number -> batch."""

    budget: LiveBudget

    def __getitem__(self, number: int) -> Prepared:
        """Return a batch."""
        ...


class NumberSampler(Sampler[int]):
    """The batch numbers from `start` on.

    Its length is that of the whole training, because Trainer counts epochs and steps by it.
    """

    def __init__(self, start: int, total: int) -> None:
        self.start, self.total = start, total

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers that are left."""
        return iter(range(self.start, self.total))

    def __len__(self) -> int:
        """Return how many batches the whole training has."""
        return self.total


def make_loader(source: Source, start: int, total: int, workers: int) -> Any:
    """Return what Trainer iterates over: `{"batch": Prepared}` for each number.

    Args:
        source: prepares a batch.
        start: the first number; above 0 after a restart.
        total: numbers of the whole training.
        workers: 0 prepares one batch ahead in a thread, n in so many processes. Where the platform
            starts them afresh (spawn) they are sent the source, which must hold no weights.
    """
    sampler = NumberSampler(start, total)
    if workers == 0:
        return ThreadLoader(source, sampler)
    return DataLoader(
        source,  # type: ignore[arg-type]
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        collate_fn=as_inputs,  # type: ignore[arg-type]  # gets the sample itself, not a list
        # Without one of its own the loader draws from the global generator, after a restart
        # once more than in an uninterrupted run.
        generator=torch.Generator(),
    )


def as_inputs(batch: Prepared) -> dict[str, Prepared]:
    """Wrap a batch the way Trainer passes inputs around."""
    return {"batch": batch}


class ThreadLoader:
    """Prepares one batch ahead in a thread; decoding and tokenising release the GIL."""

    def __init__(self, source: Source, sampler: NumberSampler) -> None:
        self.dataset, self.sampler = source, sampler

    def __len__(self) -> int:
        """Return how many batches the whole training has."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[dict[str, Prepared]]:
        """Yield the batches that are left."""
        with ThreadPoolExecutor(1, "batches") as pool:
            ahead: Future[Prepared] | None = None
            for number in self.sampler:
                current, ahead = ahead, pool.submit(self.dataset.__getitem__, number)
                if current is not None:
                    yield as_inputs(current.result())
            if ahead is not None:
                yield as_inputs(ahead.result())
