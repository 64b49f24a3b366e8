"""The cached step: a loss over a whole global batch, with only one chunk's graph in memory.

    pass 1   every chunk is encoded; only the last ones, as many as the budget holds, keep a graph
    loss     once, on all embeddings of all processes, the same on each; its gradient with respect
             to the embeddings is cached
    pass 2   the other chunks are encoded again, each under the random numbers it had in pass 1,
             and the cached gradient is back-propagated through them

The result equals direct back-propagation through the whole batch (Gao et al. 2021,
arXiv 2101.06983), however it is cut into chunks and assigned to processes. When a process's part
fits in the budget there is no second pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unime.losses import Combined, LossFunction
from unime.train.backends import ChunkRunner
from unime.train.batch import Batch, Chunk


class StepResult(NamedTuple):
    """What a step has computed beside the gradients; nothing in it holds a chunk's graph."""

    combined: Combined
    """The loss, detached."""
    record: Any
    """What the loss was given."""
    embeddings: Tensor
    """All outputs `(inputs, dim)`, detached."""


class RandomState(NamedTuple):
    """The state of every generator that dropout may draw from."""

    cpu: Tensor
    cuda: list[Tensor]


def cached_step(batch: Batch, runner: ChunkRunner, loss: LossFunction) -> StepResult:
    """Accumulate the gradient of a loss over a global batch into the model's parameters.

    Args:
        batch: this process's chunks, and where all outputs belong.
        runner: takes a chunk forward and backward; inside of its `step`.
        loss: record -> total and parts.
    """
    chunks, replayed = batch.chunks, len(batch.chunks) - batch.kept
    before = random_state()

    # Pass 1.
    blocks = []
    for number, chunk in enumerate(chunks):
        with torch.set_grad_enabled(number >= replayed):
            blocks.append(_encode(chunk, runner))

    # The loss.
    embeddings = batch.gather(torch.cat(blocks))
    record = batch.indices.record(embeddings)
    combined = loss(record)
    (gradient,) = torch.autograd.grad(
        combined.total, embeddings, allow_unused=True, materialize_grads=True
    )

    # Pass 2: the chunks that kept their graph first.
    order = [*range(replayed, len(chunks)), *range(replayed)]
    for number in order:
        chunk = chunks[number]
        block = blocks[number] if number >= replayed else _encode(chunk, runner)
        runner.backward(_surrogate(block, gradient[chunk.places]), is_last=number == order[-1])
        # The graph of a kept chunk is done with: its memory serves the next.
        blocks[number] = block = torch.empty(0)

    set_random_state(before)
    detached = Combined(combined.total.detach(), combined.parts)
    return StepResult(detached, record, embeddings.detach())


def random_state() -> RandomState:
    """Return the current state of the generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return RandomState(torch.get_rng_state(), cuda)


def set_random_state(state: RandomState) -> None:
    """Go back to a state of the generators."""
    torch.set_rng_state(state.cpu)
    if state.cuda:
        torch.cuda.set_rng_state_all(state.cuda)


def _encode(chunk: Chunk, runner: ChunkRunner) -> Tensor:
    torch.manual_seed(chunk.seed)
    # A dummy gives no rows, but its graph takes part.
    return runner.encode(chunk)[: len(chunk.places)]


def _surrogate(block: Tensor, gradient: Tensor) -> Tensor:
    """Return a scalar whose gradient with respect to the block is the cached one."""
    return (block.to(gradient.dtype) * gradient).sum()
