"""How the gradients of several processes become one, by what accelerate was launched with.

Every process back-propagates its own chunks; the gradient of the batch is the sum over processes.
All runners reduce once a step, after the last chunk:

* one process: nothing to do;
* DDP: one all-reduce here. The model's DDP wrapper is never called: its buckets abort on unequal
  chunk counts and are silently wrong when a trainable vision tower gets no image in the last chunk;
* ZeRO: DeepSpeed's coalesced reduction, then its own optimizer step;
* FSDP2: reduce-scatter in the last chunk's backward.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unime.core.errors import RecipeError
from unime.core.processes import launched_deepspeed, launched_fsdp, ranks
from unime.models.vision_input import VisionInput
from unime.train.batch import Chunk

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


class ChunkRunner(ABC):
    """Takes chunks forward and backward; one class for each way to train on several processes.

    Args:
        model: as accelerate prepared it.
        vision: where images enter the backbone; keeps a frozen tower's features between the passes.
        device: where chunks are taken to.
    """

    shards_weights = False
    """Whether a forward pass is itself a meeting of all processes."""

    def __init__(self, model: Any, vision: VisionInput, device: torch.device) -> None:
        self._model, self._vision, self._device = model, vision, device
        self._accumulated = 1

    @abstractmethod
    def forward(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run the model on features that are where it is; it may write into them."""

    @abstractmethod
    def backward(self, scalar: Tensor, is_last: bool) -> None:
        """Back-propagate one chunk's scalar; `is_last` of the step."""

    @contextmanager
    @abstractmethod
    def step(self, is_boundary: bool, accumulated: int = 1) -> Iterator[None]:
        """Surround the cached step of one batch.

        Args:
            is_boundary: whether it is the last batch of an optimizer step: the gradients are those of
                all processes afterwards.
            accumulated: how many batches an optimizer step has; their gradients are averaged.
        """
        raise NotImplementedError

    def encode(self, chunk: Chunk) -> Float[Tensor, "chunk dim"]:
        """Return the outputs of a chunk, with gradient if enabled; its features stay as they are."""
        self._vision.announce(id(chunk))
        # A fresh dict, because sentence-transformers writes into the one it gets.
        features = {key: value.to(self._device) for key, value in chunk.features.items()}
        return self.forward(features)["sentence_embedding"]

    def rehearse(self, chunk: Chunk) -> None:
        """Take a chunk forward and backward as a step would, and leave nothing behind.

        Raises:
            RecipeError: where a process that runs out of memory would leave the others waiting.
        """
        if self.shards_weights:
            raise RecipeError(
                "budget.chunk: auto cannot be tried when weights are sharded over the processes "
                "(one that runs out of memory would leave the others waiting); give numbers"
            )
        self.encode(chunk).sum().backward()
        self._model.zero_grad()


class DataParallelRunner(ChunkRunner):
    """Whole copies of the model; also one process alone."""

    def __init__(self, model: nn.Module, vision: VisionInput, device: torch.device) -> None:
        wrapped = isinstance(model, nn.parallel.DistributedDataParallel)
        super().__init__(model.module if wrapped else model, vision, device)

    def forward(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run the model."""
        return self._model(features)

    def backward(self, scalar: Tensor, is_last: bool) -> None:
        """Back-propagate."""
        (scalar / self._accumulated).backward()

    @contextmanager
    def step(self, is_boundary: bool, accumulated: int = 1) -> Iterator[None]:
        """Sum the gradients over the processes after the last batch of an optimizer step."""
        self._accumulated = accumulated
        with self._vision.reuse():
            yield
        if is_boundary and ranks().world > 1:
            sum_gradients(self._model)


class ZeroRunner(ChunkRunner):
    """DeepSpeed, stage 2 or 3; the model is its engine."""

    def __init__(self, engine: Any, vision: VisionInput, device: torch.device) -> None:
        super().__init__(engine, vision, device)
        stage = engine.zero_optimization_stage()
        if stage not in (1, 2, 3):
            raise RecipeError(f"DeepSpeed was launched with ZeRO stage {stage}; expected 1, 2 or 3")
        self.shards_weights = stage == 3

    def forward(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run the model."""
        return (self._model if torch.is_grad_enabled() else self._model.module)(features)

    def backward(self, scalar: Tensor, is_last: bool) -> None:
        """Back-propagate; DeepSpeed averages over the processes, so the sum is asked for."""
        if is_last and not self.shards_weights:
            # Its buckets fill in the order gradients arrive: equal everywhere if all arrive.
            trained = [p for p in self._model.module.parameters() if p.requires_grad]
            scalar = scalar + 0 * sum(parameter.sum() for parameter in trained)
        self._model.backward(scalar * ranks().world, scale_wrt_gas=False)

    @contextmanager
    def step(self, is_boundary: bool, accumulated: int = 1) -> Iterator[None]:
        """Reduce once; then DeepSpeed clips, and takes the optimizer's step."""
        assert is_boundary and accumulated == 1, "DeepSpeed reduces once an optimizer step"
        with self._model.coalesce_grad_reduction(), self._vision.reuse():
            yield
        self._model.set_gradient_accumulation_boundary(True)
        self._model.step()


class FSDPRunner(ChunkRunner):
    """FSDP2: every layer's weights are gathered for its forward and backward pass."""

    shards_weights = True

    def forward(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run the model."""
        return self._model(features)

    def backward(self, scalar: Tensor, is_last: bool) -> None:
        """Back-propagate; FSDP averages over the processes, so the sum is asked for."""
        self._model.set_requires_gradient_sync(is_last and self._is_boundary)
        (scalar / self._accumulated * ranks().world).backward()

    @contextmanager
    def step(self, is_boundary: bool, accumulated: int = 1) -> Iterator[None]:
        """Reduce in the last chunk of the last batch of an optimizer step."""
        self._is_boundary, self._accumulated = is_boundary, accumulated
        with self._vision.reuse():
            yield


def runner_of(model: nn.Module, vision: VisionInput, device: torch.device) -> ChunkRunner:
    """Return the runner for a model as accelerate prepared it."""
    from torch.distributed.fsdp import FSDPModule

    if hasattr(model, "coalesce_grad_reduction"):
        return ZeroRunner(model, vision, device)
    if isinstance(model, FSDPModule):
        return FSDPRunner(model, vision, device)
    return DataParallelRunner(model, vision, device)


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
