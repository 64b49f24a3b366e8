"""What the rows of a CSV or TSV file have in common, and how the file as a whole uses quotation marks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from unime.data.readers.quotes import (
    Broken,
    Joined,
    Lines,
    bare,
    has_doubled_quotes,
    join,
    split_row,
)

KINDS = (re.compile(r".*\S\.[A-Za-z0-9]{2,5}"), re.compile(r"\d*"))
"""Cells that are told from prose: the path of a file, a number (or none)."""
KIND_SHARE, FEWEST_ROWS = 0.9, 2
"""Of the cells in a column that is of a kind; rows that can show one."""


class RowForm(NamedTuple):
    """What every row of a table has."""

    separator: str
    width: int
    """Cells."""
    kinds: dict[int, re.Pattern[str]]
    """What is no prose: the kind of its cells, by the place of the column."""

    @classmethod
    def of(cls, sample: Iterable[str], separator: str, width: int) -> RowForm:
        """Return the form that some lines show; those that an open quote may span say nothing."""
        form = cls(separator, width, {})
        lines, rows = Lines(sample), list[list[str]]()
        while (line := lines.take()) is not None:
            if (cells := form.whole(bare(line))) is not None:
                rows.append(cells)
            if split_row(bare(line), separator) is Broken.OPEN:
                joined = join(line, lines, separator)
                if isinstance(joined, Joined) and len(joined.cells) == width:
                    lines.skip(len(joined.lines))
        kinds = {}
        for place, column in enumerate(zip(*rows, strict=True)):
            for kind in KINDS:
                fits = sum(bool(kind.fullmatch(cell.strip())) for cell in column)
                if fits >= KIND_SHARE * max(len(rows), FEWEST_ROWS) and any(column):
                    kinds[place] = kind
                    break
        return form._replace(kinds=kinds)

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


def evidence(lines: Lines, form: RowForm) -> Evidence:
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


def _says(line: str, lines: Lines, form: RowForm) -> tuple[bool | None, int]:
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
            is_prose = not any(map(form.is_alike, rows))
            is_prose |= found.is_doubled and not form.kinds and len(rows) < len(found.lines)
            return (True, len(found.lines)) if is_prose else (None, 0)
    if found is Broken.STRAY:
        return (False if is_whole else None), 0
    if isinstance(found, Broken) or len(found) != form.width:
        return None, 0
    all_quoted = text.startswith('"') and text.count(f'"{separator}"') == form.width - 1
    by_standard = all_quoted or not is_whole or has_doubled_quotes(found, text)
    return (True if by_standard else None), 0
