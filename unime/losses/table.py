"""The table of losses: name in a recipe -> function."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_type_hints

from torch import Tensor

from unime.losses.choose import choose
from unime.losses.info_nce import info_nce
from unime.losses.listwise import listwise
from unime.losses.relational_kl import relational_kl
from unime.losses.soft_label import soft_label
from unime.losses.yes_contrast import yes_contrast
from unime.losses.yes_no import yes_no

Loss = Callable[..., Tensor]

LOSSES: dict[str, Loss] = {
    "info_nce": info_nce,
    "soft_label": soft_label,
    "relational_kl": relational_kl,
    "yes_no": yes_no,
    "yes_contrast": yes_contrast,
    "choose": choose,
    "listwise": listwise,
}


def record_of(loss: Loss) -> str:
    """Return the name of the record a loss takes, read off its first parameter."""
    return next(iter(get_type_hints(loss).values())).__name__
