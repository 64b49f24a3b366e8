"""Encodings, separators, line ends, columns and paths of CSV and TSV files."""

from __future__ import annotations

from pathlib import Path

from tests.data.folders.made import (
    PROSE,
    Outcome,
    Refused,
    by_csv,
    each,
    folder,
    naive,
    pictures,
    titled,
    with_caption,
)

ACCENTED = [f"{caption}, caf\u00e9 \u00fcber".replace(",", "") for caption in PROSE]


def _encoded(place: Path, encoding: str, captions: list[str]) -> Outcome:
    names = pictures(place, len(captions))
    naive(place / "captions.csv", titled(names, captions), encoding=encoding)
    return Outcome(each(names, captions))


@folder
def utf_8_with_a_mark(place: Path) -> Outcome:
    return _encoded(place, "utf-8-sig", ACCENTED)


@folder
def utf_16_as_excel_writes_it(place: Path) -> Outcome:
    names = pictures(place)
    naive(place / "captions.csv", titled(names, ACCENTED), "\t", "\r\n", "utf-16")
    return Outcome(each(names, ACCENTED))


@folder
def utf_16_big_endian_without_a_mark(place: Path) -> Outcome:
    return _encoded(place, "utf-16-be", ACCENTED)


@folder
def utf_16_of_chinese_captions(place: Path) -> Outcome:
    return _encoded(
        place, "utf-16", [f"\u4e00\u53ea\u72d7\u5728\u6d77\u6ee9 {n}" for n in range(10)]
    )


@folder
def utf_32_with_a_mark(place: Path) -> Outcome:
    return _encoded(place, "utf-32", ACCENTED)


@folder
def latin_1(place: Path) -> Outcome:
    outcome = _encoded(place, "latin-1", ACCENTED)
    outcome.says = ("captions.csv is not UTF-8: read as cp1252",)
    return outcome


@folder
def windows_1252_with_curly_quotes_and_euros(place: Path) -> Outcome:
    return _encoded(place, "cp1252", [f"\u201c{c}\u201d \u2013 5 \u20ac" for c in PROSE])


@folder
def cp1251_is_not_guessed(place: Path) -> Refused:
    _encoded(
        place,
        "cp1251",
        [
            f"\u0441\u043e\u0431\u0430\u043a\u0430 \u043d\u0430 \u043f\u043b\u044f\u0436\u0435 {n}"
            for n in range(10)
        ],
    )
    return Refused(
        "{folder}/captions.csv is not UTF-8, and does not look like Western European text either; "
        "say what it is by encoding:"
    )


@folder
def shift_jis_is_not_guessed(place: Path) -> Refused:
    captions = [f"\u6d77\u8fba\u3092\u8d70\u308b\u72ac\u306e\u5199\u771f {n}" for n in range(10)]
    _encoded(place, "shift_jis", captions)
    return Refused("{folder}/captions.csv is not UTF-8, and does not look like Western European")


@folder
def gb18030_is_not_guessed(place: Path) -> Refused:
    _encoded(
        place, "gb18030", [f"\u4e00\u53ea\u72d7\u5728\u6d77\u6ee9\u4e0a {n}" for n in range(10)]
    )
    return Refused("{folder}/captions.csv is not UTF-8, and does not look like Western European")


@folder
def one_damaged_byte_in_utf_8(place: Path) -> Outcome:
    names = pictures(place)
    rows = [f"{a},{b}\n".encode() for a, b in titled(names, ACCENTED)]
    rows[4] = f"{names[3]},caf".encode() + b"\xe9\n"
    (place / "captions.csv").write_bytes(b"".join(rows))
    kept = [number for number in range(len(names)) if number != 3]
    return Outcome(each([names[n] for n in kept], [ACCENTED[n] for n in kept]), {"wrong type": 1})


@folder
def header_in_latin_1_without_a_caption_column(place: Path) -> Refused:
    names = pictures(place)
    rows = [("image", "l\u00e9gende"), *zip(names, PROSE, strict=True)]
    naive(place / "captions.csv", rows, encoding="latin-1")
    return Refused(
        "{folder}/captions.csv has the columns 'image', 'l\u00e9gende'; expected an image column ("
    )


@folder
def semicolons_and_decimal_commas(place: Path) -> Outcome:
    names = pictures(place)
    rows = [
        ("image", "caption", "height"),
        *((a, b, "1,5") for a, b in zip(names, PROSE, strict=True)),
    ]
    naive(place / "captions.csv", rows, ";")
    return Outcome(each(names), says=("not read: 'height'",))


@folder
def excel_names_its_separator(place: Path) -> Outcome:
    names = pictures(place)
    naive(place / "captions.csv", [("sep=;",), *titled(names, PROSE)], ";", "\r\n")
    return Outcome(each(names))


