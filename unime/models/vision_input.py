"""What goes into a vision tower, and what is remembered of it; every family calls it in one place.

* Pictures travel as bytes: where the processor cuts them into patches (the Qwen families), a
  worker hands over uint8 patches of one frame, an eighth of the float tensor's size, and they are
  normalised on the device, a chunk at a time.
* A frozen tower's features are a constant of the picture: the first pass of a cached step keeps
  them for the second, as far as a budget reaches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

KEPT = ("pooler_output", "deepstack_features")
"""What the language models read of a tower's output."""


class VisionInput:
    """Stands in place of a model's `get_image_features`.

    Args:
        model: the transformers model without language-model head; changed in place.
        image_processor: its own.
    """

    def __init__(self, model: Any, image_processor: Any) -> None:
        self._tower = model.get_image_features
        self._processor = image_processor
        self._kept: dict[int, Any] = {}
        self.budget = 0
        """Bytes of features that are kept from one pass to the other."""
        self._left = 0
        self._chunk: int | None = None
        self.reused = 0
        """How many forward passes of the tower were spared so far."""
        model.get_image_features = self

    def __call__(self, pixel_values: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the tower's output for a batch of pictures."""
        if torch.is_grad_enabled() and self._chunk in self._kept:
            self.reused += 1
            return self._kept.pop(self._chunk)
        if pixel_values.dtype == torch.uint8:
            pixel_values = unpack(pixel_values, self._processor)
        out = self._tower(pixel_values, *args, **kwargs)
        if self._chunk is not None and self._left and not torch.is_grad_enabled():
            self._keep(self._chunk, out)
        return out

    @contextmanager
    def reuse(self) -> Iterator[None]:
        """Keep what is computed without gradient until it is asked for with gradient."""
        self._left = self.budget
        try:
            yield
        finally:
            self._kept.clear()
            self._chunk = None

    def announce(self, chunk: int) -> None:
        """Say which chunk the next forward pass is for; its second one may reuse the first's."""
        self._chunk = chunk

    def _keep(self, chunk: int, out: Any) -> None:
        values = {name: getattr(out, name, None) for name in KEPT}
        size = sum(tensor.nbytes for tensor in _tensors(values))
        if size <= self._left:
            self._left -= size
            self._kept[chunk] = type(out)(**{k: v for k, v in values.items() if v is not None})


def travels_packed(image_processor: Any) -> bool:
    """Tell whether a processor's patches can be handed over as bytes of one frame."""
    return bool(getattr(image_processor, "temporal_patch_size", 0)) and bool(
        image_processor.do_rescale and image_processor.do_normalize
    )


def pack(
    patches: UInt8[Tensor, "patches values"], image_processor: Any
) -> UInt8[Tensor, "patches channels pixels"]:
    """Drop the repeated frames of pictures' patches (a picture is a film of equal frames)."""
    channels, frames = len(image_processor.image_mean), image_processor.temporal_patch_size
    return patches.view(len(patches), channels, frames, -1)[:, :, 0].contiguous()


def unpack(
    packed: UInt8[Tensor, "patches channels pixels"], image_processor: Any
) -> Float[Tensor, "patches values"]:
    """Normalise packed patches as the processor would have, and repeat their frames."""
    scale, device = image_processor.rescale_factor, packed.device
    mean = torch.tensor(image_processor.image_mean, device=device)[:, None] / scale
    deviation = torch.tensor(image_processor.image_std, device=device)[:, None] / scale
    values = (packed.float() - mean) / deviation
    frames = image_processor.temporal_patch_size
    return values[:, :, None].expand(-1, -1, frames, -1).flatten(1)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
