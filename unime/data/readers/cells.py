"""Cells of a row, checked: text, image, lists, numbers. Anything unexpected is a RowError."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

from unime.core import inside
from unime.data.items import Item, Pair
from unime.data.readers.base import EmbeddedImage, ResolvedSource, RowError

MAX_PATH = 4096
"""Characters; a longer text is no path."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def require(values: dict[str, Any], *names: str) -> None:
    """Check that columns are there, each once.

    Raises:
        RowError: naming the first one that is missing, or there twice.
    """
    for name in names:
        if name not in values:
            have = ", ".join(values) or "none"
            raise RowError("missing column", f"'{name}'; columns: {have}")
        optional(values, name)


def optional(values: dict[str, Any], name: str) -> Any:
    """Return a cell, None where there is no such column.

    Raises:
        RowError: when two columns have the name.
    """
    if f"{name} (2)" in values:
        raise RowError("repeated column", f"two columns are called '{name}'; rename one of them")
    return values.get(name)


def text(value: Any, what: str) -> str:
    """Return a text cell; None and "" are no text, a list of one is its element.

    Raises:
        RowError: for any other type, or text that is not valid Unicode.
    """
    if type(value) is str and value.isascii():
        return value
    value = _single(value)
    if value is None:
        return ""
    if isinstance(value, EmbeddedImage):
        raise RowError("wrong type", f"{what}: expected text, got an image ({value})")
    if not isinstance(value, str):
        raise RowError("wrong type", f"{what}: expected text, got {_shown(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RowError("wrong type", f"{what}: not valid Unicode text") from None
    return value


def image(value: Any, what: str, image_root: str) -> str | None:
    """Return the location of an image cell; None, "" and [] are no image.

    Raises:
        RowError: for anything but a path or an image inside the table.
    """
    value = _single(value)
    if isinstance(value, EmbeddedImage):
        return str(value)
    path = text(value, what).strip()
    if not path:
        return None
    if "://" in path:
        raise RowError("missing image", f"{what}: {path!r} is a URL; download it first")
    return f"{image_root.rstrip('/')}/{path}" if image_root else path


def existing_image(path: str, root: Path, image_root: str) -> str | None:
    """Return the location of a file that is there, also where Windows wrote its path; None elsewhere.

    An absolute path below the root is one too.
    """
    if len(path) > MAX_PATH or "\n" in path:
        return None
    below = f"{image_root.rstrip('/')}/" if image_root else ""
    names = [f"{below}{path}"]
    if "\\" in path:
        names.append(f"{below}{path.replace(chr(92), '/')}")
    if path.startswith("/") and Path(path).is_relative_to(root.absolute()):
        names.append(Path(path).relative_to(root.absolute()).as_posix())
    for name in names:
        with contextlib.suppress(inside.FileError, OSError):
            inside.find(root, name)
            return name
    return None


def located_image(
    value: Any, what: str, job: ResolvedSource, image_root: str | None = None
) -> str | None:
    """Return the location of an image cell, as `image`; a path that Windows wrote is followed.

    Args:
        value: the cell.
        what: it is, for errors.
        job: the source.
        image_root: in place of the source's.

    Raises:
        RowError: as `image`.
    """
    below = job.image_root if image_root is None else image_root
    location = image(value, what, below)
    path = _single(value)
    if location is not None and isinstance(path, str) and ("\\" in path or path.startswith("/")):
        return existing_image(path.strip(), job.root, below) or location
    return location


def items(texts: Any, images: Any, what: str, job: ResolvedSource) -> list[Item]:
    """Return the items of two aligned cells, each a list or a single value.

    "", None and [] on one side stand for none at all. Empty items are left in: their place counts.

    Raises:
        RowError: when both are lists of differing length, or a cell is of the wrong type.
    """
    text_cells, image_cells = _listed(texts), _listed(images)
    length = max(len(text_cells), len(image_cells))
    for cells in (text_cells, image_cells):
        if len(cells) not in (0, length):
            raise RowError(
                "wrong type", f"{what}: {len(text_cells)} texts but {len(image_cells)} images"
            )
    text_cells = text_cells or [None] * length
    image_cells = image_cells or [None] * length
    return [
        Item.of(text(t, f"{what} {i} text"), located_image(p, f"{what} {i} image", job))
        for i, (t, p) in enumerate(zip(text_cells, image_cells, strict=True))
    ]


def numbers(value: Any, what: str) -> tuple[float, ...]:
    """Return a score or a list of scores; an empty cell is NaN, that is, unscored.

    Raises:
        RowError: for anything that is no finite number: NaN, infinity, true, too many digits.
    """
    cells = value if isinstance(value, list | tuple) else [value]
    return tuple(_number(cell, what) for cell in cells)


def checked(pair: Pair) -> Pair:
    """Return a pair without repeated positives, all of its items filled.

    Raises:
        RowError: for an empty item, no positive, or scores that do not fit.
    """
    for place, item in enumerate((pair.query, *pair.positives, *pair.negatives)):
        if item.image is None and not item.text.strip():
            raise RowError("empty item", f"{_role(place, pair)} has neither text nor image")
    if not pair.positives:
        raise RowError("no positive", "a pair needs at least one")
    if pair.scores and len(pair.scores) != 1 + len(pair.negatives):
        raise RowError(
            "wrong type",
            f"{len(pair.scores)} scores, expected 1 + {len(pair.negatives)} negatives",
        )
    for score in pair.scores:
        # What the losses assume; a teacher's logits are one sigmoid away.
        if not (math.isnan(score) or 0 <= score <= 1):
            raise RowError(
                "score out of range",
                f"expected a probability from 0 to 1, got {score:g}; that of a logit x is "
                "1 / (1 + exp(-x))",
            )
    return pair


def _role(place: int, pair: Pair) -> str:
    if place == 0:
        return "query"
    negative = place - 1 - len(pair.positives)
    return f"positive {place - 1}" if negative < 0 else f"negative {negative}"


def _single(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if not value:
            return None
        if len(value) == 1:
            return value[0]
    return value


def _listed(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _number(value: Any, what: str) -> float:
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan
    number = math.inf
    # A table of text has numbers as text: those that a program writes, not "1_000" or "nan".
    if isinstance(value, str):
        number = float(value) if _NUMBER.fullmatch(value.strip()) else math.inf
    elif isinstance(value, Real | Decimal) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number):
        raise RowError("wrong type", f"{what}: expected a number, got {_shown(value)}")
    return number


def _shown(value: Any) -> str:
    is_huge = isinstance(value, int) and abs(value) >= 10**40  # repr has a limit of its own
    shown = "of more than 40 digits" if is_huge else repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 40 else shown[:37] + '...'}"
