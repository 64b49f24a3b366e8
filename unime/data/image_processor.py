"""Which images a model's image processor takes: asked of the processor itself, before hours of work.

The Qwen families refuse images that are more than 200 times as wide as high, or as high as wide.
A stage that has a model and data asks about every distinct size first, and at run time an error names
the image.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from unime.core import files, processes
from unime.core.config import Section
from unime.core.errors import DataError, ModelError
from unime.core.loading import load_processor
from unime.data.pixels import first_line, name_of

if TYPE_CHECKING:
    from unime.data.data_folder import DataFolder

Size = tuple[int, int]
"""Width and height in pixels."""

EXTREME = 50
"""Longer side by shorter side; above this the processor is shown an image, not only asked."""
SHORT = 64
"""Shorter side of an image that stands for all of its shape where a processor must be shown one."""
SHOWN = 3
"""How many images an error names."""


class ModelSection(Section):
    """A vision-language model and how inputs are prepared for it."""

    id: str
    """A folder or a Hub id."""
    revision: str | None = None
    prompt: str = "embed/hierarchical.v1"
    """Which prompt file renders instruction and content; here any text, checked by the rooms above."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "nf4"] = "auto"
    """"nf4" loads 4-bit weights for QLoRA, computes in bfloat16, and needs bitsandbytes."""
    attn_implementation: str = "sdpa"
    min_pixels: int = Field(default=56 * 56, gt=0)
    max_pixels: int = Field(default=28 * 28 * 1280, gt=0)
    max_length: int = Field(default=4096, gt=0)
    """Tokens; longer user texts are truncated, image block and assistant header are kept."""


class PictureError(DataError):
    """An image that a model's image processor does not take."""

    def __init__(self, place: int, name: str, size: Size, reason: str) -> None:
        what = name or f"of input {place}"
        super().__init__(
            f"the picture {what} ({size[0]} x {size[1]} pixels) cannot be used by this model: "
            f"{reason}; leave it out, or crop or pad it"
        )
        self.place, self.name, self.size, self.reason = place, name, size, reason

    def __reduce__(self) -> tuple[type[PictureError], tuple[int, str, Size, str]]:
        """Rebuild from the parts; exceptions pickle by their single message otherwise."""
        return PictureError, (self.place, self.name, self.size, self.reason)

    def at(self, place: int) -> PictureError:
        """Return the same of another place: that among all inputs, not among a batch's."""
        return PictureError(place, self.name, self.size, self.reason)


def refusal(image_processor: Any, size: Size) -> str | None:
    """Return why an image processor does not take images of a size; None where it does."""
    width, height = size
    count = getattr(image_processor, "get_number_of_image_patches", None)
    shown = size
    if max(size) <= EXTREME * min(size):
        try:
            if count is not None:
                count(height, width)
                return None
            # No way to ask: it is shown a small image of this shape.
            scale = min(1.0, SHORT / min(size))
            shown = (max(1, round(width * scale)), max(1, round(height * scale)))
        except Exception:
            shown = size  # what it does with an image is what counts
    try:
        image_processor([Image.new("RGB", shown)], return_tensors="pt")
    # Processors raise what they like: ValueError, ZeroDivisionError, RuntimeError of a resize.
    except Exception as error:
        return first_line(error)
    return None


def refusals(image_processor: Any, sizes: Iterable[Size]) -> dict[Size, str]:
    """Return the sizes that an image processor does not take, with its reasons."""
    asked = {size: refusal(image_processor, size) for size in dict.fromkeys(sizes)}
    return {size: reason for size, reason in asked.items() if reason is not None}


def named(error: Exception, image_processor: Any, images: Sequence[Image.Image]) -> Exception:
    """Return an image processor's error about a batch with the image that it is about."""
    for place, image in enumerate(images):
        reason = refusal(image_processor, image.size)
        if reason is not None:
            return PictureError(place, name_of(image), image.size, reason)
    return error


def image_processor_of(config: ModelSection) -> Any:
    """Load a model's image processor with the recipe's pixel limits; no weights are loaded.

    Raises:
        ModelError: when it cannot be loaded, or the model takes no images.
    """
    processor = load_processor(config.id, config.revision)
    found = getattr(processor, "image_processor", None)
    if found is None:
        raise ModelError(f"{config.id} has no image processor; expected a vision-language model")
    if hasattr(found, "merge_size"):  # elsewhere limits change tiles, and not what is taken
        found.size = {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}
    return found


def check_items(data: DataFolder, config: ModelSection, listed: Path) -> None:
    """Refuse a data folder with images that a model does not take, before anything is computed.

    Args:
        data: its items say how large images are.
        config: the model; its image processor is loaded where there are images to ask about.
        listed: the file that lists the items.

    Raises:
        DataError: with the first ones, the number of all, and what to do.
    """
    table = data.items.table
    sizes = np.stack([table[name].to_numpy().astype(float) for name in ("width", "height")], axis=1)
    rows = np.flatnonzero(~np.isnan(sizes).any(axis=1))
    if not len(rows):
        return
    distinct, which = np.unique(sizes[rows].astype(np.int64), axis=0, return_inverse=True)
    reasons = refusals(image_processor_of(config), map(tuple, distinct.tolist()))
    refused = [n for n, size in enumerate(map(tuple, distinct.tolist())) if size in reasons]
    found = rows[np.isin(which.reshape(-1), refused)].tolist()
    if not found:
        return
    lines = []
    for row in found:
        size = (int(sizes[row, 0]), int(sizes[row, 1]))
        lines.append(
            {
                "item": row,
                "image": data.items.item(row).image,
                "width": size[0],
                "height": size[1],
                "reason": reasons[size],
            }
        )
    if processes.is_main():
        files.write_text(
            listed, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        )
    first = "; ".join(
        f"{line['image']} ({line['width']} x {line['height']}): {line['reason']}"
        for line in lines[:SHOWN]
    )
    raise DataError(
        f"{len(lines)} pictures of {data.path} cannot be used by {config.id}, all are listed in "
        f"{listed}: {first}. Leave them out: put `model: {{id: {config.id}}}` into the recipe of that data and run "
        "`unime data` again with --restart, or crop or pad them"
    )
