"""No reader merges, shifts or loses a row, whatever the cells hold: each is read as written, or rejected."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.data.folders.made import image_bytes
from tests.data.readers.sources import rows_of
from unime.data.column_names import unique_names
from unime.data.images import locate, read_bytes
from unime.data.readers.base import EmbeddedImage, ReadRow, RowError, TableOptions
from unime.data.readers.delimited import read_delimited
from unime.data.readers.json_rows import read_json, read_json_lines
from unime.data.readers.parquet_rows import read_parquet

PIECES = (
    '"', '"', '""', ",", ";", "\t", "|", "\n", "\r\n", "\r", " ", "'", "\\", '\\"', "\u00e9", "\u201c",
    "a dog", "big", "12", "5.5", "end.", "b,c", "\u6d77", "\u2028", "\x0b", "#", "=",
)  # fmt: skip
HEADERS: tuple[str, ...] = (
    "image",
    "caption",
    "anchor",
    "positive",
    "negative",
    "caption",
    "text",
    "no. 1",
)
UNICODE = ("utf-8", "utf-8-sig", "utf-16", "utf-32")
NAMED = ("cp1252", "utf-16-le", "cp1251", "gb18030", "shift_jis")

some = settings(max_examples=150)
few = settings(max_examples=50)


def cells_of(*without: str) -> st.SearchStrategy[str]:
    """Return cells made of what is hard to read."""
    pieces = [piece for piece in PIECES if not any(bad in piece for bad in without)]
    return st.lists(st.sampled_from(pieces), max_size=6).map("".join)


@st.composite
def tables(
    draw: st.DrawFn, cells: st.SearchStrategy[str], most: int = 9
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the header and the rows of a table; the first cell tells the rows apart."""
    width = draw(st.integers(2, 4))
    names = draw(st.lists(st.sampled_from(HEADERS), min_size=width, max_size=width))
    key = draw(st.sampled_from(("{:03}.png", "row {:03} of some", "{}")))
    count = draw(st.integers(1, most))
    rows = [
        (key.format(number), *draw(st.tuples(*[cells] * (width - 1)))) for number in range(count)
    ]
    return names, rows


