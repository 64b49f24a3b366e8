"""What goes into a vision tower, and what is remembered of it; every family calls it in one place.

* Images travel as bytes: where the processor cuts them into patches (the Qwen families), a
  worker hands over uint8 patches of one frame, an eighth of the float tensor's size, and they are
  normalised on the device, a chunk at a time.
* A frozen tower's features are a constant of the image: the first pass of a cached step keeps
  them for the second, as far as a budget reaches.
* Features that are known already are handed back to the model through the same place: unlike the
  argument `mm_encoder_outputs`, which some versions ignore, it works with all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

KEPT = ("pooler_output", "deepstack_features")
"""What the language models read of a tower's output."""

# Of this thread alone: several may ask one model.
_HANDED: ContextVar[list[Any] | None] = ContextVar("handed", default=None)


class TowerOutput(NamedTuple):
    """The features of some images, one after the other, in no version's own layout."""

    features: Float[Tensor, "image_tokens dim"]
    deep: tuple[Float[Tensor, "image_tokens dim"], ...]
    """For deeper layers (Qwen3-VL)."""


class FeatureLayout(NamedTuple):
    """How one version of a model arranges its tower's output."""

    tile: tuple[int, ...] | None
    """Shape of one part where all features are one tensor; None: a tensor for each image."""
    deep_by_picture: bool
    """Whether deeper layers' features are a tensor for each image, too."""

    def arranged(self, output: TowerOutput) -> SimpleNamespace:
        """Return what the model's `get_image_features` would have returned."""
        whole = output.features
        return SimpleNamespace(
            pooler_output=[whole] if self.tile is None else whole.view(-1, *self.tile),
            deepstack_features=[[d] if self.deep_by_picture else d for d in output.deep],
        )


def tower_output(backbone: Any, pixels: Mapping[str, Tensor]) -> tuple[TowerOutput, FeatureLayout]:
    """Return what a model's vision tower makes of images.

    Args:
        backbone: the model without its head.
        pixels: what its processor returned beside the text.
    """
    output = backbone.get_image_features(**pixels, return_dict=True)
    pooled, deep = output.pooler_output, getattr(output, "deepstack_features", None) or []
    layout = FeatureLayout(
        tuple(pooled.shape[1:]) if isinstance(pooled, Tensor) else None,
        any(not isinstance(layer, Tensor) for layer in deep),
    )
    return TowerOutput(_joined(pooled), tuple(map(_joined, deep))), layout


@contextmanager
def handed_over(output: Any) -> Iterator[None]:
    """Let a model's call in this block find its tower's output ready; it must ask for it."""
    handed = [output]
    before = _HANDED.set(handed)
    try:
        yield
    finally:
        _HANDED.reset(before)
    assert not handed, "the model did not ask for its pictures' features"


class VisionInput:
    """Stands in place of a model's `get_image_features`.

    Args:
        model: the transformers model without language-model head; changed in place.
        image_processor: its own.
    """

    def __init__(self, model: Any, image_processor: Any) -> None:
        self._tower = model.get_image_features
        # generate() hands on only what the signature names: towers fail without grids or sizes.
        self.__signature__ = inspect.signature(self._tower)
        self._processor = image_processor
        self._kept: dict[int, Any] = {}
        self.budget = 0
        """Bytes of features that are kept from one pass to the other."""
        self._left = 0
        self._chunk: int | None = None
        self.reused = 0
        """How many forward passes of the tower were spared so far."""
        model.get_image_features = self

    @classmethod
    def of(cls, model: Any, image_processor: Any) -> VisionInput:
        """Return the one that stands in a model already, or put one there."""
        present = model.get_image_features
        return present if isinstance(present, cls) else cls(model, image_processor)

    def __call__(self, pixel_values: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the tower's output for a batch of images."""
        handed = _HANDED.get()
        if handed is not None:
            return handed.pop()
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
            self._kept[chunk] = SimpleNamespace(**values)


def travels_packed(image_processor: Any) -> bool:
    """Tell whether a processor's patches can be handed over as bytes of one frame."""
    return bool(getattr(image_processor, "temporal_patch_size", 0)) and bool(
        image_processor.do_rescale and image_processor.do_normalize
    )


def pack(
    patches: UInt8[Tensor, "patches values"], image_processor: Any
) -> UInt8[Tensor, "patches channels pixels"]:
    """Drop the repeated frames of pictures' patches (an image is a film of equal frames)."""
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


def _joined(parts: Tensor | Sequence[Tensor]) -> Float[Tensor, "image_tokens dim"]:
    tensors = [parts] if isinstance(parts, Tensor) else parts
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in tensors])


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