@folder
def tabs_in_a_csv_and_commas_in_the_captions(place: Path) -> Outcome:
    names = pictures(place)
    captions = [f"{caption}, and, more" for caption in PROSE]
    naive(place / "captions.csv", titled(names, captions), "\t")
    return Outcome(each(names, captions))


@folder
def commas_in_a_tsv(place: Path) -> Outcome:
    names = pictures(place)
    naive(place / "captions.tsv", titled(names, PROSE))
    return Outcome(each(names))


@folder
def flickr30k_with_pipes_and_one_bad_row(place: Path) -> Outcome:
    names = pictures(place, 4, "flickr30k_images/")
    rows = [
        f"{Path(name).name}| {number}| {PROSE[number]} by {name[-6]} .\n"
        for name in names
        for number in range(5)
    ]
    rows[9] = rows[9].replace("| 4|", "| 4  ")  # as row 19999 of the published file
    (place / "results.csv").write_text("image_name| comment_number| comment\n" + "".join(rows))
    captions = {
        name: tuple(f"{PROSE[number]} by {name[-6]} ." for number in range(5)) for name in names
    }
    captions[names[1]] = captions[names[1]][:4]
    return Outcome(captions, {"malformed line": 1}, 15)


@folder
def flickr8k(place: Path) -> Outcome:
    names = pictures(place, 4, "Images/")
    rows = [
        f"{Path(name).name},{caption}\n"
        for name in names
        for caption in (f"a child in {name[-6]}", f'"A man , a dog and {name[-6]} ."')
    ]
    (place / "captions.txt").write_text("image,caption\n" + "".join(rows))
    captions = {
        name: (f"a child in {name[-6]}", f"A man , a dog and {name[-6]} .") for name in names
    }
    return Outcome(captions, merged=4, says=("its images lie in Images",))


@folder
def flickr8k_named_by_its_file(place: Path) -> Outcome:
    outcome = flickr8k(place)
    assert isinstance(outcome, Outcome)
    outcome.place = "captions.txt"
    return outcome


@folder
def capital_columns_with_blanks(place: Path) -> Outcome:
    names = pictures(place)
    rows = [(" Image", "Caption "), *zip(names, PROSE, strict=True)]
    naive(place / "captions.csv", rows, encoding="utf-8-sig")
    return Outcome(each(names))


@folder
def a_suffix_in_capitals(place: Path) -> Outcome:
    names = pictures(place)
    naive(place / "Captions.CSV", titled(names, PROSE))
    return Outcome(each(names))


@folder
def two_caption_columns_of_one_name(place: Path) -> Outcome:
    names = pictures(place)
    rows = [(a, b, f"second {b}") for a, b in zip(names, PROSE, strict=True)]
    naive(place / "captions.csv", [("image", "caption", "caption"), *rows])
    return Outcome({a: (b, c) for a, b, c in rows})


@folder
def numbered_caption_columns_some_empty(place: Path) -> Outcome:
    names = pictures(place)
    rows = [
        (a, b, f"second {b}" if n % 2 else "")
        for n, (a, b) in enumerate(zip(names, PROSE, strict=True))
    ]
    naive(place / "captions.csv", [("image", "caption_1", "caption_2"), *rows])
    return Outcome({a: (b, c) if c else (b,) for a, b, c in rows})


@folder
def two_image_columns_of_one_name(place: Path) -> Outcome:
    """Which of them the caption is of is not known."""
    names = pictures(place)
    rows = [("image", "image", "caption"), *zip(names, reversed(names), PROSE, strict=True)]
    naive(place / "captions.csv", rows)
    return Outcome({}, {"repeated column": len(names)})


@folder
def the_row_numbers_of_pandas(place: Path) -> Outcome:
    names = pictures(place)
    rows = [(str(n), a, b) for n, (a, b) in enumerate(zip(names, PROSE, strict=True))]
    naive(place / "captions.csv", [("", "image", "caption"), *rows])
    return Outcome(each(names), says=("not read: ''",))


@folder
def no_header(place: Path) -> Refused:
    names = pictures(place)
    naive(place / "captions.csv", zip(names, PROSE, strict=True))
    return Refused(f"{{folder}}/captions.csv has the columns '00.png', '{PROSE[0]}'; expected")


@folder
def a_header_and_nothing_else(place: Path) -> Outcome:
    pictures(place)
    (place / "captions.csv").write_text("image,caption\n")
    return Outcome({})


@folder
def an_empty_captions_file(place: Path) -> Refused:
    pictures(place)
    (place / "captions.csv").write_bytes(b"")
    return Refused("{folder}/captions.csv is empty; expected a header line")


@folder
def blank_lines_everywhere(place: Path) -> Outcome:
    names = pictures(place)
    lines = [f"{a},{b}\n" for a, b in titled(names, PROSE)]
    (place / "captions.csv").write_text("\n\n" + "\n".join(lines) + "\n\n\n")
    return Outcome(each(names))