def assert_all_there(
    got: Sequence[dict[str, Any] | RowError], names: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> int:
    """Check that rows were read as written and in order, and that a rejection stands for each other one.

    Returns:
        The number of rejections.
    """
    places = {row[0]: place for place, row in enumerate(rows)}
    next_place = rejected = unused = 0
    for found in got:
        if isinstance(found, RowError):
            rejected, unused = rejected + 1, unused + 1
            continue
        assert list(found) == unique_names(names)
        values = tuple(found.values())
        place = places.get(values[0], -1)
        assert place >= next_place, f"{values} was never written, or not here"
        assert values == rows[place]
        assert place - next_place <= unused, f"lost before {values}: {rows[next_place:place]}"
        next_place, unused = place + 1, 0
    assert len(rows) - next_place <= unused, f"lost at the end: {rows[next_place:]}"
    return rejected


def options(root: Path, encoding: str | None = None, quoting: Any = "auto") -> TableOptions:
    return TableOptions(root, encoding, quoting)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of this module; each writes its file anew."""
    return tmp_path_factory.mktemp("rows")


def encoded(text: str, encoding: str) -> tuple[bytes, str]:
    """Return the text in an encoding, and without what that does not know."""
    data = text.encode(encoding, "ignore")
    return data, data.decode(encoding)


# Python's csv module leaves a lone carriage return without quotes (3.11); files do not tell it from a
# line's end.
@some
@given(
    table=tables(cells_of("\r")),
    quoting=st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC)),
    separator=st.sampled_from(",;\t|"),
    end=st.sampled_from(("\n", "\r\n")),
    encoding=st.sampled_from(UNICODE),
)
@example(
    table=(["anchor", "positive", "negative"], [("000.png", "\n", "b,c")]),
    quoting=csv.QUOTE_MINIMAL, separator=",", end="\n", encoding="utf-8",
)  # fmt: skip
def test_a_table_by_the_standard(
    root: Path, table: Any, quoting: Any, separator: str, end: str, encoding: str
) -> None:
    names, rows = table
    text = io.StringIO()
    writer = csv.writer(text, quoting=quoting, delimiter=separator, lineterminator=end)
    writer.writerows([names, *rows])
    path = root / ("a.tsv" if separator == "\t" else "a.csv")
    path.write_bytes(text.getvalue().encode(encoding))
    assert_all_there(list(read_delimited(path, options(root))), names, rows)
    whole = list(read_delimited(path, options(root, quoting="standard")))
    assert assert_all_there(whole, names, rows) == 0


@few
@given(
    table=tables(cells_of("\n", "\r")),
    quoting=st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
    encoding=st.sampled_from(UNICODE),
)
def test_a_table_by_the_standard_of_one_line_a_row_is_read_whole(
    root: Path, table: Any, quoting: Any, encoding: str
) -> None:
    names, rows = table
    text = io.StringIO()
    csv.writer(text, quoting=quoting).writerows([names, *rows])
    (root / "whole.csv").write_bytes(text.getvalue().encode(encoding))
    got = list(read_delimited(root / "whole.csv", options(root)))
    assert assert_all_there(got, names, rows) == 0


@few
@given(table=tables(cells_of()), encoding=st.sampled_from(NAMED))
def test_a_table_in_an_encoding_that_the_recipe_names(
    root: Path, table: Any, encoding: str
) -> None:
    names, rows = table
    rows = [tuple(encoded(cell, encoding)[1] for cell in row) for row in rows]
    text = io.StringIO()
    csv.writer(text).writerows([names, *rows])
    (root / "named.csv").write_bytes(text.getvalue().encode(encoding))
    got = list(read_delimited(root / "named.csv", options(root, encoding, "standard")))
    assert assert_all_there(got, names, rows) == 0


@some
@given(
    table=tables(cells_of("\n", "\r", ",", ";", "\t", "|", '"', "\\")),
    quotes=st.lists(
        st.tuples(st.integers(0, 8), st.sampled_from(('"{}', '{}"', '"{}" and', 'and "{}"', '12" {}'))),
        max_size=5,
    ),
    separator=st.sampled_from(",;\t|"),
    end=st.sampled_from(("\n", "\r\n", "\r")),
)  # fmt: skip
@example(
    table=(
        ["image", "caption", "text", "no. 1"],
        [("000.png", "", "", "12"), *((f"{n:03}.png", "", "", "") for n in range(1, 4))],
    ),
    quotes=[(0, '"{}'), (3, '"{}')], separator=",", end="\n",
)  # fmt: skip
@example(
    table=(["anchor", "positive"], [("row 0", ""), ("row 1", ""), ("row 2", "")]),
    quotes=[(0, '"{}'), (1, '"{}" and'), (2, '"{}')], separator=",", end="\n",
)  # fmt: skip
def test_lines_written_without_a_thought_of_quotes(
    root: Path, table: Any, quotes: list[tuple[int, str]], separator: str, end: str
) -> None:
    names, rows = table
    for place, form in quotes:
        if place < len(rows):
            column = 1 + place % (len(rows[place]) - 1)
            row = list(rows[place])
            # One form a cell: of a whole one in quotes nobody knows whether they are meant.
            row[column] = row[column] if '"' in row[column] else form.format(row[column])
            rows[place] = tuple(row)
    text = "".join(separator.join(row) + end for row in [names, *rows])
    path = root / ("naive.tsv" if separator == "\t" else "naive.csv")
    path.write_bytes(text.encode())
    got = list(read_delimited(path, options(root)))
    assert_all_there(got, names, rows)
    assert len(got) == len(rows)
    plain = list(read_delimited(path, options(root, quoting="none")))
    assert assert_all_there(plain, names, rows) == 0


@some
@given(table=tables(cells_of("\n", "\r")), separator=st.sampled_from(",\t"))
def test_whatever_the_lines_are_none_is_lost(root: Path, table: Any, separator: str) -> None:
    names, rows = table
    lines = [separator.join(row) for row in [names, *rows]]
    path = root / "lines.csv"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    got = list(read_delimited(path, options(root, quoting="none")))
    assert len(got) == len(rows)
    for found, row in zip(got, rows, strict=True):
        if not isinstance(found, RowError):
            assert separator.join(found.values()) == separator.join(row)


BYTES = st.one_of(
    cells_of().map(str.encode),
    st.binary(max_size=12),
    st.integers(0, 20).map(image_bytes),
    st.integers(0, 20).map(lambda number: image_bytes(number, "JPEG")),
)
TEXT_TYPES = (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.null())
BYTE_TYPES = (pa.binary(), pa.large_binary())


@st.composite
def parquet_columns(draw: st.DrawFn) -> tuple[list[str], list[pa.Array]]:
    count = draw(st.integers(1, 7))
    names, columns = [], []
    for _ in range(draw(st.integers(1, 4))):
        names.append(draw(st.sampled_from(HEADERS)))
        kind = draw(st.sampled_from((*TEXT_TYPES, *BYTE_TYPES)))
        cell = st.none() if kind == pa.null() else BYTES if kind in BYTE_TYPES else cells_of()
        values = draw(st.lists(st.none() | cell, min_size=count, max_size=count))
        columns.append(pa.array(values, kind))
    return names, columns


@few
@given(columns=parquet_columns(), size=st.integers(1, 8))
def test_a_parquet_table_of_any_types(root: Path, columns: Any, size: int) -> None:
    names, arrays = columns
    path = root / "typed.parquet"
    pq.write_table(pa.Table.from_arrays(arrays, names=names), path, row_group_size=size)
    got = list(read_parquet(path, options(root)))
    assert len(got) == len(arrays[0])
    for number, row in enumerate(got):
        if isinstance(row, RowError):
            # Of two columns of images of one name, neither can be told by its place.
            assert row.kind == "repeated column" and len(set(names)) < len(names)
            continue
        assert list(row) == unique_names(names)
        for value, array in zip(row.values(), arrays, strict=True):
            _check_cell(root, value, array[number].as_py(), names)


def _check_cell(root: Path, value: Any, written: Any, names: list[str]) -> None:
    """Check that bytes are a text or the place where they lie, and never the one for the other."""
    if not isinstance(written, bytes):
        assert value == written and not isinstance(value, EmbeddedImage)
    elif isinstance(value, EmbeddedImage):
        # Bytes of neither kind are refused with the images; an image is found again by its place.
        if written and len(set(names)) == len(names):
            assert read_bytes(locate(root, value), value) == written
    else:
        assert not written.startswith((b"\x89PNG", b"\xff\xd8"))
        assert value == written.decode()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | cells_of() | st.just("\ud800"),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(cells_of(), values, max_size=3),
    max_leaves=6,
)
JSON_ROWS = st.lists(st.dictionaries(st.sampled_from(HEADERS), JSON_VALUES, max_size=4), max_size=6)
DAMAGE = ("", "{", '{"a": 1} {', '{"a": 1, "a": 2}', "[]", "null", '{"a": \udce9}', "7")


def _equal(found: object, row: object) -> bool:
    return json.dumps(found) == json.dumps(row)


@few
@given(
    rows=JSON_ROWS,
    damage=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(DAMAGE)), max_size=3),
    encoding=st.sampled_from(("utf-8", "utf-8-sig", "utf-16")),
    is_ascii=st.booleans(),
    end=st.sampled_from(("\n", "\r\n")),
)
def test_json_lines_of_any_values(
    root: Path, rows: list[Any], damage: Any, encoding: str, is_ascii: bool, end: str
) -> None:
    written: list[Any] = [
        json.dumps(row, ensure_ascii=is_ascii or "\\ud800" in json.dumps(row)) for row in rows
    ]
    for place, line in damage:
        if encoding == "utf-8" and line:
            written.insert(place, line)
            rows = [*rows[:place], RowError("malformed line", ""), *rows[place:]]
    text = "".join(line + end for line in written)
    path = root / "values.jsonl"
    path.write_bytes(text.encode(encoding, "surrogateescape"))
    got = list(read_json_lines(path, options(root)))
    assert len(got) == len(rows)
    for found, row in zip(got, rows, strict=True):
        if isinstance(row, RowError):
            assert isinstance(found, RowError)
        else:
            assert _equal(found, row)


@few
@given(
    rows=JSON_ROWS, indent=st.sampled_from((None, 0, 2)), others=st.lists(JSON_VALUES, max_size=2)
)
def test_a_json_list_of_any_values(
    root: Path, rows: list[Any], indent: int | None, others: list[Any]
) -> None:
    values = [*rows, *others]
    path = root / "values.json"
    path.write_text(json.dumps(values, indent=indent), encoding="utf-8")
    got = list(read_json(path, options(root)))
    assert len(got) == len(values)
    for found, value in zip(got, values, strict=True):
        if isinstance(value, dict):
            assert _equal(found, value)
        else:
            assert isinstance(found, RowError)


ROLES = ("anchor", "positive", "negative_1", "negative_2")
FILES = ("csv", "quoted.tsv", "jsonl", "sparse.jsonl", "json", "parquet", "bytes.parquet")


def write_roles(place: Path, file: str, names: Sequence[str], rows: list[dict[str, Any]]) -> str:
    """Write rows of texts and None, with their columns in an order, as one of `FILES`."""
    path = place / f"roles.{file}"
    ordered = [{name: row[name] for name in names} for row in rows]
    if file.endswith(".parquet") or file == "parquet":
        kind = pa.binary() if file.startswith("bytes") else pa.string()
        columns = {
            name: pa.array([row[name] for row in ordered], pa.string()).cast(kind) for name in names
        }
        pq.write_table(pa.table(columns), path)
    elif file.endswith("jsonl"):
        if file.startswith("sparse"):
            ordered = [{k: v for k, v in row.items() if v is not None} for row in ordered]
        path.write_text("".join(json.dumps(row) + "\n" for row in ordered))
    elif file == "json":
        path.write_text(json.dumps(ordered))
    else:
        is_tsv = file.endswith("tsv")
        quoting, separator = (csv.QUOTE_ALL, "\t") if is_tsv else (csv.QUOTE_MINIMAL, ",")
        with path.open("w", newline="", encoding="utf-8") as text:
            writer = csv.DictWriter(text, names, quoting=quoting, delimiter=separator)
            writer.writeheader()
            writer.writerows(ordered)
    return path.name


@st.composite
def role_rows(
    draw: st.DrawFn, names: Sequence[str] = ROLES, most: int = 6
) -> list[dict[str, str | None]]:
    """Return rows whose every text names its row and its role."""
    empty = st.sampled_from((None, None, "", "  "))
    rows = []
    for number in range(draw(st.integers(1, most))):
        row: dict[str, str | None] = {}
        for name in names:
            ornament = draw(cells_of("\n", "\r"))
            is_empty = draw(st.integers(0, 4)) == 0
            row[name] = draw(empty) if is_empty else f"{name} of {number} {ornament}".strip()
        rows.append(row)
    return rows


def given_of(row: dict[str, str | None], *names: str) -> list[str]:
    return [str(row[name]) for name in names if (row[name] or "").strip()]


def assert_roles(
    got: Sequence[ReadRow],
    rows: Sequence[dict[str, str | None]],
    query: str,
    positive: str,
    *negatives: str,
) -> None:
    """Check each row: its texts in their roles, or rejected where query or positive is empty."""
    assert [row.number for row in got] == list(range(len(rows)))
    for found, row in zip(got, rows, strict=True):
        if not given_of(row, query) or not given_of(row, positive):
            assert found.error is not None, found
            continue
        assert found.error is None, found.error
        (pair,) = found.pairs
        assert pair.query.text == row[query]
        assert [item.text for item in pair.positives] == [row[positive]]
        assert [item.text for item in pair.negatives] == given_of(row, *negatives)


@some
@given(rows=role_rows(), names=st.permutations(ROLES), file=st.sampled_from(FILES))
def test_sentence_transformers_keeps_roles_that_are_named(
    root: Path, rows: list[dict[str, str | None]], names: list[str], file: str
) -> None:
    path = write_roles(root, file, names, rows)
    if file.startswith("sparse") and not all(set(ROLES) <= _keys(row) for row in rows[:1]):
        return  # the first row is what tells the order of negatives
    got = rows_of(root, reader="sentence_transformers", path=path, task="t")
    negatives = [name for name in names if name.startswith("negative")]
    assert_roles(got, rows, "anchor", "positive", *negatives)


def _keys(row: dict[str, str | None]) -> set[str]:
    return {name for name, value in row.items() if value is not None}


@few
@given(
    rows=role_rows(("q", "d", "w")), file=st.sampled_from([f for f in FILES if "sparse" not in f])
)
def test_sentence_transformers_keeps_roles_by_order(
    root: Path, rows: list[dict[str, str | None]], file: str
) -> None:
    path = write_roles(root, file, ("q", "d", "w"), rows)
    got = rows_of(root, reader="sentence_transformers", path=path, task="t")
    assert_roles(got, rows, "q", "d", "w")


MMEB = ("qry", "pos_text", "neg_text")


@few
@given(rows=role_rows(MMEB), file=st.sampled_from([f for f in FILES if "sparse" not in f]))
def test_mmeb_train_keeps_roles(root: Path, rows: list[dict[str, str | None]], file: str) -> None:
    for row in rows:
        row.update(qry_image_path=None, pos_image_path="", neg_image_path=None)
    path = write_roles(root, file, list(rows[0]), rows)
    got = rows_of(root, reader="mmeb_train", path=path, task="t")
    assert_roles(got, rows, *MMEB)


@few
@given(rows=role_rows(("query", "pos", "neg")), is_list=st.booleans(), score=st.booleans())
def test_flagembedding_keeps_roles_and_scores(
    root: Path, rows: list[dict[str, str | None]], is_list: bool, score: bool
) -> None:
    written: list[dict[str, Any]] = []
    for row in rows:
        lists = {name: [row[name]] if is_list else row[name] for name in ("pos", "neg")}
        scores = {"pos_scores": [0.75], "neg_scores": [0.25]} if score else {}
        written.append({"query": row["query"], **lists, **scores})
    path = root / "flag.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in written))
    got = rows_of(root, reader="flagembedding", path=path.name, task="t")
    assert len(got) == len(rows)
    for found, row in zip(got, rows, strict=True):
        texts = {name: given_of(row, name) for name in ("query", "pos", "neg")}
        if found.error is None:
            (pair,) = found.pairs
            assert [pair.query.text] == texts["query"]
            assert [item.text for item in pair.positives] == texts["pos"]
            assert [item.text for item in pair.negatives] == texts["neg"]
            assert pair.scores == ((0.75, *[0.25] * len(pair.negatives)) if score else ())
        else:
            # What lacks nothing is never rejected.
            assert not all(texts.values())


V2 = ("query_text", "pos_text", "a", "b")


@few
@given(rows=role_rows(V2), scored=st.booleans())
def test_unime_v2_keeps_roles_and_scores(
    root: Path, rows: list[dict[str, str | None]], scored: bool
) -> None:
    written = []
    for row in rows:
        made: dict[str, Any] = {name: row[name] for name in V2[:2]}
        made |= {"query_image": "", "pos_image": None}
        made["hard_negatives"] = [[row["a"], ""], [row["b"], None]]
        if scored:
            made |= {"query_pos_scores": 1, "hard_negatives_scores": [0.5, 0.25]}
        written.append(made)
    (root / "v2.json").write_text(json.dumps(written))
    got = rows_of(root, reader="unime_v2", path="v2.json", task="t")
    assert len(got) == len(rows)
    for found, row in zip(got, rows, strict=True):
        full = all(given_of(row, name) for name in V2)
        assert (found.error is None) == full
        if full:
            (pair,) = found.pairs
            assert pair.query.text == row["query_text"]
            assert [item.text for item in pair.positives] == [row["pos_text"]]
            assert [item.text for item in pair.negatives] == [row["a"], row["b"]]
            assert pair.scores == ((1, 0.5, 0.25) if scored else ())


@few
@given(rows=role_rows(("image", "caption", "caption_2")), file=st.sampled_from(FILES[:-1]))
def test_folder_keeps_each_caption_with_its_image(
    root: Path, rows: list[dict[str, str | None]], file: str
) -> None:
    for number, row in enumerate(rows):
        row["image"] = f"{number}.png" if row["image"] and row["image"].strip() else row["image"]
    path = write_roles(root, file, ("image", "caption", "caption_2"), rows)
    if file.startswith("sparse") and not {"image", "caption"} <= _keys(rows[0]):
        return  # nothing says where images and captions are
    got = rows_of(root, reader="folder", path=path, task="t")
    assert len(got) == len(rows)
    for number, (found, row) in enumerate(zip(got, rows, strict=True)):
        captions = given_of(row, "caption", "caption_2")
        if given_of(row, "image") and captions:
            assert found.error is None, found.error
            (pair,) = found.pairs
            assert pair.query.image == f"{number}.png"
            assert [item.text for item in pair.positives] == captions
        else:
            assert found.error is not None
