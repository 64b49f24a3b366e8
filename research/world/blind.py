"""Truths with something missing: what a judge would believe that cannot see it.

For planting known faults in the oracle, so that the audit can be shown to find them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from unime.judge.engine import Request


def without_colour(meaning: Any) -> Any:
    """Return a meaning of the generated world with every colour taken out."""
    if isinstance(meaning, tuple):
        return tuple(without_colour(part) for part in meaning)
    if not dataclasses.is_dataclass(meaning) or isinstance(meaning, type):
        return meaning
    changes = {
        field.name: "" if field.name == "colour" else without_colour(getattr(meaning, field.name))
        for field in dataclasses.fields(meaning)
    }
    return dataclasses.replace(meaning, **changes)


def colour_blind_relevance(
    truth: Any, task: str, query: bytes, candidates: Sequence[bytes]
) -> list[bool]:
    """Return which candidates would be right if nothing had a colour."""
    from research.world.truth import relevant

    wanted = without_colour(truth.meaning(task, query))
    return [relevant(wanted, without_colour(truth.meaning(task, one))) for one in candidates]


def text_key(request: Request) -> bytes:
    """Return what a judge that sees no image knows a pair by."""
    parts = (request.instruction, request.query.text, request.candidate.text)
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).digest()


def shows_image(request: Request) -> bool:
    """Tell whether there is an image on either side."""
    return request.query.image is not None or request.candidate.image is not None