@folder
def blank_lines_as_windows_ends_them(place: Path) -> Outcome:
    names = pictures(place)
    naive(place / "captions.csv", titled(names, PROSE), end="\r\n\r\n")
    return Outcome(each(names))


@folder
def lines_end_as_old_macs_ended_them(place: Path) -> Outcome:
    names = pictures(place)
    naive(place / "captions.csv", titled(names, PROSE), end="\r")
    return Outcome(each(names))


@folder
def a_lone_carriage_return_in_a_caption(place: Path) -> Outcome:
    """Lines end in one way; anything else is a character."""
    names = pictures(place)
    captions = with_caption(3, "a dog\rwith a ball")
    naive(place / "captions.csv", titled(names, captions))
    return Outcome(each(names, captions))


@folder
def no_line_end_after_the_last_row(place: Path) -> Outcome:
    names = pictures(place)
    naive(place / "captions.csv", titled(names, PROSE))
    text = (place / "captions.csv").read_text()
    (place / "captions.csv").write_text(text.rstrip("\n"))
    return Outcome(each(names))


@folder
def characters_that_python_takes_for_line_ends(place: Path) -> Outcome:
    names = pictures(place)
    captions = with_caption(2, "a\u2028b", with_caption(5, "c\x0bd\x0ce\x85f"))
    naive(place / "captions.csv", titled(names, captions))
    return Outcome(each(names, captions))


@folder
def a_zero_byte_in_a_caption(place: Path) -> Outcome:
    names = pictures(place)
    captions = with_caption(2, "a dog\0and more")
    naive(place / "captions.csv", titled(names, captions))
    return Outcome(each(names, captions))


@folder
def a_caption_of_two_megabytes(place: Path) -> Outcome:
    names = pictures(place)
    captions = with_caption(2, '"' + "word, " * 330_000 + "end")
    by_csv(place / "captions.csv", titled(names, captions))
    return Outcome(each(names, captions))


@folder
def a_quote_before_two_megabytes_without_the_standard(place: Path) -> Outcome:
    names = pictures(place)
    captions = with_caption(2, '"' + "word " * 400_000 + "end")
    naive(place / "captions.tsv", titled(names, captions), "\t")
    return Outcome(each(names, captions))


@folder
def windows_paths(place: Path) -> Outcome:
    names = pictures(place, below="img/")
    windows = [name.replace("/", "\\") for name in names]
    naive(place / "captions.csv", titled(windows, PROSE))
    return Outcome(each(names))


@folder
def windows_paths_of_another_machine(place: Path) -> Outcome:
    names = pictures(place, below="img/")
    windows = [f"C:\\Users\\me\\{name}" for name in names]
    naive(place / "captions.csv", titled(windows, PROSE))
    return Outcome({}, {"missing image": len(names)})


@folder
def absolute_paths_below_the_folder(place: Path) -> Outcome:
    names = pictures(place, below="img/")
    naive(place / "captions.csv", titled([str(place / name) for name in names], PROSE))
    return Outcome(each(names))


@folder
def paths_from_the_current_folder(place: Path) -> Outcome:
    names = pictures(place, below="img/")
    written = [f"./{name}" for name in names]
    naive(place / "captions.csv", titled(written, PROSE))
    return Outcome(each(written))


@folder
def paths_that_lead_out_or_to_the_web(place: Path) -> Outcome:
    names = pictures(place)
    written = [*names[:-2], f"../{place.name}/{names[-2]}", f"https://example.com/{names[-1]}"]
    naive(place / "captions.csv", titled(written, PROSE))
    return Outcome(each(names[:-2], PROSE[:-2]), {"outside the data root": 1, "missing image": 1})


@folder
def names_with_blanks_and_two_dots(place: Path) -> Outcome:
    names = pictures(place)
    (place / names[3]).rename(place / "my photo (1).small.png")
    names[3] = "my photo (1).small.png"
    naive(place / "captions.csv", titled(names, PROSE))
    return Outcome(each(names))


@folder
def blanks_around_the_cells(place: Path) -> Outcome:
    names = pictures(place)
    naive(place / "captions.csv", titled([f" {name} " for name in names], PROSE), " , ")
    return Outcome(each(names))


@folder
def empty_cells_in_each_role(place: Path) -> Outcome:
    names = pictures(place)
    rows = [*titled(names[:-2], PROSE[:-2]), ("", "of no image"), (names[-2], "  "), ("", "")]
    naive(place / "captions.csv", [*rows, (names[-1], PROSE[-1])])
    return Outcome(each([*names[:-2], names[-1]], [*PROSE[:-2], PROSE[-1]]), {"empty item": 3})
