"""The tokens that spell an answer, and how likely a model is to give it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unime.core.errors import ModelError


def single_token_spellings(tokenizer: Any, answers: Sequence[str]) -> list[int]:
    """Return the ids of all single tokens that spell one of the answers, in any case.

    Raises:
        ModelError: when the tokenizer has none.
    """
    words = {word for answer in answers for word in (answer, answer.lower(), answer.capitalize())}
    words |= {answer.upper() for answer in answers}
    spellings = sorted(words | {f" {word}" for word in words})
    found = {token for spelling in spellings if (token := _single(tokenizer, spelling)) is not None}
    if not found:
        raise ModelError(
            f"the judge's tokenizer has no single token for any of the answers {sorted(words)}; "
            "use a prompt file with answers it has"
        )
    return sorted(found)


def single_token(tokenizer: Any, answers: Sequence[str]) -> int:
    """Return the id of the first answer that is one token, as it is or else behind a space.

    Raises:
        ModelError: when none is.
    """
    for spelling in [*answers, *(f" {answer}" for answer in answers)]:
        if (token := _single(tokenizer, spelling)) is not None:
            return token
    raise ModelError(
        f"the tokenizer has no single token for any of the answers {list(answers)}; use a prompt "
        "file with answers it has"
    )


def answer_masses(
    logits: Float[Tensor, "batch vocab"], answers: Sequence[Sequence[int]]
) -> Float[Tensor, "batch answers"]:
    """Return the probability of each answer, all its spellings together, float64."""
    probabilities = logits.double().softmax(dim=-1)
    return torch.stack([probabilities[:, list(ids)].sum(dim=1) for ids in answers], dim=1)


def _single(tokenizer: Any, spelling: str) -> int | None:
    ids = tokenizer.encode(spelling, add_special_tokens=False)
    # A word the vocabulary lacks may come back as one unknown token: read it back.
    if len(ids) == 1 and tokenizer.decode(ids).strip() == spelling.strip():
        return ids[0]
    return None
