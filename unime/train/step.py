"""The cached step: a loss over a whole global batch, with only one chunk's graph in memory.

    pass 1   every chunk is encoded; only the last ones, as many as the budget holds, keep a graph
    loss     once, on all embeddings of all processes, the same on each; its gradient with respect
             to the embeddings is cached
    pass 2   the other chunks are encoded again, each under the random numbers it had in pass 1,
             and the cached gradient is back-propagated through them

The result equals direct back-propagation through the whole batch (Gao et al. 2021,
arXiv 2101.06983), however it is cut into chunks and dealt to processes. When a process's share fits
in the budget there is no second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unime.losses import Combined

Features = dict[str, Tensor]


class Chunk(NamedTuple):
    """Encodes that go through the model together."""

    places: Int[Tensor, " chunk"]
    """Their places in the batch's list of distinct encodes; none for a dummy, whose features keep
    this process in step with the others and whose embeddings count nowhere."""
    features: Features
    seed: int = 0
    """Of the random numbers its forward passes draw."""


class Gather(NamedTuple):
    """Puts the embeddings of all processes into their places in the batch."""

    places: Sequence[Int[Tensor, " own"]]
    """Of each process, the places of its embeddings, chunk after chunk."""
    rank: int = 0

    def __call__(self, own: Float[Tensor, "own dim"]) -> Float[Tensor, "encodes dim"]:
        """Return all embeddings, a leaf; similarities are computed in fp32 at least."""
        own = own.detach()
        own = own.float() if own.dtype in {torch.bfloat16, torch.float16} else own
        blocks = [own] if len(self.places) == 1 else self._from_all(own)
        everyone = torch.cat([*self.places]).to(own.device)
        joined = own.new_empty(len(everyone), own.shape[1])
        return joined.index_copy_(0, everyone, torch.cat(blocks)).requires_grad_()

    def _from_all(self, own: Tensor) -> list[Tensor]:
        counts = [len(places) for places in self.places]
        padded = own.new_zeros(max(counts), own.shape[1])
        padded[: len(own)] = own
        blocks = [torch.empty_like(padded) for _ in counts]
        torch.distributed.all_gather(blocks, padded)
        return [block[:count] for block, count in zip(blocks, counts, strict=True)]


class RandomState(NamedTuple):
    """The state of every generator that dropout may draw from."""

    cpu: Tensor
    cuda: list[Tensor]


def cached_step(
    chunks: Sequence[Chunk],
    kept: int,
    forward: Callable[[Chunk], Tensor],
    loss: Callable[[Tensor], Combined],
    gather: Callable[[Tensor], Tensor] | None = None,
    backward: Callable[[Tensor, bool], None] = lambda surrogate, _: surrogate.backward(),
) -> Combined:
    """Accumulate the gradient of a loss over a global batch into the model's parameters.

    Args:
        chunks: this process's share of the batch, cut by `plan_chunks`.
        kept: how many of the last chunks keep their graph from the first pass.
        forward: chunk -> embeddings `(chunk, dim)`; must not change the features.
        loss: all embeddings `(encodes, dim)` -> total and parts.
        gather: own embeddings `(own, dim)` -> all `(encodes, dim)`, a leaf; for one process the
            chunks' places say it all.
        backward: back-propagates a scalar, told whether it is the step's last; replaced where
            gradients are scaled or synchronised.

    Returns:
        The loss, detached.
    """
    gather = gather or Gather([torch.cat([chunk.places for chunk in chunks])])
    replayed = len(chunks) - kept
    before = random_state()
    blocks = []
    for number, chunk in enumerate(chunks):
        with torch.set_grad_enabled(number >= replayed):
            blocks.append(_encode(chunk, forward))
    embeddings = gather(torch.cat(blocks))
    combined = loss(embeddings)
    (gradient,) = torch.autograd.grad(
        combined.total, embeddings, allow_unused=True, materialize_grads=True
    )
    order = [*range(replayed, len(chunks)), *range(replayed)]
    for number in order:
        chunk = chunks[number]
        block = blocks[number] if number >= replayed else _encode(chunk, forward)
        backward(_surrogate(block, gradient[chunk.places]), number == order[-1])
        # The graph of a kept chunk is done with: its memory serves the next.
        blocks[number] = block = torch.empty(0)
    set_random_state(before)
    return Combined(combined.total.detach(), combined.parts)


def random_state() -> RandomState:
    """Return the current state of the generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return RandomState(torch.get_rng_state(), cuda)


def set_random_state(state: RandomState) -> None:
    """Go back to a state of the generators."""
    torch.set_rng_state(state.cpu)
    if state.cuda:
        torch.cuda.set_rng_state_all(state.cuda)


def _encode(chunk: Chunk, forward: Callable[[Chunk], Tensor]) -> Tensor:
    torch.manual_seed(chunk.seed)
    # A dummy gives no rows, but its graph takes part.
    return forward(chunk)[: len(chunk.places)]


def _surrogate(block: Tensor, gradient: Tensor) -> Tensor:
    """Return a scalar whose gradient with respect to the block is the cached one."""
    return (block.to(gradient.dtype) * gradient).sum()
