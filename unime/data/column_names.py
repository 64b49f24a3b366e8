"""Names of a table's columns, where two may have one name."""

from __future__ import annotations

from collections.abc import Iterable


def unique_names(names: Iterable[str]) -> list[str]:
    """Return the names of columns; a repeated one gets a number, so that none hides another."""
    found: dict[str, None] = {}
    for name in names:
        number, own = 2, name
        while own in found:
            own, number = f"{name} ({number})", number + 1
        found[own] = None
    return list(found)
