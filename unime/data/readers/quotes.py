"""Lines of a CSV or TSV file as rows: what a quotation mark at the beginning of a cell means.

By the standard (RFC 4180) it opens a cell that may hold separators, doubled quotes and line breaks. In
files that were written without the standard it is a character, and each line is a row.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from itertools import islice
from typing import NamedTuple

MOST_LINES, MOST_CHARACTERS = 100_000, 1 << 24
"""Of one cell; a quote that stays open for longer opens none."""
KINDS = (re.compile(r".*\S\.[A-Za-z0-9]{2,5}"), re.compile(r"\d+"))
"""Cells that are told from prose: the path of a file, a number."""
KIND_SHARE = 0.9


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


class Form(NamedTuple):
    """What every row of a table has."""

    separator: str
    width: int
    """Cells."""
    kinds: dict[int, re.Pattern[str]]
    """What is no prose: the kind of its cells, by the place of the column."""

    @classmethod
    def of(cls, sample: Iterable[str], separator: str, width: int) -> Form:
        """Return the form that some rows show."""
        bare = cls(separator, width, {})
        rows = [cells for line in sample if (cells := bare.whole(line)) is not None]
        kinds = {}
        for place, column in enumerate(zip(*rows, strict=True)):
            for kind in KINDS:
                if sum(bool(kind.fullmatch(cell.strip())) for cell in column) >= KIND_SHARE * len(
                    rows
                ):
                    kinds[place] = kind
                    break
        return bare._replace(kinds=kinds)

    def whole(self, line: str) -> list[str] | None:
        """Return the cells of a line that is a row by itself, by the standard or as it stands."""
        found = split_row(line, self.separator)
        if isinstance(found, Broken) or len(found) != self.width:
            found = line.split(self.separator)
        return found if len(found) == self.width else None

    def lenient(self, line: str) -> list[str] | None:
        r"""Return the cells of a line in the first form that fits; also \" and blanks before a quote."""
        if r"\"" in line:
            escaped = line.replace(r"\\", "\0").replace(r"\"", '""').replace("\0", "\\")
            found = split_row(escaped, self.separator)
            if not isinstance(found, Broken) and len(found) == self.width:
                return found
        if (found := self.whole(line)) is not None:
            return found
        closer = re.sub(rf'({re.escape(self.separator)}) +"', r'\1"', line)
        found = split_row(closer, self.separator)
        return None if isinstance(found, Broken) or len(found) != self.width else found

    def is_alike(self, cells: list[str]) -> bool:
        """Tell whether a row's cells are of the kinds that the others have."""
        return all(kind.fullmatch(cells[place].strip()) for place, kind in self.kinds.items())


def split_row(text: str, separator: str) -> list[str] | Broken:
    """Return the cells of a row by the standard, or why it is none.

    A quote inside a cell that none opened is a character, as most readers take it.

    Args:
        text: one or more lines, without the last line's end.
        separator: between cells.
    """
    if '"' not in text or not (text.startswith('"') or f'{separator}"' in text):
        return text.split(separator)
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
                return Joined(found, [bare(piece) for piece in pieces[1:]], _undoubled(found, text))
    return Broken.OPEN


def _undoubled(cells: list[str], text: str) -> bool:
    """Tell whether a row's cells have quotation marks that are doubled in its text."""
    return any('"' in cell and cell not in text for cell in cells)


class Evidence(NamedTuple):
    """How the quotes of a whole file are used."""

    standard: int
    """Rows that are whole by the standard alone: quoted separators, doubled quotes, cells of several
    lines of prose, and rows with all cells in quotes."""
    plain: int
    """Rows that are whole only if a quotation mark is a character."""

    @property
    def is_standard(self) -> bool:
        """Whether everything speaks for the standard."""
        return self.standard > 0 and self.plain == 0

    @property
    def is_plain(self) -> bool:
        """Whether everything speaks against it."""
        return self.plain > 0 and self.standard == 0


def evidence(lines: Lines, form: Form) -> Evidence:
    """Read a file for what tells how its quotes are meant; its header is a row too."""
    standard = plain = 0
    while (line := lines.take()) is not None:
        if '"' not in line:
            continue
        says, count = _says(line, lines, form)
        standard += says is True
        plain += says is False
        lines.skip(count)
    return Evidence(standard, plain)


def _says(line: str, lines: Lines, form: Form) -> tuple[bool | None, int]:
    """Return whether a row is one by the standard alone (or not at all), and its further lines."""
    text, separator = bare(line), form.separator
    is_whole = len(text.split(separator)) == form.width
    found = split_row(text, separator)
    if found is Broken.OPEN:
        found = join(line, lines, separator)
        if isinstance(found, Joined):
            if len(found.cells) != form.width:
                return None, 0
            rows = [cells for line in found.lines if (cells := form.whole(line)) is not None]
            # The same question as in `delimited`: without kinds, every row is alike.
            is_prose = not any(map(form.is_alike, rows)) or (found.is_doubled and not form.kinds)
            return (True, len(found.lines)) if is_prose else (None, 0)
    if found is Broken.STRAY:
        return (False if is_whole else None), 0
    if isinstance(found, Broken) or len(found) != form.width:
        return None, 0
    all_quoted = text.startswith('"') and text.count(f'"{separator}"') == form.width - 1
    by_standard = all_quoted or not is_whole or _undoubled(found, text)
    return (True if by_standard else None), 0
