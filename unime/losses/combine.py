"""The table of losses; a recipe's list of them as one function, checked and summed by weight."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from unime.core.config import Section
from unime.core.errors import RecipeError, did_you_mean, lookup
from unime.losses.info_nce import info_nce
from unime.losses.listwise import choose, listwise
from unime.losses.matryoshka import at_lengths
from unime.losses.records import ContrastBatch, RelationBatch, RerankBatch
from unime.losses.relational_kl import relational_kl
from unime.losses.soft_label import soft_label
from unime.losses.yes_no import yes_contrast, yes_no

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
"""Name in a recipe -> function."""

Record = ContrastBatch | RelationBatch | RerankBatch


class LossTerm(Section):
    """One loss of a recipe's list."""

    name: str
    """A name in LOSSES."""
    weight: float = Field(default=1.0, gt=0)
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword options of the loss function."""
    matryoshka_dims: list[int] = Field(default_factory=list)
    """Short vectors: the loss is the mean over the whole embedding and its first numbers."""


class Combined(NamedTuple):
    """A total and the unweighted value of each of its parts, for the log."""

    total: Tensor
    parts: dict[str, Tensor]


LossFunction = Callable[[Any], Combined]
"""A batch's record -> total and parts."""


def combine(terms: Sequence[LossTerm], record: type[Record]) -> LossFunction:
    """Return the weighted sum of a recipe's losses as one function of a batch.

    Args:
        terms: the recipe's list.
        record: what the stage's batches are.

    Raises:
        RecipeError: for an unknown name, option or value, or the wrong kind of batch.
    """
    if not terms:
        raise RecipeError("losses: the list is empty; name at least one loss")
    options = [_checked_options(term, record.__name__) for term in terms]
    names = _distinct([term.name for term in terms])

    def total(batch: Record) -> Combined:
        values = [
            at_lengths(LOSSES[term.name], batch, term.matryoshka_dims, **chosen)
            for term, chosen in zip(terms, options, strict=True)
        ]
        weighted = [term.weight * value for term, value in zip(terms, values, strict=True)]
        parts = {name: value.detach() for name, value in zip(names, values, strict=True)}
        return Combined(sum(weighted[1:], start=weighted[0]), parts)

    return total


def record_of(loss: Loss) -> str:
    """Return the name of the record a loss takes, read off its first parameter."""
    return next(iter(get_type_hints(loss).values())).__name__


def _checked_options(term: LossTerm, record: str) -> dict[str, Any]:
    loss = lookup(LOSSES, term.name, "loss")
    if record_of(loss) != record:
        fitting = ", ".join(sorted(n for n, other in LOSSES.items() if record_of(other) == record))
        raise RecipeError(
            f"loss '{term.name}' takes a {record_of(loss)}, this stage has a {record}; use {fitting}"
        )
    known, checked = _options(loss), {}
    for option, value in term.options.items():
        if option not in known:
            raise RecipeError(
                f"loss '{term.name}' has no option '{option}'{did_you_mean(option, known)}"
            )
        try:
            checked[option] = TypeAdapter(known[option]).validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise RecipeError(f"loss '{term.name}', {option}: {problem} (got {value!r})") from None
        _check_number(term.name, option, checked[option])
    return checked


def _check_number(loss: str, option: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if not math.isfinite(value):
        raise RecipeError(f"loss '{loss}', {option}: expected a finite number, got {value}")
    if (option.endswith("temperature") or option == "hardest") and value <= 0:
        raise RecipeError(f"loss '{loss}', {option}: expected a number above 0, got {value}")


def _options(loss: Loss) -> dict[str, Any]:
    hints = get_type_hints(loss)
    parameters = inspect.signature(loss).parameters.values()
    return {p.name: hints[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}


def _distinct(names: list[str]) -> list[str]:
    """Number the names that occur more than once."""
    return [
        name if names.count(name) == 1 else f"{name}_{number}"
        for number, name in enumerate(names, start=1)
    ]
