"""The table of losses: name in a recipe -> function."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_type_hints

from torch import Tensor

from unime.losses.info_nce import info_nce
from unime.losses.relational_kl import relational_kl
from unime.losses.soft_label import soft_label

Loss = Callable[..., Tensor]

LOSSES: dict[str, Loss] = {
    "info_nce": info_nce,
    "soft_label": soft_label,
    "relational_kl": relational_kl,
}


def record_of(loss: Loss) -> str:
    """Return the name of the record a loss takes, read off its first parameter."""
    return next(iter(get_type_hints(loss).values())).__name__
