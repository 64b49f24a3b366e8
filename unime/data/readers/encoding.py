"""The encoding of a text file: a mark at its beginning, else UTF-8, else what its bytes allow.

Nothing is read in a wrong encoding silently: what is neither Unicode nor Western European is an error
that names the option which says it.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import NamedTuple

from unime.core.errors import DataError, RecipeError

PIECE = 1 << 20
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
NUL_SHARE = 0.2
"""Of the bytes at even or at odd places: more zeros than this are UTF-16 without a mark."""
LONGEST_RUN = 3
"""Letters above ASCII that follow each other in Western European texts; words of other scripts have more."""
HIGH_SHARE = 0.25
"""Of the letters: more above ASCII than this is no Western European text."""

_MULTIBYTE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
_HIGH = re.compile(rb"[\x80-\xff]+")
_LETTERS = re.compile(rb"[A-Za-z\x80-\xff]")
_UNDEFINED = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")  # in Windows-1252


class TextEncoding(NamedTuple):
    """How a file's bytes become text."""

    name: str
    """Of a Python codec."""
    errors: str = "strict"
    guessed: bool = False
    """Whether nothing in the file says so."""


def check_encoding(name: str) -> str:
    """Return the name of an encoding that a user gave.

    Raises:
        RecipeError: when there is none of this name.
    """
    try:
        codecs.lookup(name)
    except LookupError:
        raise RecipeError(
            f"encoding {name!r} is not known; examples: utf-8, utf-16, cp1252, cp1251, shift_jis, gb18030"
        ) from None
    return name


def encoding_of(path: Path, given: str | None = None) -> TextEncoding:
    """Return the encoding of a file; it is read once, piece by piece.

    UTF-8 with some damaged bytes stays UTF-8: they become lone surrogates, which the check of texts
    rejects row by row.

    Args:
        path: the file.
        given: what the user says it is.

    Raises:
        DataError: when it is neither UTF-8 nor UTF-16 nor Western European.
        RecipeError: when `given` is no encoding.
    """
    if given is not None:
        return TextEncoding(check_encoding(given))
    if (marked := marked_encoding(path)) is not None:
        return TextEncoding(marked, "surrogateescape" if marked == "utf-8-sig" else "strict")
    with path.open("rb") as file:
        head = file.read(PIECE)
        decoder = codecs.getincrementaldecoder("utf-8")()
        piece = head
        try:
            while piece:
                decoder.decode(piece)
                piece = file.read(PIECE)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return _single_byte(path)
    return TextEncoding("utf-8", "surrogateescape")


def marked_encoding(path: Path) -> str | None:
    """Return the encoding that a file's beginning shows: by a mark, or UTF-16 by its zeros."""
    with path.open("rb") as file:
        return _marked(file.read(PIECE))


def _marked(head: bytes) -> str | None:
    marked = next((name for mark, name in MARKS if head.startswith(mark)), None)
    return marked or _without_mark(head)


def decode_text(data: bytes, what: str) -> str:
    """Return a short text file's contents, line ends as newlines.

    Raises:
        DataError: when its bytes are no text in an encoding that can be told.
    """
    name = _marked(data[:PIECE]) or "utf-8"
    try:
        text = data.decode(name)
    except UnicodeDecodeError:
        if name != "utf-8" or not _is_western(_counts(data)):
            raise DataError(f"{what} is not UTF-8") from None
        text = data.decode("cp1252")
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _without_mark(head: bytes) -> str | None:
    half = len(head) // 2
    if not half:
        return None
    even, odd = head[0 : 2 * half : 2].count(0) / half, head[1 : 2 * half : 2].count(0) / half
    if odd > NUL_SHARE and even < odd / 4:
        return "utf-16-le"
    if even > NUL_SHARE and odd < even / 4:
        return "utf-16-be"
    return None


class _Counts(NamedTuple):
    """What the bytes above ASCII in a file are like."""

    good_lines: int
    """Lines with such bytes that are UTF-8 as a whole: all but the damaged ones, if the file is."""
    bad_lines: int
    valid: int
    """Characters of UTF-8 above ASCII."""
    invalid: int
    """Bytes above ASCII that are in none."""
    longest_run: int
    high: int
    letters: int
    undefined: int
    """Bytes that Windows-1252 gives no character."""


def _counts(data: bytes) -> _Counts:
    high = sum(len(run) for run in _HIGH.findall(data))
    multibyte = _MULTIBYTE.findall(data)
    lines = [line for line in data.split(b"\n") if not line.isascii()]
    good = sum(_HIGH.search(_MULTIBYTE.sub(b"", line)) is None for line in lines)
    return _Counts(
        good_lines=good,
        bad_lines=len(lines) - good,
        valid=len(multibyte),
        invalid=high - sum(map(len, multibyte)),
        longest_run=max(map(len, _HIGH.findall(data)), default=0),
        high=high,
        letters=len(_LETTERS.findall(data)),
        undefined=len(_UNDEFINED.findall(data)),
    )


def _single_byte(path: Path) -> TextEncoding:
    total = _Counts(0, 0, 0, 0, 0, 0, 0, 0)
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            found = _counts(piece)
            longest = max(total.longest_run, found.longest_run)
            sums = [a + b for a, b in zip(total, found, strict=True)]
            total = _Counts(*sums)._replace(longest_run=longest)
    if total.good_lines and total.good_lines >= total.bad_lines:
        return TextEncoding("utf-8", "surrogateescape")
    if _is_western(total):
        return TextEncoding("cp1252", guessed=True)
    raise DataError(
        f"{path} is not UTF-8, and does not look like Western European text either; say what it is by "
        "encoding: (such as cp1251, shift_jis or gb18030), or save it as UTF-8"
    )


def _is_western(counts: _Counts) -> bool:
    """Tell whether bytes that are not UTF-8 are Windows-1252, which holds Latin-1's letters."""
    few = counts.high <= HIGH_SHARE * counts.letters
    unlike_utf8 = 10 * counts.valid <= counts.invalid and not counts.undefined
    return unlike_utf8 and few and counts.longest_run <= LONGEST_RUN
