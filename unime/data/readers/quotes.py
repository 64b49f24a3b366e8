"""Lines of a CSV or TSV file as rows: what a quotation mark at the beginning of a cell means.

By the standard (RFC 4180) it opens a cell that may hold separators, doubled quotes and line breaks. In
files that were written without the standard it is a character, and each line is a row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from itertools import islice
from typing import NamedTuple

MOST_LINES, MOST_CHARACTERS = 100_000, 1 << 24
"""Of one cell; a quote that stays open for longer opens none."""


class Broken(Enum):
    """Why a text is no row by the standard."""

    OPEN = "a quote opens a cell and does not close it"
    STRAY = "a quote closes within a cell"


class Lines:
    """The lines of a file, one after the other, with those to come."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._ahead: deque[str] = deque()
        self.number = 0
        """Of the line last taken, from 1."""

    def take(self) -> str | None:
        """Return the next line; None after the last."""
        line = self._ahead.popleft() if self._ahead else next(self._lines, None)
        self.number += line is not None
        return line

    def skip(self, count: int) -> None:
        """Take some lines."""
        for _ in range(count):
            self.take()

    def ahead(self) -> Iterator[str]:
        """Yield the lines to come, without taking them."""
        place = 0
        while True:
            if place == len(self._ahead):
                line = next(self._lines, None)
                if line is None:
                    return
                self._ahead.append(line)
            yield self._ahead[place]
            place += 1


class Joined(NamedTuple):
    """A row by the standard whose cells go over several lines."""

    cells: list[str]
    lines: list[str]
    """The later ones, without their ends."""
    is_doubled: bool
    """Whether a quotation mark in it was doubled, which only the standard does."""


def split_row(text: str, separator: str) -> list[str] | Broken:
    """Return the cells of a row by the standard, or why it is none.

    A quote inside a cell that none opened is a character, as most readers take it.

    Args:
        text: one or more lines, without the last line's end.
        separator: between cells.
    """
    if '"' not in text or not (text.startswith('"') or f'{separator}"' in text):
        return text.split(separator)
    if text.startswith('"') and text.endswith('"'):
        # The usual row with all cells in quotes, in one cut.
        cells = text[1:-1].split(f'"{separator}"')
        if text.count('"') == 2 * len(cells):
            return cells
    cells, place = [], 0
    while True:
        if text.startswith('"', place):
            end = _closing(text, place + 1)
            if end < 0:
                return Broken.OPEN
            cells.append(text[place + 1 : end].replace('""', '"'))
            place = end + 1
            if place < len(text) and not text.startswith(separator, place):
                return Broken.STRAY
        else:
            end = text.find(separator, place)
            end = len(text) if end < 0 else end
            cells.append(text[place:end])
            place = end
        if place >= len(text):
            return cells
        place += 1


def _closing(text: str, place: int) -> int:
    """Return where the quote closes that is open at `place`; a doubled one is a character."""
    while True:
        place = text.find('"', place)
        if place < 0 or not text.startswith('"', place + 1):
            return place
        place += 2


def bare(line: str) -> str:
    """Return a line without its end."""
    return line.rstrip("\r\n")


def join(first: str, lines: Lines, separator: str) -> Joined | Broken:
    """Return the row that a line begins whose last cell is open, or why there is none.

    Args:
        first: the line, with its end.
        lines: those after it.
        separator: between cells.
    """
    pieces, length = [first], len(first)
    for line in islice(lines.ahead(), MOST_LINES):
        pieces.append(line)
        length += len(line)
        if length > MOST_CHARACTERS:
            break
        if '"' in line:
            text = bare("".join(pieces))
            found = split_row(text, separator)
            if found is Broken.STRAY:
                return found
            if not isinstance(found, Broken):
                return Joined(
                    found, [bare(piece) for piece in pieces[1:]], has_doubled_quotes(found, text)
                )
    return Broken.OPEN


def has_doubled_quotes(cells: list[str], text: str) -> bool:
    """Tell whether a row's cells have quotation marks that are doubled in its text."""
    return any('"' in cell and cell not in text for cell in cells)
