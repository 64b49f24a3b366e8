"""ImageFeatures as a language model sees them: a block of tokens, and the vision tower's output.

An image costs its preprocessing and its pass through the tower once, however many prompts show it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unime.core.errors import ModelError
from unime.data.image_processor import named
from unime.data.pixels import to_rgb
from unime.models.processor import tokenizing
from unime.models.vision_input import TowerOutput, tower_output

if TYPE_CHECKING:
    from PIL.Image import Image

AT_ONCE = 16
"""ImageFeatures in one pass of the vision tower."""


class KeyedImage(NamedTuple):
    """An image that is opened when it is needed."""

    key: bytes
    """Equal where the pixels are equal."""
    open: Callable[[], Image]


@dataclass(frozen=True)
class ImageBlock:
    """What a model reads in place of one image's placeholder."""

    tokens: Int[Tensor, " block"]
    """Image tokens, and whatever the family puts around and between them; on the CPU."""
    features: Float[Tensor, "image_tokens dim"]
    deep: tuple[Float[Tensor, "image_tokens dim"], ...]
    """Features for deeper layers (Qwen3-VL)."""
    grid: Int[Tensor, " axes"] | None
    """Patches in time, height and width, where positions depend on them (Qwen)."""

    @property
    def nbytes(self) -> int:
        """What it holds on to."""
        return sum(part.nbytes for part in (self.features, *self.deep))


class ImageFeatures:
    """Looks at images, and remembers the last ones.

    Args:
        model: a generative vision-language model.
        processor: its processor.
        cache_gb: how much vision output is remembered beyond one call.
    """

    def __init__(self, model: Any, processor: Any, cache_gb: float = 1.0) -> None:
        self._backbone = getattr(model, model.base_model_prefix)
        self._processor = processor
        self.token_id = image_token_id(processor)
        self._capacity = int(cache_gb * 1e9)
        self._seen: OrderedDict[tuple[bytes, bool], ImageBlock] = OrderedDict()

    def see(self, prompts: Sequence[Sequence[KeyedImage]]) -> list[list[ImageBlock]]:
        """Return what each image of each prompt becomes."""
        missing: dict[tuple[bytes, bool], KeyedImage] = {}
        for pictures in prompts:
            for picture in pictures:
                key = (picture.key, looks_alone(self._processor, len(pictures)))
                if key not in self._seen:
                    missing.setdefault(key, picture)
        fresh: dict[tuple[bytes, bool], ImageBlock] = {}
        for alone in (True, False):
            keys = [key for key in missing if key[1] == alone]
            for start in range(0, len(keys), AT_ONCE):
                chosen = keys[start : start + AT_ONCE]
                images = [missing[key].open() for key in chosen]
                fresh |= dict(zip(chosen, self._look(images, alone=alone), strict=True))
        found = [
            [
                self._take((picture.key, looks_alone(self._processor, len(pictures))), fresh)
                for picture in pictures
            ]
            for pictures in prompts
        ]
        self._forget()
        return found

    def _take(
        self, key: tuple[bytes, bool], fresh: dict[tuple[bytes, bool], ImageBlock]
    ) -> ImageBlock:
        if key not in self._seen:
            self._seen[key] = fresh[key]
        self._seen.move_to_end(key)
        return self._seen[key]

    def _forget(self) -> None:
        held = sum(seen.nbytes for seen in self._seen.values())
        while held > self._capacity and self._seen:
            held -= self._seen.popitem(last=False)[1].nbytes

    def _look(self, images: list[Image], *, alone: bool) -> list[ImageBlock]:
        inputs, blocks = prepare_pictures(self._processor, images, len(images) if alone else 0)
        inputs = {name: value.to(self._backbone.device) for name, value in inputs.items()}
        with torch.inference_mode():
            output, _ = tower_output(self._backbone, inputs)
        counts = [int((block == self.token_id).sum()) for block in blocks]
        # A single image of a prompt with several was shown twice; see `prepare_pictures`.
        shown = sum(counts) * (2 if len(images) == 1 and not alone else 1)
        if shown != len(output.features):
            raise ModelError(
                f"{len(images)} pictures have {shown} image tokens and "
                f"{len(output.features)} features; this family's processor is not supported"
            )
        features = output.features[: sum(counts)].split(counts)
        deep = [layer[: sum(counts)].split(counts) for layer in output.deep]
        grids = inputs.get("image_grid_thw")
        return [
            ImageBlock(
                block,
                features[number],
                tuple(layer[number] for layer in deep),
                None if grids is None else grids[number],
            )
            for number, block in enumerate(blocks)
        ]


def image_token_id(processor: Any) -> int:
    """Return the token that stands for a part of an image."""
    return int(processor.tokenizer.convert_tokens_to_ids(processor.image_token))


def looks_alone(processor: Any, pictures: int) -> bool:
    """Tell whether images look as each would alone, in a prompt of so many.

    LLaVA-OneVision cuts an image into tiles only where it is the prompt's only one. Elsewhere
    company changes nothing.
    """
    return pictures == 1 or "batch_num_images" not in processor.model_input_names


def prepare_pictures(
    processor: Any, images: Sequence[Image], alone: int
) -> tuple[dict[str, Tensor], list[Int[Tensor, " block"]]]:
    """Return the vision tower's inputs, and the block of tokens that stands for each image.

    Args:
        processor: of a generative vision-language model.
        images: those first that look as they would alone.
        alone: how many of them do; see `looks_alone`.
    """
    if not images:
        return {}, []
    token = processor.image_token
    images = [to_rgb(image) for image in images]
    single, among = images[:alone], images[alone:]
    texts, rows = [token] * len(single), [[image] for image in single]
    if among:
        # A prompt of many images, at least two, shows each in the way of several.
        many = [*among, *among[:1]] if len(among) == 1 else list(among)
        texts.append(token * len(many))
        rows.append(many)
    try:
        with tokenizing():
            batch = processor(
                text=texts, images=rows, padding=True, add_special_tokens=False, return_tensors="pt"
            )
    except Exception as error:
        raise named(error, processor.image_processor, images) from error
    blocks = [
        ids[mask.bool()]
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    if among:
        # All of its images take equally many tokens, and nothing stands between them.
        blocks[-1:] = blocks[-1].chunk(len(rows[-1]))[: len(among)]
    text = ("input_ids", "attention_mask", "mm_token_type_ids")
    return {name: value for name, value in batch.items() if name not in text}, blocks


def vision_output(pictures: Sequence[ImageBlock]) -> TowerOutput:
    """Join the images of a batch, in the order of their tokens."""
    return TowerOutput(
        torch.cat([seen.features for seen in pictures]),
        tuple(map(torch.cat, zip(*(seen.deep for seen in pictures), strict=True))),
    )
