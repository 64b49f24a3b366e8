"""Quotation marks in CSV and TSV, with and without the standard."""

from __future__ import annotations

import csv
from pathlib import Path

from tests.data.folders.made import (
    PROSE,
    Outcome,
    by_csv,
    each,
    folder,
    naive,
    pictures,
    titled,
    with_caption,
)


def _naive_case(place: Path, captions: list[str], suffix: str = ".csv") -> Outcome:
    """A file without the standard: every caption must come out as it stands."""
    names = pictures(place, len(captions))
    separator = "\t" if suffix == ".tsv" else ","
    naive(place / f"captions{suffix}", titled(names, captions), separator)
    return Outcome(each(names, captions))


def _standard_case(place: Path, captions: list[str], **options: object) -> Outcome:
    names = pictures(place, len(captions))
    by_csv(place / "captions.csv", titled(names, captions), **options)
    return Outcome(each(names, captions))


@folder
def one_quote_opens_a_tsv_caption(place: Path) -> Outcome:
    return _naive_case(place, with_caption(3, '"Untitled a dog runs'), ".tsv")


@folder
def one_quote_opens_a_csv_caption(place: Path) -> Outcome:
    return _naive_case(place, with_caption(3, '"Untitled a dog runs'))


@folder
def two_quotes_open_two_tsv_captions(place: Path) -> Outcome:
    captions = with_caption(6, '"Another', with_caption(2, '"Untitled'))
    return _naive_case(place, captions, ".tsv")


@folder
def two_quotes_open_two_csv_captions(place: Path) -> Outcome:
    captions = with_caption(6, '"Another', with_caption(2, '"Untitled'))
    return _naive_case(place, captions)


@folder
def a_quote_opens_and_the_next_line_ends_in_one(place: Path) -> Outcome:
    captions = with_caption(3, 'the sign says "open"', with_caption(2, '"Untitled'))
    return _naive_case(place, captions)


@folder
def a_quote_opens_the_first_and_the_last_caption(place: Path) -> Outcome:
    return _naive_case(place, with_caption(9, '"The end', with_caption(0, '"The beginning')))


@folder
def many_captions_begin_with_a_quoted_word(place: Path) -> Outcome:
    captions = [f'"{caption.split()[0]}" {caption}' for caption in PROSE]
    return _naive_case(place, captions, ".tsv")


@folder
def inches_and_feet(place: Path) -> Outcome:
    captions = with_caption(1, 'a 12" record', with_caption(2, "a man of 5' 10\""))
    return _naive_case(place, with_caption(5, 'two 9" plates and one of 12"', captions))


@folder
def a_quote_alone_is_a_caption(place: Path) -> Outcome:
    return _naive_case(place, with_caption(4, '"'))


@folder
def quotes_in_pairs_at_the_end(place: Path) -> Outcome:
    return _naive_case(place, [f'{caption} ("number {n}")' for n, caption in enumerate(PROSE)])


@folder
def an_image_name_opens_with_a_quote(place: Path) -> Outcome:
    names = pictures(place)
    rows = titled(names, PROSE)
    rows[4] = (f'"{names[3]}', PROSE[3])
    naive(place / "captions.csv", rows)
    return Outcome(
        each([n for n in names if n != names[3]], [c for c in PROSE if c != PROSE[3]]),
        {"missing image": 1},
    )


@folder
def captions_over_several_lines(place: Path) -> Outcome:
    return _standard_case(place, [f'{c},\nbrown, "big"\n\nand old' for c in PROSE])


@folder
def one_caption_over_several_lines(place: Path) -> Outcome:
    return _standard_case(place, with_caption(5, "a dog,\nwith a ball"))


@folder
def all_cells_in_quotes_over_several_lines(place: Path) -> Outcome:
    captions = with_caption(2, "first\nsecond, and third\n", with_caption(7, "\nafter a blank"))
    outcome = _standard_case(place, captions, quoting=csv.QUOTE_ALL)
    # Blanks at the ends of a caption are no part of it.
    return Outcome({name: (texts[0].strip(),) for name, texts in outcome.pictures.items()})


@folder
def lines_in_a_quoted_tsv(place: Path) -> Outcome:
    captions = with_caption(5, "a dog\nwith\ta ball")
    names = pictures(place)
    by_csv(place / "captions.tsv", titled(names, captions), delimiter="\t")
    return Outcome(each(names, captions))


