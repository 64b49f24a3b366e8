"""The cached step: a loss over a whole global batch, with only one chunk's graph in memory.

    pass 1   every chunk is encoded; only the last ones, as many as the budget holds, keep a graph
    loss     once, on all embeddings; its gradient with respect to the embeddings is cached
    pass 2   the other chunks are encoded again, each under the random state it had in pass 1,
             and the cached gradient is back-propagated through them

The result equals direct back-propagation through the whole batch (Gao et al. 2021,
arXiv 2101.06983). When the whole batch fits in the budget there is no second pass.
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
    """Their places in the batch's list of distinct encodes."""
    features: Features


class RandomState(NamedTuple):
    """The state of every generator that dropout may draw from."""

    cpu: Tensor
    cuda: list[Tensor]


def cached_step(
    chunks: Sequence[Chunk],
    kept: int,
    forward: Callable[[Features], Tensor],
    loss: Callable[[Tensor], Combined],
    backward: Callable[[Tensor], None] = torch.Tensor.backward,
) -> Combined:
    """Accumulate the gradient of a loss over a global batch into the model's parameters.

    Args:
        chunks: the batch, cut by `plan_chunks`; together their places are 0..encodes-1.
        kept: how many of the last chunks keep their graph from the first pass.
        forward: features -> embeddings `(chunk, dim)`; must not change the features.
        loss: all embeddings `(encodes, dim)` -> total and parts.
        backward: back-propagates a scalar; replaced where gradients are scaled or synchronised.

    Returns:
        The loss, detached.
    """
    replayed = len(chunks) - kept
    states, blocks = _first_pass(chunks, replayed, forward)
    embeddings = _in_batch_order(chunks, blocks).requires_grad_()
    combined = loss(embeddings)
    (gradient,) = torch.autograd.grad(
        combined.total, embeddings, allow_unused=True, materialize_grads=True
    )
    end = random_state()
    for chunk, block in zip(chunks[replayed:], blocks[replayed:], strict=True):
        backward(_surrogate(block, gradient[chunk.places]))
    del blocks
    for chunk, state in zip(chunks[:replayed], states, strict=False):
        set_random_state(state)
        backward(_surrogate(forward(chunk.features), gradient[chunk.places]))
    set_random_state(end)
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


def _first_pass(
    chunks: Sequence[Chunk], replayed: int, forward: Callable[[Features], Tensor]
) -> tuple[list[RandomState], list[Tensor]]:
    states, blocks = [], []
    for number, chunk in enumerate(chunks):
        states.append(random_state())
        with torch.set_grad_enabled(number >= replayed):
            blocks.append(forward(chunk.features))
    return states, blocks


def _in_batch_order(
    chunks: Sequence[Chunk], blocks: Sequence[Tensor]
) -> Float[Tensor, "encodes dim"]:
    """Put the blocks' rows into their places; similarities are computed in fp32 at least."""
    joined = torch.cat([block.detach() for block in blocks])
    if joined.dtype in {torch.bfloat16, torch.float16}:
        joined = joined.float()
    places = torch.cat([chunk.places for chunk in chunks]).to(joined.device)
    return torch.empty_like(joined).index_copy_(0, places, joined)


def _surrogate(block: Tensor, gradient: Tensor) -> Tensor:
    """Return a scalar whose gradient with respect to the block is the cached one."""
    return (block.to(gradient.dtype) * gradient).sum()
