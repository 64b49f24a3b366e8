"""CSV and TSV as people have them: any separator, encoding and use of quotes (see `quotes`).

A wrong guess about quotes merges rows without a word. So a cell goes over several lines only where the
lines in between are no rows. Where both readings hold, the rest of the file decides; where it does not
either, the lines are rejected with the reason, and `quoting` says what they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unime.core import console
from unime.core.errors import DataError
from unime.data.column_names import unique_names
from unime.data.readers.base import Quoting, RowError, TableOptions
from unime.data.readers.encoding import encoding_of
from unime.data.readers.quote_evidence import Evidence, RowForm, evidence
from unime.data.readers.quotes import Broken, Joined, Lines, bare, join, split_row

SEPARATORS = (",", ";", "\t", "|")
SAMPLE = 200
"""Lines that tell which character separates, and what is in which column."""
_SEPARATOR_LINE = re.compile(r"sep=(.)\s*", re.IGNORECASE)  # Excel's

Row = dict[str, Any] | RowError


def read_delimited(path: Path, options: TableOptions) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file; each of its lines is in one of them, or blank.

    Raises:
        DataError: when it is empty, or is no text.
    """
    with _lines_of(path, options.encoding, aloud=True) as lines:
        yield from _Table(path, lines, options.encoding, options.quoting).rows()


def delimited_header(path: Path, options: TableOptions) -> list[str]:
    """Return the names of the columns; errors as `read_delimited`."""
    with _lines_of(path, options.encoding) as lines:
        return _header(path, lines).names


@contextmanager
def _lines_of(path: Path, encoding: str | None, aloud: bool = False) -> Iterator[Lines]:
    found = encoding_of(path, encoding)
    if found.guessed and aloud:
        console.log(f"{path} is not UTF-8: read as {found.name}; encoding: says if it is another")
    try:
        with path.open(encoding=found.name, errors=found.errors, newline="") as text:
            head = text.read(1 << 20)
        # A carriage return alone ends lines only in files that have no other end.
        end = "\r" if "\r" in head and "\n" not in head else "\n"
        with path.open(encoding=found.name, errors=found.errors, newline=end) as text:
            yield Lines(text)
    except UnicodeError as error:
        raise DataError(f"{path} cannot be read as {found.name}: {error}") from None


class _Header(NamedTuple):
    """What the first lines say."""

    names: list[str]
    form: RowForm


def _header(path: Path, lines: Lines) -> _Header:
    """Take a table's first lines, up to its header."""
    given = None
    while (line := next(lines.ahead(), None)) is not None:
        match = _SEPARATOR_LINE.fullmatch(line)
        if match is None and line.strip():
            break
        given = match[1] if match else given
        lines.take()
    sample = list(islice(lines.ahead(), SAMPLE))
    if not sample:
        raise DataError(f"{path} is empty; expected a header line")
    first = bare(sample[0])
    separator = given or _separator([bare(line) for line in sample], path.suffix.lower() == ".tsv")
    found = split_row(first, separator)
    cells = first.split(separator) if isinstance(found, Broken) else found
    lines.take()
    names = unique_names([name.strip() for name in cells])
    return _Header(names, RowForm.of(sample[1:], separator, len(names)))


def _separator(sample: Sequence[str], is_tsv: bool) -> str:
    """Return the character that cuts the most lines into as many cells as the header has."""
    order = ("\t", ",", ";", "|") if is_tsv else SEPARATORS
    best, most = order[0], -1
    for separator in order:
        width = len(sample[0].split(separator))
        form = RowForm(separator, width, {})
        fit = sum(form.whole(line) is not None for line in sample) if width > 1 else -1
        if fit > most:
            best, most = separator, fit
    return best


class _Table:
    """One file while it is read."""

    def __init__(self, path: Path, lines: Lines, encoding: str | None, quoting: Quoting) -> None:
        self._path, self._encoding, self._quoting = path, encoding, quoting
        self._lines = lines
        self._names, self._form = _header(path, lines)

    def rows(self) -> Iterator[Row]:
        """Yield every row after the header."""
        names, separator, width = self._names, self._form.separator, self._form.width
        takes_quotes = self._quoting != "none"
        while (line := self._lines.take()) is not None:
            if takes_quotes and '"' in line:
                found = split_row(line.rstrip("\r\n"), separator)
                if not isinstance(found, Broken) and len(found) == width:
                    yield dict(zip(names, found, strict=True))
                else:
                    yield from self._quoted(line)
            elif text := line.rstrip("\r\n"):
                cells = text.split(separator)
                if len(cells) == width:
                    yield dict(zip(names, cells, strict=True))
                else:
                    yield self._row(cells)

    def _row(self, cells: Sequence[str]) -> Row:
        if len(cells) == len(self._names):
            return dict(zip(self._names, cells, strict=True))
        expected = f"expected {len(self._names)} as in the header"
        return RowError("malformed line", f"{len(cells)} cells, {expected}")

    def _quoted(self, line: str) -> Iterator[Row]:
        """Yield the row that begins with a line, or what its lines are rejected for."""
        found = split_row(bare(line), self._form.separator)
        if found is Broken.OPEN:
            joined = join(line, self._lines, self._form.separator)
            match self._meaning(bare(line), joined), joined:
                case "cell", Joined():
                    self._lines.skip(len(joined.lines))
                    yield self._row(joined.cells)
                    return
                case "unknown", Joined():
                    yield from self._undecided(len(joined.lines))
                    return
                case "damage", _:
                    yield self._broken(found)
                    return
        fits = not isinstance(found, Broken) and len(found) == self._form.width
        if self._quoting == "auto" and not fits:
            found = self._form.lenient(bare(line)) or found
        yield self._broken(found) if isinstance(found, Broken) else self._row(found)

    def _broken(self, why: Broken) -> RowError:
        return RowError("malformed line", f"line {self._lines.number}: {why.value}")

    def _undecided(self, further: int) -> Iterator[RowError]:
        first = self._lines.number
        self._lines.skip(further)
        for _ in range(further + 1):
            yield RowError(
                "unclear quotes",
                f"lines {first} to {first + further} are one row with a cell over several lines, or a "
                "row each; say which by quoting: standard or none (unime data FOLDER: --quoting)",
            )

    def _meaning(
        self, opening: str, joined: Joined | Broken
    ) -> Literal["cell", "rows", "unknown", "damage"]:
        """Tell what the lines are that an open quote spans."""
        if isinstance(joined, Broken):
            closes_never = joined is Broken.OPEN and self._quoting == "auto"
            is_damage = self._quoting == "standard" or (closes_never and self._evidence.is_standard)
            return "damage" if is_damage else "rows"
        if self._quoting == "standard":
            return "cell"
        if len(joined.cells) != self._form.width:
            return "rows"
        rows = [cells for line in joined.lines if (cells := self._form.whole(line)) is not None]
        if not any(map(self._form.is_alike, rows)):
            return "cell"
        is_row = len(opening.split(self._form.separator)) == self._form.width
        return self._by_the_file(all_rows=is_row and len(rows) == len(joined.lines))

    def _by_the_file(self, all_rows: bool) -> Literal["cell", "rows", "unknown"]:
        """Tell the same of lines among which some, or all, could be rows."""
        found = self._evidence
        if self._form.kinds:
            return "unknown" if found.is_standard else "rows"
        if not all_rows:
            return "unknown" if found.plain > found.standard else "cell"
        if found.is_standard:
            return "cell"
        return "rows" if found.is_plain else "unknown"

    @cached_property
    def _evidence(self) -> Evidence:
        with _lines_of(self._path, self._encoding) as lines:
            return evidence(lines, self._form)
