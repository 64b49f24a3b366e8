"""Files of training pairs: roles, scores and cells as people write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.folders.made import draw, naive

Shown = tuple[str, list[str], list[str], list[float | None]]
"""Query, positives, negatives and scores; an image as <location>, no score as None."""


@dataclass
class PairsOutcome:
    """What must come out of a file of pairs."""

    reader: str
    path: str
    pairs: list[Shown]
    rejected: dict[str, int] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


PairCase = Callable[[Path], PairsOutcome]
PAIR_FILES: dict[str, PairCase] = {}


def pair_file(build: PairCase) -> PairCase:
    """Add a case."""
    assert build.__name__ not in PAIR_FILES, build.__name__
    PAIR_FILES[build.__name__] = build
    return build


def _lines(place: Path, rows: list[Any]) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (place / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "rows.jsonl"


def _csv(place: Path, rows: list[tuple[str, ...]]) -> str:
    return naive(place / "rows.csv", rows).name


def _parquet(place: Path, names: list[str], columns: list[Any]) -> str:
    arrays = [column if isinstance(column, pa.Array) else pa.array(column) for column in columns]
    pq.write_table(pa.Table.from_arrays(arrays, names=names), place / "rows.parquet")
    return "rows.parquet"


ST = "sentence_transformers"


@pair_file
def nulls_never_shift_roles(place: Path) -> PairsOutcome:
    columns = [
        ["a0", None, "a2", "a3", "a4", None],
        ["p0", "p1", None, "p3", "p4", None],
        ["n0", "n1", "n2", None, "n4", "n5"],
        ["m0", "m1", "m2", "m3", None, None],
    ]
    path = _parquet(place, ["anchor", "positive", "negative_1", "negative_2"], columns)
    pairs: list[Shown] = [
        ("a0", ["p0"], ["n0", "m0"], []),
        ("a3", ["p3"], ["m3"], []),
        ("a4", ["p4"], ["n4"], []),
    ]
    return PairsOutcome(ST, path, pairs, {"empty item": 3})


@pair_file
def nulls_in_columns_of_any_name(place: Path) -> PairsOutcome:
    columns = [["q0", None, "q2"], ["d0", "d1", None], ["w0", "w1", "w2"]]
    path = _parquet(place, ["question", "answer", "wrong"], columns)
    return PairsOutcome(ST, path, [("q0", ["d0"], ["w0"], [])], {"empty item": 2})


@pair_file
def scores_of_a_negative_that_is_missing(place: Path) -> PairsOutcome:
    rows = [
        {"anchor": "a", "positive": "p", "negative_1": None, "negative_2": "m", "scores": [1, 0.5, 0.25]},
        {"anchor": "a", "positive": "p", "negative_1": "n", "negative_2": "", "scores": [1, 0.5, 0.25]},
        {"anchor": "a", "positive": "p", "negative_1": "n", "scores": [1, 0.5, 0.25]},
    ]  # fmt: skip
    pairs: list[Shown] = [("a", ["p"], ["m"], [1, 0.25]), ("a", ["p"], ["n"], [1, 0.5])]
    # The third row has no second negative at all: its third score is nobody's, or the lost one's.
    pairs.append(("a", ["p"], ["n"], [1, 0.5]))
    return PairsOutcome(ST, _lines(place, rows), pairs)


@pair_file
def keys_in_another_order_in_each_line(place: Path) -> PairsOutcome:
    rows = [
        {"query": "q0", "document": "d0", "wrong": "w0"},
        {"document": "d1", "query": "q1", "wrong": "w1"},
        {"wrong": "w2", "document": "d2", "query": "q2"},
        {"document": "d3", "query": "q3"},
        {"wrong": "w4", "query": "q4"},
    ]
    pairs: list[Shown] = [
        *((f"q{n}", [f"d{n}"], [f"w{n}"], []) for n in range(3)),
        ("q3", ["d3"], [], []),
    ]
    return PairsOutcome(ST, _lines(place, rows), pairs, {"empty item": 1})


@pair_file
def negatives_before_positives(place: Path) -> PairsOutcome:
    rows = [
        {"negative": "n0", "positive": "p0", "anchor": "a0"},
        {"negative": "n1", "anchor": "a1", "positive": "p1"},
        {"anchor": "a2", "negative": "n2"},
    ]
    pairs: list[Shown] = [(f"a{n}", [f"p{n}"], [f"n{n}"], []) for n in range(2)]
    return PairsOutcome(ST, _lines(place, rows), pairs, {"empty item": 1})


@pair_file
def the_row_numbers_of_pandas_are_no_query(place: Path) -> PairsOutcome:
    path = _csv(place, [("", "anchor", "positive"), ("0", "a0", "p0"), ("1", "a1", "p1")])
    return PairsOutcome(ST, path, [("a0", ["p0"], [], []), ("a1", ["p1"], [], [])])


@pair_file
def an_id_before_an_anchor_is_no_query(place: Path) -> PairsOutcome:
    """The file says which column is the anchor."""
    path = _csv(place, [("id", "anchor", "positive"), ("7", "a0", "p0"), ("8", "a1", "p1")])
    return PairsOutcome(ST, path, [("a0", ["p0"], [], []), ("a1", ["p1"], [], [])])


@pair_file
def two_positive_columns_of_one_name(place: Path) -> PairsOutcome:
    """The second is no negative."""
    path = _csv(place, [("anchor", "positive", "positive"), ("a0", "p0", "x0"), ("a1", "p1", "x1")])
    return PairsOutcome(ST, path, [], {"repeated column": 2})


@pair_file
def two_anchor_columns_in_parquet(place: Path) -> PairsOutcome:
    columns = [["a0", "a1"], ["b0", "b1"], ["p0", "p1"]]
    path = _parquet(place, ["anchor", "anchor", "positive"], columns)
    return PairsOutcome(ST, path, [], {"repeated column": 2})


@pair_file
def two_negative_columns_of_one_name(place: Path) -> PairsOutcome:
    rows = [
        ("anchor", "positive", "negative", "negative"),
        ("a", "p", "n", "m"),
        ("b", "q", "", "k"),
    ]
    pairs: list[Shown] = [("a", ["p"], ["n", "m"], []), ("b", ["q"], ["k"], [])]
    return PairsOutcome(ST, _csv(place, rows), pairs)


@pair_file
def keys_that_are_there_twice(place: Path) -> PairsOutcome:
    rows = [
        '{"anchor": "a", "positive": "p", "positive": "x"}',
        '{"anchor": "a", "anchor": "b", "positive": "p"}',
        '{"anchor": "a", "positive": {"text": "p", "text": "x"}}',
        {"anchor": "a", "positive": "p"},
    ]
    return PairsOutcome(
        ST, _lines(place, rows), [("a", ["p"], [], [])], {"repeated column": 2, "wrong type": 1}
    )


@pair_file
def numbers_that_are_none(place: Path) -> PairsOutcome:
    bad = ("NaN", "Infinity", "-Infinity", "7.5", "-3", "true", "false", "1" * 400, "1e400", '"nan"',
           '"inf"', '"1_0"', '"yes"', "[1, 2, 3]", "{}", "[true]")  # fmt: skip
    rows: list[Any] = [f'{{"anchor": "a", "positive": "p", "score": {value}}}' for value in bad]
    rows += [
        {"anchor": "a", "positive": "p", "score": value} for value in (0.5, "0.25", 1, None, "")
    ]
    pairs: list[Shown] = [
        ("a", ["p"], [], [0.5]),
        ("a", ["p"], [], [0.25]),
        ("a", ["p"], [], [1]),
        ("a", ["p"], [], []),
        ("a", ["p"], [], []),
    ]
    return PairsOutcome(ST, _lines(place, rows), pairs, {"wrong type": 14, "score out of range": 2})


@pair_file
def labels_in_a_csv(place: Path) -> PairsOutcome:
    rows = [("sentence1", "sentence2", "label"), ("a0", "p0", "1"), ("a1", "p1", "0"), ("a2", "p2", ""),
            ("a3", "p3", "0.5"), ("a4", "p4", "nan"), ("a5", "p5", "5"), ("a6", "p6", "True")]  # fmt: skip
    pairs: list[Shown] = [
        ("a0", ["p0"], [], [1]),
        ("a2", ["p2"], [], []),
        ("a3", ["p3"], [], [0.5]),
    ]
    rejected = {"no positive": 1, "wrong type": 2, "score out of range": 1}
    return PairsOutcome(ST, _csv(place, rows), pairs, rejected)


@pair_file
def texts_and_files_that_end_like_pictures(place: Path) -> PairsOutcome:
    draw(place / "my photo.png", 0)
    draw(place / "b.png", 1)
    rows = [
        {"anchor": "a0", "positive": "my photo.png"},
        {"anchor": "a1", "positive": "b.png"},
        {"anchor": "how to open logo.png", "positive": "p2"},
        {"anchor": "a3", "positive": "./b.png"},
        {"anchor": "a4", "positive": "see b.png."},
    ]
    pairs: list[Shown] = [
        ("a0", ["<my photo.png>"], [], []),
        ("a1", ["<b.png>"], [], []),
        ("how to open logo.png", ["p2"], [], []),
        ("a3", ["<./b.png>"], [], []),
        ("a4", ["see b.png."], [], []),
    ]
    return PairsOutcome(ST, _lines(place, rows), pairs)


@pair_file
def windows_paths_of_pictures(place: Path) -> PairsOutcome:
    draw(place / "img/a.png", 0)
    rows = [{"anchor": "a0", "positive": "img\\a.png"}, {"anchor": "a1", "positive": "img/a.png"}]
    pairs: list[Shown] = [("a0", ["<img/a.png>"], [], []), ("a1", ["<img/a.png>"], [], [])]
    return PairsOutcome(ST, _lines(place, rows), pairs)


@pair_file
def windows_paths_in_mmeb_and_unime_v2(place: Path) -> PairsOutcome:
    draw(place / "img/a.png", 0)
    row = {"query_text": "q", "query_image": "img\\a.png", "pos_text": "p", "pos_image": ""}
    (place / "rows.json").write_text(json.dumps([row]))
    return PairsOutcome("unime_v2", "rows.json", [("q<img/a.png>", ["p"], [], [])])


@pair_file
def cells_that_hold_more_than_is_read(place: Path) -> PairsOutcome:
    draw(place / "a.png", 0)
    rows = [
        {"anchor": {"text": "q", "images": ["a.png"]}, "positive": "p"},
        {"anchor": {"text": "q", "image": ["a.png", "a.png"]}, "positive": "p"},
        {"anchor": {"text": "q", "video": "a.mp4"}, "positive": "p"},
        {"anchor": ["q", "r"], "positive": "p"},
        {"anchor": "a", "positive": "p", "negative": ["n", "m"]},
        {"anchor": {"text": "q", "image": "a.png"}, "positive": "p"},
        {"anchor": {}, "positive": "p"},
        {"anchor": 7, "positive": "p"},
    ]
    pairs: list[Shown] = [("q<a.png>", ["p"], [], [])]
    rejected = {"unsupported cell": 2, "wrong type": 4, "empty item": 1}
    return PairsOutcome(ST, _lines(place, rows), pairs, rejected)


@pair_file
def pairs_of_bytes(place: Path) -> PairsOutcome:
    columns = [
        pa.array([b"a0", b"a1", None, "caf\u00e9".encode("latin-1")], pa.binary()),
        pa.array([b"p0", "\u00e9".encode(), b"p2", b"p3"], pa.large_binary()),
    ]
    path = _parquet(place, ["anchor", "positive"], columns)
    # Bytes that are neither text nor image are refused where images are checked.
    pairs: list[Shown] = [
        ("a0", ["p0"], [], []),
        ("a1", ["\u00e9"], [], []),
        ("<rows.parquet#3/anchor>", ["p3"], [], []),
    ]
    return PairsOutcome(ST, path, pairs, {"empty item": 1})


@pair_file
def quotes_in_pairs_of_a_tsv(place: Path) -> PairsOutcome:
    rows = [
        ("anchor", "positive", "negative"),
        ('"a0', "p0", "n0"),
        ("a1", '"p1', "n1"),
        ("a2", "p2", '"n2'),
    ]
    naive(place / "rows.tsv", rows, "\t")
    pairs: list[Shown] = [(a, [p], [n], []) for a, p, n in rows[1:]]
    return PairsOutcome(ST, "rows.tsv", pairs)


@pair_file
def flagembedding_as_people_write_it(place: Path) -> PairsOutcome:
    rows = [
        {"query": "q0", "pos": "one string", "neg": "another"},
        {"query": "q1", "pos": ["p1"], "neg": []},
        {"query": "q2", "pos": ["p2"]},
        {"query": "q3", "pos": ["p3"], "neg": ["n3", ""]},
        {"query": "q4", "pos": [], "neg": ["n4"]},
        {"query": "q5", "pos": ["p5"], "neg": ["n5"], "pos_scores": [0.9], "neg_scores": []},
        '{"query": "q6", "pos": ["p6"], "neg": ["n6"], "pos_scores": [NaN], "neg_scores": [Infinity]}',
        '{"query": "q7", "pos": ["p7", "r7"], "neg": ["n7"], "pos_scores": [0.5, NaN], "neg_scores": [0.5]}',
        {"query": None, "pos": ["p8"]},
        {"query": "q9", "pos": [None], "neg": [None]},
        {"query": 10, "pos": ["p10"]},
        {
            "query": "q11",
            "pos": ["p11"],
            "neg": ["n", "m"],
            "pos_scores": [0.5],
            "neg_scores": [None, 0.25],
        },
        {"query": "q12", "pos": ["p12"], "neg": ["n"], "pos_scores": [1], "neg_scores": [7.5]},
        '{"query": "q13", "pos": ["p13"], "pos": ["x13"]}',
        {"pos": ["p14"]},
        {"query": "q15", "pos": {"text": "p15"}},
        {"query": "q16", "pos": ["p16", 16]},
    ]
    pairs: list[Shown] = [
        ("q0", ["one string"], ["another"], []),
        ("q1", ["p1"], [], []),
        ("q2", ["p2"], [], []),
        ("q11", ["p11"], ["n", "m"], [0.5, None, 0.25]),
    ]
    rejected = {
        "empty item": 3, "no positive": 1, "wrong type": 6, "score out of range": 1,
        "repeated column": 1, "missing column": 1,
    }  # fmt: skip
    return PairsOutcome("flagembedding", _lines(place, rows), pairs, rejected)


@pair_file
def unime_v2_with_odd_scores(place: Path) -> PairsOutcome:
    row = {"query_text": "q", "query_image": "", "pos_text": "p", "pos_image": None}
    some = {**row, "hard_negatives": [["n", ""], ["m", None]], "query_pos_scores": 1}
    rows = [
        row,
        {**some, "hard_negatives_scores": [0.5, None]},
        {**some, "hard_negatives_scores": [0.5]},
        {**some, "hard_negatives_scores": [0.5, True]},
        {**some, "hard_negatives_scores": [0.5, 3]},
        {**row, "hard_negatives": [["n"]]},
        {**row, "hard_negatives": "n"},
        {**row, "query_text": None},
        {**row, "pos_text": ["p", "r"]},
        {"query_text": "q", "pos_text": "p"},
    ]
    (place / "rows.json").write_text(json.dumps(rows))
    pairs: list[Shown] = [("q", ["p"], [], []), ("q", ["p"], ["n", "m"], [1, 0.5, None])]
    rejected = {"wrong type": 5, "score out of range": 1, "empty item": 1, "missing column": 1}
    return PairsOutcome("unime_v2", "rows.json", pairs, rejected)


@pair_file
def mmeb_columns_that_are_empty_or_twice(place: Path) -> PairsOutcome:
    names = ["qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path"]
    columns = [
        ["q0", None, "q2", "q3", "q4"],
        ["", "i.png", None, "", ""],
        ["p0", "p1", None, "p3", ""],
        ["", None, None, "", "j.png"],
        [["n0", "m0"], ["n1"], ["n2"], None, [""]],
        [["", "k.png"], [None], [""], None, ["l.png"]],
    ]
    pairs: list[Shown] = [
        ("q0", ["p0"], ["n0", "m0<k.png>"], []),
        ("<i.png>", ["p1"], ["n1"], []),
        ("q3", ["p3"], [], []),
        ("q4", ["<j.png>"], ["<l.png>"], []),
    ]
    path = _parquet(place, names, columns)
    return PairsOutcome("mmeb_train", path, pairs, {"no positive": 1})


@pair_file
def mmeb_with_a_column_twice(place: Path) -> PairsOutcome:
    names = ["qry", "qry_image_path", "pos_text", "pos_text", "pos_image_path"]
    path = _parquet(place, names, [["q"], [""], ["p"], ["x"], [""]])
    return PairsOutcome("mmeb_train", path, [], {"repeated column": 1})


@pair_file
def mmeb_with_a_negative_column_twice(place: Path) -> PairsOutcome:
    names = ["qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_text"]
    path = _parquet(place, names, [["q"], [""], ["p"], [""], [["n"]], [["m"]]])
    return PairsOutcome("mmeb_train", path, [], {"repeated column": 1})


@pair_file
def scores_in_two_columns(place: Path) -> PairsOutcome:
    """Which of the two is the score is not known, unless one is empty."""
    rows = [
        {"anchor": "a", "positive": "p", "label": 1, "score": 0.5},
        {"anchor": "b", "positive": "q", "label": None, "score": 0.5},
    ]
    return PairsOutcome(ST, _lines(place, rows), [("b", ["q"], [], [0.5])], {"repeated column": 1})