@folder
def lines_in_a_cell_end_as_windows_ends_them(place: Path) -> Outcome:
    names = pictures(place)
    rows = [
        f'{name},"{caption}\r\nsecond line"\r\n' for name, caption in zip(names, PROSE, strict=True)
    ]
    (place / "captions.csv").write_bytes("".join(["image,caption\r\n", *rows]).encode())
    # A caption is cut off from the next row, not at the line's end within it.
    return Outcome(each(names, [f"{caption}\r\nsecond line" for caption in PROSE]))


@folder
def a_cell_of_lines_that_look_like_rows(place: Path) -> Outcome:
    """Both readings hold for two lines; nothing is guessed, and the other rows are read."""
    names = pictures(place)
    rows = [f'"{name}","{caption}"\n' for name, caption in zip(names, PROSE, strict=True)]
    rows[4] = f'"{names[4]}","{PROSE[4]}\n{names[2]}, is another"\n'
    (place / "captions.csv").write_text('"image","caption"\n' + "".join(rows))
    kept = [number for number in range(len(names)) if number != 4]
    return Outcome(each([names[n] for n in kept], [PROSE[n] for n in kept]), {"unclear quotes": 2})


@folder
def standard_quotes_and_a_row_cut_off_at_the_end(place: Path) -> Outcome:
    names = pictures(place)
    by_csv(place / "captions.csv", titled(names, PROSE), quoting=csv.QUOTE_ALL)
    whole = (place / "captions.csv").read_bytes()
    (place / "captions.csv").write_bytes(whole.rstrip(b'\r\n"')[:-5])
    return Outcome(each(names[:-1], PROSE[:-1]), {"malformed line": 1})


@folder
def the_last_row_is_cut_off_within_the_image(place: Path) -> Outcome:
    names = pictures(place)
    text = "".join(f"{a},{b}\n" for a, b in titled(names, PROSE))
    (place / "captions.csv").write_text(text[: text.rindex(names[-1]) + 3])
    return Outcome(each(names[:-1], PROSE[:-1]), {"malformed line": 1})


@folder
def quotes_escaped_by_backslashes(place: Path) -> Outcome:
    names = pictures(place)
    captions = with_caption(4, 'a sign, "closed", on a door')
    options = {"doublequote": False, "escapechar": "\\"}
    by_csv(place / "captions.csv", titled(names, captions), **options)
    return Outcome(each(names, captions))


@folder
def blanks_between_separator_and_quote(place: Path) -> Outcome:
    names = pictures(place)
    rows = [f'{name}, "{caption}, seen"\n' for name, caption in zip(names, PROSE, strict=True)]
    (place / "captions.csv").write_text("image, caption\n" + "".join(rows))
    return Outcome(each(names, [f"{caption}, seen" for caption in PROSE]))


@folder
def commas_without_quotes(place: Path) -> Outcome:
    """A row of too many cells is rejected: where its caption ends is not known."""
    names = pictures(place)
    naive(place / "captions.csv", titled(names, with_caption(3, "bread, butter, and jam")))
    kept = [number for number in range(len(names)) if number != 3]
    return Outcome(each([names[n] for n in kept], [PROSE[n] for n in kept]), {"malformed line": 1})


@folder
def quotes_in_a_file_with_semicolons(place: Path) -> Outcome:
    names = pictures(place)
    captions = with_caption(2, '"Untitled', with_caption(7, "milk, bread, salt"))
    naive(place / "captions.csv", titled(names, captions), ";")
    return Outcome(each(names, captions))


@folder
def curly_quotes_are_letters(place: Path) -> Outcome:
    return _naive_case(place, with_caption(3, "\u201cOpen\u201d says \u00bbthe sign\u00ab"))


@folder
def a_quoted_header_over_plain_rows(place: Path) -> Outcome:
    names = pictures(place)
    captions = with_caption(3, '"Untitled, 1999')
    rows = [("image", "caption"), *zip(names, captions, strict=True)]
    text = "".join(f"{a}\t{b}\n" for a, b in rows[1:])
    (place / "captions.tsv").write_text('"image"\t"caption"\n' + text)
    # Whoever quotes a header keeps to the standard: an open quote is damage.
    kept = [number for number in range(len(names)) if number != 3]
    return Outcome(each([names[n] for n in kept], [PROSE[n] for n in kept]), {"malformed line": 1})
