"""Two exact savings in the vision towers of the Qwen families, for every device.

* Without flash attention their towers attend image by image, in a Python loop. Images with
  equally many patches can go through one call.
* Their patch embedding is a convolution whose kernel is the whole patch: a matrix product, which
  is much faster where convolutions are not tuned for that shape (CPUs).

Weights, module names and results stay as they are: both are tried once, on two small images, and
taken back where they are not called or change anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from unime.core.console import log
from unime.models.hooks import agree, named

# transformers hands whole batches and their borders (`cu_seq_lens_q`) to an implementation only if
# its name contains "flash"; to any other it hands one image at a time.
GROUPED = "unime_grouped_flash"


@torch.no_grad()
def speed_up_vision(model: nn.Module) -> bool:
    """Let a model's vision tower use both savings, if it is built that way.

    Args:
        model: a transformers model; changed in place.

    Returns:
        Whether it is, and computes the same with them.
    """
    tower = getattr(model, "visual", None) or getattr(getattr(model, "model", None), "visual", None)
    if tower is None or not hasattr(tower, "blocks"):
        return False
    if not hasattr(getattr(tower, "patch_embed", None), "proj"):
        return False
    import transformers

    projection, attention = tower.patch_embed.proj, tower.config._attn_implementation
    kind = type(projection)
    try:
        patches, grid = _small_pictures(tower)
        stock = tower(patches, grid_thw=grid).pooler_output
        if kind is nn.Conv3d and projection.kernel_size == projection.stride:
            projection.__class__ = PatchProjection
        with _calls_counted() as calls:
            if attention == "sdpa":
                tower.config._attn_implementation = GROUPED
            agree(tower(patches, grid_thw=grid).pooler_output, stock)
        if attention == "sdpa" and not calls:
            raise ValueError("the registered attention was not called")
    except Exception as error:
        projection.__class__ = kind
        tower.config._attn_implementation = attention
        log(
            f"{type(tower).__name__}: transformers {transformers.__version__} does not take another "
            f"attention or patch embedding ({named(error)}): the tower keeps its own, pictures take "
            "longer; the results are the same"
        )
        return False
    return True


@contextmanager
def _calls_counted() -> Iterator[list[str]]:
    """Register the grouped attention; yield a list that has an entry for each call in this block."""
    from transformers import AttentionInterface

    calls: list[str] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(GROUPED)
        return grouped_attention(*args, **kwargs)

    # The name is looked up at each call.
    AttentionInterface.register(GROUPED, counted)
    try:
        yield calls
    finally:
        AttentionInterface.register(GROUPED, grouped_attention)


def _small_pictures(tower: Any) -> tuple[Float[Tensor, "patches values"], Int[Tensor, "2 3"]]:
    """Return the patches of two images of different sizes, the same in every process."""
    like, side = tower.patch_embed.proj.weight, tower.config.spatial_merge_size
    grid = torch.tensor([[1, 2 * side, 2 * side], [1, 2 * side, 4 * side]], device=like.device)
    shape = int(grid.prod(dim=1).sum()), like[0].numel()
    values = torch.arange(shape[0] * shape[1], device=like.device).sin()
    return values.view(shape).to(like.dtype), grid


class PatchProjection(nn.Conv3d):
    """A convolution over inputs that are one kernel large."""

    def forward(
        self,
        input: Float[Tensor, "patches channels time height width"],  # noqa: A002
    ) -> Float[Tensor, "patches features 1 1 1"]:
        """Return the product with the flattened kernel."""
        if tuple(input.shape[2:]) != tuple(self.kernel_size):
            return super().forward(input)
        product = functional.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return product[:, :, None, None, None]


def grouped_attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads patches dim"],
    key: Float[Tensor, "1 heads patches dim"],
    value: Float[Tensor, "1 heads patches dim"],
    attention_mask: None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    cu_seq_lens_q: Int[Tensor, " borders"],
    **_: Any,
) -> tuple[Float[Tensor, "1 patches heads dim"], None]:
    """Attend within each image; images with equally many patches go through one call.

    Args:
        module: the attention layer, unused.
        query: the patches of all images, one after the other.
        key: in the same order.
        value: in the same order.
        attention_mask: always None.
        scaling: of the products.
        dropout: probability.
        cu_seq_lens_q: where images begin, and the end.
    """
    del module, attention_mask
    borders = cu_seq_lens_q.tolist()
    by_length: dict[int, list[int]] = defaultdict(list)
    for start, end in pairwise(borders):
        by_length[end - start].append(start)
    parts = [part[0].transpose(0, 1) for part in (query, key, value)]
    mixed = torch.empty_like(parts[0])
    for length, starts in by_length.items():
        whole = len(by_length) == 1
        rows = None if whole else _rows(starts, length, query.device)
        blocks = [
            (part if rows is None else part[rows]).unflatten(0, (-1, length)).transpose(1, 2)
            for part in parts
        ]
        out = functional.scaled_dot_product_attention(*blocks, dropout_p=dropout, scale=scaling)
        flat = out.transpose(1, 2).flatten(0, 1)
        mixed = flat if rows is None else mixed.index_copy(0, rows, flat)
    return mixed.unsqueeze(0), None


def _rows(starts: list[int], length: int, device: torch.device) -> Int[Tensor, " rows"]:
    begin = torch.tensor(starts, device=device)
    return (begin[:, None] + torch.arange(length, device=device)).flatten()
