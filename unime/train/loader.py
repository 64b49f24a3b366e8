"""Whole batches by number: planned, loaded and preprocessed, ready before they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from unime.core.console import log
from unime.core.errors import ModelError
from unime.core.processes import any_process, ranks
from unime.train.backends import ChunkRunner
from unime.train.batch import Batch, BatchLayout, Chunk, Features, Gather, Layout
from unime.train.chunking import PIXELS, ChunkBudget, ChunkPlan, plan_chunks

SAMPLE = 4
"""Batches whose worst chunk is tried."""


class LiveBudget:
    """A budget that can shrink while the workers that plan by it are running."""

    def __init__(self, budget: ChunkBudget) -> None:
        self._largest = budget.largest() if torch.cuda.is_available() else budget
        # In shared memory: worker processes see it change.
        self._halvings = torch.zeros(1, dtype=torch.int64).share_memory_()

    def now(self) -> ChunkBudget:
        """Return the budget as it is."""
        budget = self._largest
        for _ in range(int(self._halvings)):
            budget = budget.halved()
        return budget

    def halve(self) -> None:
        """Halve it, for every process."""
        self._halvings += 1


class BatchSource:
    """A map-style data set whose samples are global batches, of each this process's chunks.

    Args:
        layout: which inputs make up which batch.
        features: renders, tokenises and preprocesses inputs; holds no weights, because worker
            processes are sent it.
        budget: of a forward pass.
    """

    def __init__(
        self,
        layout: BatchLayout,
        features: Callable[[Sequence[Any]], Features],
        budget: ChunkBudget,
    ) -> None:
        self.layout, self.batches, self.budget = layout, layout.batches, LiveBudget(budget)
        self._features, self._ranks = features, ranks()

    def __getitem__(self, number: int) -> Batch:
        """Return batch `number`."""
        layout = self.layout.layout(number)
        plan = plan_chunks(layout.sizes, self.budget.now(), self._ranks.world)
        everyone = [
            torch.tensor(plan.places(rank), dtype=torch.int64) for rank in range(self._ranks.world)
        ]
        return Batch(
            chunks=self._load(layout, plan, number),
            kept=plan.kept,
            gather=Gather(everyone, self._ranks.rank),
            indices=layout.indices,
            number=number,
            name=layout.name,
            images=torch.from_numpy(layout.sizes[:, PIXELS] > 0),
            counts=layout.counts,
        )

    def _load(self, layout: Layout, plan: ChunkPlan, number: int) -> list[Chunk]:
        """Load, tokenise and preprocess this process's chunks."""
        chunks, rank = [], self._ranks.rank
        for places, is_dummy in zip(plan.chunks[rank], plan.dummies[rank], strict=True):
            # Random numbers depend on the batch and the chunk's first place, not on the process.
            seed = np.random.SeedSequence([self.batches.seed, 3, number, places[0]])
            inputs = [self.layout.load(layout.inputs[place]) for place in places]
            chunks.append(
                Chunk(
                    torch.tensor([] if is_dummy else places, dtype=torch.int64),
                    self._features(inputs),
                    int(seed.generate_state(1, np.uint64)[0] >> 1),
                )
            )
        return chunks


def choose_budget(source: BatchSource, runner: ChunkRunner) -> None:
    """Halve a source's budget until its worst chunk fits on every process; log what was chosen.

    This is `budget.chunk: auto`.

    Args:
        source: of batches; its budget is changed.
        runner: takes the chunk forward and backward.

    Raises:
        ModelError: when not even a single input fits.
    """
    while True:
        chunk = worst_chunk(source)
        failed = False
        try:
            runner.rehearse(chunk)
        except torch.OutOfMemoryError:
            failed = True
        if not any_process(failed):
            log(f"chunk: auto chose {source.budget.now()}")
            return
        if source.budget.now().items < 2:
            raise ModelError(
                "a single input does not fit in memory; lower model.max_pixels or "
                "model.max_length, or set training.gradient_checkpointing"
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        source.budget.halve()


def worst_chunk(source: BatchSource) -> Chunk:
    """Return the chunk with the most padded tokens, its patches counted as tokens."""
    chunks = (chunk for number in range(SAMPLE) for chunk in source[number].chunks)
    return max(chunks, key=_padded_tokens)


def _padded_tokens(chunk: Chunk) -> int:
    pictures = chunk.features.get("pixel_values")
    patches = 0 if pictures is None or pictures.ndim < 2 else len(pictures)
    return chunk.features["input_ids"].numel() + patches


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


def make_loader(source: BatchSource, start: int, total: int, workers: int) -> Any:
    """Return what Trainer iterates over: `{"batch": Batch}` for each number.

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


def as_inputs(batch: Batch) -> dict[str, Batch]:
    """Wrap a batch the way Trainer passes inputs around."""
    return {"batch": batch}


class ThreadLoader:
    """Prepares one batch ahead in a thread; decoding and tokenising release the GIL."""

    def __init__(self, source: BatchSource, sampler: NumberSampler) -> None:
        self.dataset, self.sampler = source, sampler

    def __len__(self) -> int:
        """Return how many batches the whole training has."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        """Yield the batches that are left."""
        with ThreadPoolExecutor(1, "batches") as pool:
            ahead: Future[Batch] | None = None
            for number in self.sampler:
                current, ahead = ahead, pool.submit(self.dataset.__getitem__, number)
                if current is not None:
                    yield as_inputs(current.result())
            if ahead is not None:
                yield as_inputs(ahead.result())
