"""What else lies in folders: links, pipes, files that are not what their names say, odd tables."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.folders.made import (
    ANY,
    PROSE,
    Outcome,
    Refused,
    by_csv,
    draw,
    each,
    folder,
    image_bytes,
    naive,
    pictures,
    titled,
)
from tests.data.folders.sidecar_folders import sidecars


def _spreadsheet(place: Path) -> None:
    with zipfile.ZipFile(place, "w") as made:
        made.writestr("[Content_Types].xml", "<Types/>" * 50)
        made.writestr("xl/worksheets/sheet1.xml", "<worksheet/>" * 50)


@folder
def captions_in_a_spreadsheet(place: Path) -> Outcome:
    names = pictures(place)
    _spreadsheet(place / "captions.xlsx")
    return Outcome({}, {"empty item": len(names)}, says=(".xlsx (1)",))


@folder
def a_spreadsheet_called_csv(place: Path) -> Refused:
    pictures(place)
    _spreadsheet(place / "captions.csv")
    return Refused("{folder}/captions.csv ")


@folder
def a_csv_called_parquet(place: Path) -> Refused:
    names = pictures(place)
    naive(place / "captions.parquet", titled(names, PROSE))
    return Refused("{folder}/captions.parquet is not a readable Parquet file: ")


@folder
def a_folder_called_captions_csv(place: Path) -> Outcome:
    names = pictures(place, below="captions.csv/")
    sidecars(place, names)
    return Outcome(each(names))


@folder
def a_mark_and_nothing_else(place: Path) -> Refused:
    pictures(place)
    (place / "captions.csv").write_bytes(b"\xef\xbb\xbf")
    return Refused("{folder}/captions.csv is empty; expected a header line")


@folder
def a_text_file_of_captions_without_a_header(place: Path) -> Refused:
    """It is called captions, and no picture is: that it is not read must be said."""
    names = pictures(place)
    rows = [(f"{name}#0", caption) for name, caption in zip(names, PROSE, strict=True)]
    naive(place / "captions.txt", rows, "\t")
    return Refused("{folder}/captions.txt has the columns ")


@folder
def flickr8k_tokens_named_by_their_file(place: Path) -> Refused:
    names = pictures(place)
    rows = [(f"{name}#0", caption) for name, caption in zip(names, PROSE, strict=True)]
    naive(place / "Flickr8k.token.txt", rows, "\t")
    return Refused("{folder}/Flickr8k.token.txt has the columns ", "Flickr8k.token.txt")


@folder
def captions_file_in_a_subfolder(place: Path) -> Outcome:
    names = pictures(place / "set")
    naive(place / "set/captions.csv", titled(names, PROSE))
    return Outcome(each(f"set/{name}" for name in names))


@folder
def pictures_in_two_folders_of_equal_names(place: Path) -> Refused:
    names = pictures(place / "a", 3)
    for number, name in enumerate(names):
        draw(place / "b" / name, number + 20)
    naive(place / "captions.csv", titled(names, PROSE[:3]))
    return Refused("{folder}/captions.csv: '00.png' is not in {folder}, but in a, b; ")


@folder
def names_without_their_suffix(place: Path) -> Outcome:
    names = pictures(place)
    naive(place / "captions.csv", titled([Path(name).stem for name in names], PROSE))
    return Outcome({}, {"missing image": len(names)})


@folder
def links_to_pictures_elsewhere(place: Path) -> Outcome:
    names = pictures(place)
    draw(place.parent / "elsewhere.png", 50)
    (place / names[3]).unlink()
    (place / names[3]).symlink_to(place.parent / "elsewhere.png")
    (place / names[4]).unlink()
    (place / names[4]).symlink_to("nowhere.png")
    naive(place / "captions.csv", titled(names, PROSE))
    kept = [number for number in range(10) if number not in (3, 4)]
    return Outcome(
        each([names[n] for n in kept], [PROSE[n] for n in kept]),
        {"outside the data root": 1, "missing image": 1},
    )


@folder
def a_loop_of_folders(place: Path) -> Outcome:
    names = pictures(place / "set")
    naive(place / "set/captions.csv", titled(names, PROSE))
    (place / "set/again").symlink_to(place)
    return Outcome(each(f"set/{name}" for name in names))


@folder
def a_pipe_in_place_of_a_picture(place: Path) -> Outcome:
    names = pictures(place)
    sidecars(place, names)
    (place / names[0]).unlink()
    os.mkfifo(place / names[0])
    return Outcome(each(names[1:], PROSE[1:]), {"missing image": 1})


@folder
def a_zero_byte_in_a_name(place: Path) -> Outcome:
    names = pictures(place)
    naive(place / "captions.csv", titled([f"{names[0]}\0", *names[1:]], PROSE))
    return Outcome(each(names[1:], PROSE[1:]), {ANY: 1})


@folder
def a_comma_after_the_last_cell(place: Path) -> Outcome:
    names = pictures(place)
    rows = [(*row, "") for row in titled(names, PROSE)]
    naive(place / "captions.csv", rows)
    return Outcome(each(names))


@folder
def quotes_around_captions_and_within(place: Path) -> Outcome:
    """Written as f'{image},"{caption}"': the outer quotes are no part of any caption."""
    names = pictures(place)
    captions = [f"{caption}, seen" for caption in PROSE]
    rows = [f'{name},"{caption}"\n' for name, caption in zip(names, captions, strict=True)]
    rows[3] = f'{names[3]},"a sign, "closed", on a door"\n'
    (place / "captions.csv").write_text("image,caption\n" + "".join(rows))
    kept = [number for number in range(10) if number != 3]
    return Outcome(
        each([names[n] for n in kept], [captions[n] for n in kept]), {"malformed line": 1}
    )


@folder
def coco_with_one_number_twice(place: Path) -> Outcome:
    """Whose the captions are is not known."""
    names = pictures(place, 4)
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    images[3]["id"] = 1
    notes = [{"id": n, "image_id": n, "caption": PROSE[n]} for n in range(3)]
    (place / "captions.json").write_text(json.dumps({"images": images, "annotations": notes}))
    return Outcome(each([names[0], names[2]], [PROSE[0], PROSE[2]]), {ANY: 2})


@folder
def coco_with_gaps(place: Path) -> Outcome:
    names = pictures(place, 4)
    images = [{"id": str(number), "file_name": name} for number, name in enumerate(names)]
    images.append({"id": "9", "file_name": "gone.png"})
    images.append({"id": "10"})
    notes: list[object] = [
        {"image_id": 0, "caption": "one"},
        {"image_id": 0, "caption": None},
        {"image_id": 1, "caption": 7},
        {"image_id": 2, "caption": "three"},
        {"image_id": 2},
        {"caption": "of nothing"},
        {"image_id": 9, "caption": "gone"},
        {"image_id": 10, "caption": "without a name"},
    ]
    (place / "captions.json").write_text(json.dumps({"images": images, "annotations": notes}))
    # Two notes are rejected, and four pictures: 1 (a number), 3 (no caption), 9 and 10.
    return Outcome(each([names[0], names[2]], ["one", "three"]), {ANY: 6})


@folder
def metadata_beside_shards_of_images(place: Path) -> Outcome:
    """A table about pictures that has none of them, beside the shards that hold them."""
    images = [{"bytes": image_bytes(n), "path": None} for n in range(10)]
    table = pa.table({"image": images, "caption": list(PROSE)})
    pq.write_table(table, place / "train-00000-of-00001.parquet")
    pq.write_table(pa.table({"key": ["a"], "width": [3]}), place / "stats.parquet")
    found = [f"train-00000-of-00001.parquet#{n}/image" for n in range(10)]
    return Outcome(each(found), says=("stats.parquet",))


@folder
def two_tables_of_unlike_columns(place: Path) -> Outcome:
    """Parquet shards of which the second calls its columns otherwise."""
    for part, (image, caption) in enumerate((("image", "caption"), ("Image", "Text"))):
        rows = range(part * 5, part * 5 + 5)
        images = [{"bytes": image_bytes(n), "path": None} for n in rows]
        table = pa.table({image: images, caption: [PROSE[n] for n in rows]})
        pq.write_table(table, place / f"train-{part:05}-of-00002.parquet")
    found = [
        f"train-{n // 5:05}-of-00002.parquet#{n % 5}/{'image' if n < 5 else 'Image'}"
        for n in range(10)
    ]
    return Outcome(each(found))


@folder
def a_shard_that_lacks_the_captions(place: Path) -> Refused:
    """Half of a data set is not left out because of one shard."""
    for part, caption in enumerate(("caption", "label_id")):
        rows = range(part * 5, part * 5 + 5)
        images = [{"bytes": image_bytes(n), "path": None} for n in rows]
        table = pa.table({"image": images, caption: [PROSE[n] for n in rows]})
        pq.write_table(table, place / f"train-{part:05}-of-00002.parquet")
    return Refused("{folder}/train-00001-of-00002.parquet has the columns 'image', 'label_id'")


@folder
def a_shard_that_is_not_there(place: Path) -> Outcome:
    """The names of the others say that there are three: someone may want a part of a large set."""
    found: dict[str, tuple[str, ...]] = {}
    for part in (0, 2):
        images = [{"bytes": image_bytes(part * 5 + n), "path": None} for n in range(5)]
        table = pa.table({"image": images, "caption": list(PROSE[:5])})
        name = f"train-{part:05}-of-00003.parquet"
        pq.write_table(table, place / name)
        found |= {f"{name}#{n}/image": (PROSE[n],) for n in range(5)}
    return Outcome(found, says=("2 of the 3 pieces of train are there",))


@folder
def accents_of_a_mac(place: Path) -> Outcome:
    """The file's name is decomposed (NFD), the table's is composed (NFC): not one name."""
    names = pictures(place)
    (place / names[3]).rename(place / "cafe\u0301.png")
    names[3] = "caf\u00e9.png"
    by_csv(place / "captions.csv", titled(names, PROSE))
    kept = [number for number in range(10) if number != 3]
    return Outcome(each([names[n] for n in kept], [PROSE[n] for n in kept]), {"missing image": 1})
