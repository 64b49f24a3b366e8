"""How the gradients of several processes become one, by what accelerate was launched with.

Every process back-propagates its own chunks; the gradient of the batch is the sum over processes.
All backends reduce once a step, after the last chunk:

* one process: nothing to do;
* DDP: one all-reduce here. The model's DDP wrapper is never called: its buckets abort on unequal
  chunk counts and are silently wrong when a trainable vision tower gets no image in the last chunk;
* ZeRO: DeepSpeed's coalesced reduction, then its own optimizer step;
* FSDP2: reduce-scatter in the last chunk's backward.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from unime.core.errors import RecipeError
from unime.core.processes import launched_deepspeed, launched_fsdp, ranks

BUCKET = 2**26
"""Numbers reduced together."""


def refuse_impossible(*, gradient_accumulation_steps: int) -> None:
    """Refuse, before anything is loaded, what a library cannot do or would silently do otherwise.

    Raises:
        RecipeError: with the reason.
    """
    if launched_fsdp():
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise RecipeError(
                "this launch uses FSDP version 1, which cannot hold back the reduction of a chunk; "
                "set fsdp_version: 2, as recipes/launch/fsdp2.yaml does"
            )
        if not torch.cuda.is_available():
            raise RecipeError(
                "FSDP2 needs GPUs: without any, accelerate would silently run DDP; "
                "launch with recipes/launch/ddp.yaml on this machine"
            )
    if launched_deepspeed() and gradient_accumulation_steps > 1:
        raise RecipeError(
            f"gradient_accumulation_steps is {gradient_accumulation_steps}, but DeepSpeed reduces the "
            "gradients of many backward passes only once an optimizer step; make the batch larger "
            "instead: memory depends on `budget`, not on the batch"
        )


def backend_of(model: nn.Module) -> Backend:
    """Return the backend for a model as accelerate prepared it."""
    from torch.distributed.fsdp import FSDPModule

    if hasattr(model, "coalesce_grad_reduction"):
        return Zero(model)
    if isinstance(model, FSDPModule):
        return Sharded(model)
    return DataParallel(model)


@runtime_checkable
class Backend(Protocol):
    """What the trainer asks of a way to train on several processes."""

    shards_weights: bool
    """Whether a forward pass is itself a meeting of all processes."""

    def forward(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run the model."""
        ...

    def backward(self, surrogate: Tensor, is_last: bool) -> None:
        """Back-propagate a chunk's share."""
        ...

    @contextmanager
    def step(self, is_boundary: bool) -> Iterator[None]:
        """Surround a cached step; at a boundary the gradients are those of all processes after it."""
        ...


class DataParallel:
    """Whole copies of the model; also one process alone.

    Args:
        model: as accelerate prepared it.
    """

    shards_weights = False

    def __init__(self, model: nn.Module) -> None:
        wrapped = isinstance(model, nn.parallel.DistributedDataParallel)
        self._module: nn.Module = model.module if wrapped else model

    def forward(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run the model."""
        return self._module(features)

    def backward(self, surrogate: Tensor, is_last: bool) -> None:
        """Back-propagate."""
        surrogate.backward()

    @contextmanager
    def step(self, is_boundary: bool) -> Iterator[None]:
        """Sum the gradients over the processes after the last batch of an optimizer step."""
        yield
        if is_boundary and ranks().world > 1:
            sum_gradients(self._module)


class Zero:
    """DeepSpeed, stage 2 or 3.

    Args:
        engine: DeepSpeed's engine.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        stage = engine.zero_optimization_stage()
        if stage not in (1, 2, 3):
            raise RecipeError(f"DeepSpeed was launched with ZeRO stage {stage}; expected 1, 2 or 3")
        self.shards_weights = stage == 3

    def forward(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run the model."""
        return (self._engine if torch.is_grad_enabled() else self._engine.module)(features)

    def backward(self, surrogate: Tensor, is_last: bool) -> None:
        """Back-propagate; DeepSpeed averages over the processes, so the sum is asked for."""
        if is_last and not self.shards_weights:
            # Its buckets fill in the order gradients arrive: equal everywhere if all arrive.
            trained = [p for p in self._engine.module.parameters() if p.requires_grad]
            surrogate = surrogate + 0 * sum(parameter.sum() for parameter in trained)
        self._engine.backward(surrogate * ranks().world, scale_wrt_gas=False)

    @contextmanager
    def step(self, is_boundary: bool) -> Iterator[None]:
        """Reduce once and let DeepSpeed clip and step."""
        assert is_boundary, "DeepSpeed reduces once an optimizer step"
        with self._engine.coalesce_grad_reduction():
            yield
        self._engine.set_gradient_accumulation_boundary(True)
        self._engine.step()


class Sharded:
    """FSDP2: every layer's weights are gathered for its forward and backward pass.

    Args:
        model: after `fully_shard`.
    """

    shards_weights = True

    def __init__(self, model: Any) -> None:
        self._model = model

    def forward(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run the model."""
        return self._model(features)

    def backward(self, surrogate: Tensor, is_last: bool) -> None:
        """Back-propagate; FSDP averages over the processes, so the sum is asked for."""
        self._model.set_requires_gradient_sync(is_last and self._is_boundary)
        (surrogate * ranks().world).backward()

    @contextmanager
    def step(self, is_boundary: bool) -> Iterator[None]:
        """Reduce in the last chunk of the last batch of an optimizer step."""
        self._is_boundary = is_boundary
        yield


def sum_gradients(module: nn.Module) -> None:
    """Replace every trained parameter's gradient by its sum over the processes."""
    bucket: list[Tensor] = []
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        # A parameter no chunk of this process used may have been used elsewhere.
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        fits = sum(gradient.numel() for gradient in bucket) + parameter.numel() <= BUCKET
        if bucket and not (fits and bucket[0].dtype == parameter.grad.dtype):
            _sum_bucket(bucket)
            bucket = []
        bucket.append(parameter.grad)
    if bucket:
        _sum_bucket(bucket)


def _sum_bucket(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
