"""Parquet and JSON: what types cells have, and what is missing in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.folders.made import (
    PROSE,
    Outcome,
    Refused,
    draw,
    each,
    folder,
    image_bytes,
    pictures,
)

BYTES = [image_bytes(number) for number in range(10)]


def _table(place: Path, name: str = "captions.parquet", **columns: Any) -> None:
    place.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), place / name, row_group_size=4)


def _inside(file: str = "captions.parquet", column: str = "image", first: int = 0) -> list[str]:
    """Return the locations of ten pictures in a table."""
    return [f"{file}#{row}/{column}" for row in range(first, first + 10)]


def _lines(place: Path, rows: list[Any], name: str = "captions.jsonl", code: str = "utf-8") -> None:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (place / name).write_bytes(text.encode(code))


@folder
def texts_and_images_as_bytes(place: Path) -> Outcome:
    captions = pa.array([caption.encode() for caption in PROSE], pa.binary())
    _table(place, image=pa.array(BYTES, pa.binary()), caption=captions)
    return Outcome(
        each(_inside()), says=("column 'caption' is of bytes, without a type: 10 texts",)
    )


@folder
def texts_and_images_as_large_bytes(place: Path) -> Outcome:
    captions = pa.array([caption.encode() for caption in PROSE], pa.large_binary())
    _table(place, image=pa.array(BYTES, pa.large_binary()), caption=captions)
    return Outcome(each(_inside()))


@folder
def bytes_of_several_kinds_in_one_column(place: Path) -> Outcome:
    """A picture is no caption, Latin-1 is no text, and a name in bytes is the name of a file."""
    names = pictures(place)
    captions = [caption.encode() for caption in PROSE]
    captions[0], captions[1], captions[2] = BYTES[5], "caf\u00e9".encode("latin-1"), b""
    images = [*BYTES[:5], *(name.encode() for name in names[5:])]
    images[3] = b"\x00\x01\x02\xff no picture"
    _table(place, image=pa.array(images, pa.binary()), caption=pa.array(captions, pa.binary()))
    found = {"captions.parquet#4/image": (PROSE[4],), **each(names[5:], PROSE[5:])}
    return Outcome(found, {"wrong type": 2, "empty item": 1, "not an image": 1})


@folder
def lists_of_bytes_as_captions(place: Path) -> Outcome:
    captions = pa.array([[c.encode(), b"again"] for c in PROSE], pa.list_(pa.binary()))
    _table(place, image=pa.array(BYTES, pa.binary()), caption=captions)
    return Outcome({name: (c, "again") for name, c in zip(_inside(), PROSE, strict=True)})


@folder
def struct_images_some_with_a_path(place: Path) -> Outcome:
    names = pictures(place)
    images = [{"bytes": data, "path": "x.png"} for data in BYTES[:5]]
    images += [{"bytes": None, "path": name} for name in names[5:9]] + [
        {"bytes": None, "path": None}
    ]
    _table(place, image=images, caption=list(PROSE))
    found = each([*_inside()[:5], *names[5:9]], PROSE[:9])
    return Outcome(found, {"empty item": 1})


@folder
def nulls_in_each_role(place: Path) -> Outcome:
    images: list[Any] = list(BYTES)
    captions: list[Any] = list(PROSE)
    images[2] = captions[4] = images[6] = captions[6] = None
    _table(place, image=pa.array(images, pa.binary()), caption=pa.array(captions, pa.string()))
    kept = [number for number in range(10) if number not in (2, 4, 6)]
    return Outcome(each([_inside()[n] for n in kept], [PROSE[n] for n in kept]), {"empty item": 3})


@folder
def a_caption_column_of_nothing(place: Path) -> Outcome:
    _table(place, image=pa.array(BYTES, pa.binary()), caption=pa.nulls(10))
    return Outcome({}, {"empty item": 10})


@folder
def numbers_and_dates_as_captions(place: Path) -> Outcome:
    _table(place, image=pa.array(BYTES, pa.binary()), caption=pa.array(range(10)))
    return Outcome({}, {"wrong type": 10})


@folder
def dictionaries_and_large_strings(place: Path) -> Outcome:
    names = pictures(place)
    _table(
        place,
        image=pa.array(names, pa.large_string()),
        caption=pa.array(PROSE).dictionary_encode(),
    )
    return Outcome(each(names))


@folder
def lists_of_captions(place: Path) -> Outcome:
    captions = [[c, None, "", f"again {c}", c] for c in PROSE]
    captions[3] = []
    _table(place, image=pa.array(BYTES, pa.binary()), captions=captions)
    found = {
        name: (c, f"again {c}")
        for n, (name, c) in enumerate(zip(_inside(), PROSE, strict=True))
        if n != 3
    }
    return Outcome(found, {"empty item": 1})


@folder
def captions_by_language_in_parquet(place: Path) -> Outcome:
    captions: list[Any] = [{"en": c, "de": f"deutsch {n}"} for n, c in enumerate(PROSE)]
    captions[3], captions[4] = {"en": "only English", "de": None}, None
    _table(place, image=pa.array(BYTES, pa.binary()), caption=captions)
    kept = [number for number in range(10) if number not in (3, 4)]
    found = {_inside()[n]: (f"deutsch {n}",) for n in kept}
    return Outcome(found, {"empty item": 2}, language="de")


def _repeated(place: Path, names: list[str], columns: list[Any]) -> None:
    arrays = [pa.array(column) for column in columns]
    pq.write_table(pa.Table.from_arrays(arrays, names=names), place / "captions.parquet")


@folder
def two_caption_columns_in_parquet(place: Path) -> Outcome:
    _repeated(place, ["image", "caption", "caption"], [BYTES, PROSE, [f"two {c}" for c in PROSE]])
    return Outcome({name: (c, f"two {c}") for name, c in zip(_inside(), PROSE, strict=True)})


@folder
def two_image_columns_in_parquet(place: Path) -> Outcome:
    _repeated(place, ["image", "image", "caption"], [BYTES, BYTES[::-1], PROSE])
    return Outcome({}, {"repeated column": 10})


@folder
def a_hub_snapshot(place: Path) -> Outcome:
    for part in range(2):
        rows = range(part * 5, part * 5 + 5)
        images = [{"bytes": BYTES[n], "path": None} for n in rows]
        file = f"train-{part:05}-of-00002.parquet"
        _table(place / "data", file, image=images, caption=[PROSE[n] for n in rows])
    (place / "README.md").write_text("---\nlicense: mit\n---\n")
    found = [f"data/train-{n // 5:05}-of-00002.parquet#{n % 5}/image" for n in range(10)]
    return Outcome(each(found))


@folder
def a_hub_snapshot_with_a_damaged_shard(place: Path) -> Refused:
    a_hub_snapshot(place)
    shard = place / "data/train-00001-of-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    return Refused("{folder}/data/train-00001-of-00002.parquet is not a readable Parquet file")


@folder
def a_hub_snapshot_with_two_splits(place: Path) -> Outcome:
    for split, first in (("test", 0), ("train", 5)):
        images = [{"bytes": data, "path": None} for data in BYTES[first : first + 5]]
        file = f"{split}-00000-of-00001.parquet"
        _table(place / "data", file, image=images, text=list(PROSE[first : first + 5]))
    found = [
        f"data/{split}-00000-of-00001.parquet#{n}/image"
        for split in ("test", "train")
        for n in range(5)
    ]
    return Outcome(each(found))


@folder
def a_damaged_captions_parquet(place: Path) -> Refused:
    _table(place, image=pa.array(BYTES, pa.binary()), caption=list(PROSE))
    whole = (place / "captions.parquet").read_bytes()
    (place / "captions.parquet").write_bytes(whole[: len(whole) // 2])
    return Refused("{folder}/captions.parquet is not a readable Parquet file")


@folder
def an_empty_parquet(place: Path) -> Outcome:
    _table(place, image=pa.array([], pa.binary()), caption=pa.array([], pa.string()))
    return Outcome({})


@folder
def json_lines_of_every_kind(place: Path) -> Outcome:
    names = pictures(place, 4)
    rows = [
        {"image": names[0], "caption": "one"},
        '{"image": "00.png", "caption": "lone \\ud800"}',
        '{"image": "00.png", "caption": "first", "caption": "second"}',
        '{"image": "00.png", "image": "01.png", "caption": "of which"}',
        {"image": names[1], "captions": ["two", None, "zwei"]},
        {"image": None, "caption": "of nothing"},
        {"image": names[0], "caption": None},
        {"image": names[0]},
        {"image": names[0], "caption": 7},
        '{"image": "00.png", "caption": NaN}',
        {"image": names[0], "caption": [["one", "list"], ["more"]]},
        {"image": [names[0], names[1]], "caption": "of two"},
        {"image": {"url": names[0]}, "caption": "of an object"},
        ["00.png", "a list"],
        "null",
        '{"image": "00.png", "caption": "cut of',
        {"file_name": names[2], "text": {"en": "three", "de": ["drei", "tres"]}},
        {"FileName": names[3], "Caption": "four"},
    ]
    _lines(place, rows)
    found = {
        names[0]: ("one",),
        names[1]: ("two", "zwei"),
        names[2]: ("drei", "tres", "three"),
        names[3]: ("four",),
    }
    rejected = {
        "wrong type": 8, "repeated column": 2, "empty item": 2, "missing column": 1,
        "malformed line": 1,
    }  # fmt: skip
    return Outcome(found, rejected)


@folder
def json_lines_in_utf_16(place: Path) -> Outcome:
    names = pictures(place)
    rows = [{"image": name, "caption": f"{c} \u00e9"} for name, c in zip(names, PROSE, strict=True)]
    _lines(place, [json.dumps(row, ensure_ascii=False) for row in rows], code="utf-16")
    return Outcome({name: (f"{c} \u00e9",) for name, c in zip(names, PROSE, strict=True)})


@folder
def json_lines_with_a_mark_and_windows_line_ends(place: Path) -> Outcome:
    names = pictures(place)
    rows = [json.dumps({"image": a, "caption": b}) for a, b in zip(names, PROSE, strict=True)]
    (place / "captions.jsonl").write_bytes(("\ufeff" + "\r\n".join(rows) + "\r\n").encode())
    return Outcome(each(names))


@folder
def json_lines_in_a_json_file(place: Path) -> Refused:
    names = pictures(place)
    _lines(
        place,
        [{"image": a, "caption": b} for a, b in zip(names, PROSE, strict=True)],
        "captions.json",
    )
    return Refused("{folder}/captions.json is not a JSON list: ")


@folder
def captions_by_picture_in_one_object(place: Path) -> Refused:
    names = pictures(place)
    (place / "captions.json").write_text(json.dumps(dict(zip(names, PROSE, strict=True))))
    return Refused("{folder}/captions.json is not a JSON list: it is an object")


@folder
def a_json_list_with_windows_paths_and_languages(place: Path) -> Outcome:
    names = pictures(place, below="img/")
    rows = [
        {"image": name.replace("/", "\\"), "caption": {"en": c, "de": None}}
        for name, c in zip(names, PROSE, strict=True)
    ]
    (place / "captions.json").write_text(json.dumps(rows, indent=2))
    return Outcome(each(names), language="en")


@folder
def a_json_list_cut_off(place: Path) -> Refused:
    names = pictures(place)
    rows = json.dumps([{"image": a, "caption": b} for a, b in zip(names, PROSE, strict=True)])
    (place / "captions.json").write_text(rows[:-20])
    return Refused("{folder}/captions.json is not a JSON list: it breaks off")


@folder
def a_json_list_in_latin_1(place: Path) -> Refused:
    names = pictures(place)
    rows = [{"image": a, "caption": f"{b} \u00e9"} for a, b in zip(names, PROSE, strict=True)]
    (place / "captions.json").write_bytes(json.dumps(rows, ensure_ascii=False).encode("latin-1"))
    return Refused("{folder}/captions.json ")


@folder
def pictures_that_are_dropped_from_a_cell(place: Path) -> Outcome:
    """A cell that holds more than is read is rejected."""
    draw(place / "00.png", 0)
    rows = [
        {"image": "00.png", "caption": "good"},
        {"image": "00.png", "caption": {"text": "in English", "images": ["00.png"]}},
    ]
    _lines(place, rows)
    return Outcome({"00.png": ("good",)}, {"wrong type": 1})
