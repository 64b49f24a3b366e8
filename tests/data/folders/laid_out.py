"""Which files of a folder are read: captions files, splits, and what lies beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.folders.made import (
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


@folder
def a_hidden_captions_file_of_a_mac(place: Path) -> Outcome:
    names = pictures(place)
    naive(place / "captions.csv", titled(names, PROSE))
    (place / "._captions.csv").write_bytes(b"\0\x05\x16\x07\0\x02\0\0Mac OS X" + bytes(90))
    return Outcome(each(names))


@folder
def sidecars_and_unrelated_tables(place: Path) -> Outcome:
    names = pictures(place)
    sidecars(place, names)
    (place / "dataset_stats.json").write_text('[{"count": 24}]')
    (place / "info.json").write_text('{"name": "my set", "license": "CC0"}')
    (place / "log.jsonl").write_text('{"step": 1}\nnot json\n')
    naive(place / "labels.csv", [("image", "label"), *((name, "3") for name in names)])
    (place / "README.md").write_text("# my set\n")
    return Outcome(each(names), says=("labels.csv",))


@folder
def no_picture_at_all(place: Path) -> Refused:
    (place / "notes.md").write_text("nothing here")
    return Refused("{folder} holds neither a captions file nor an image")


@folder
def img2dataset_files(place: Path) -> Outcome:
    names = pictures(place, below="00000/")
    sidecars(place, names)
    for name, caption in zip(names, PROSE, strict=True):
        values = {"caption": caption, "url": f"https://example.com/{name}", "key": Path(name).stem}
        (place / name).with_suffix(".json").write_text(json.dumps(values))
    (place / "00000_stats.json").write_text('{"count": 10, "successes": 10}')
    pq.write_table(
        pa.table({"url": ["u"], "caption": ["c"], "key": ["0"]}), place / "00000.parquet"
    )
    return Outcome(each(names))


@folder
def two_captions_files(place: Path) -> Refused:
    names = pictures(place)
    naive(place / "captions.csv", titled(names, PROSE))
    (place / "captions.jsonl").write_text('{"image": "00.png", "caption": "another"}\n')
    return Refused(
        "{folder} holds several tables with images and captions: captions.csv, captions.jsonl; "
    )


@folder
def two_captions_files_of_which_one_is_named(place: Path) -> Outcome:
    names = pictures(place)
    two_captions_files(place)
    return Outcome(each(names), place="captions.csv")


@folder
def a_captions_file_and_an_empty_one(place: Path) -> Outcome:
    names = pictures(place)
    by_csv(place / "metadata1000.csv", titled(names, PROSE))
    (place / "metadata1000.jsonl").write_text("")
    return Outcome(each(names), says=("metadata1000.jsonl",))


@folder
def captions_file_and_sidecars(place: Path) -> Outcome:
    """The file is read; that the others are not is said."""
    names = pictures(place)
    naive(place / "captions.csv", titled(names, PROSE))
    for name in names:
        (place / name).with_suffix(".txt").write_text("an older caption")
    return Outcome(each(names))


@folder
def a_sidecar_called_captions(place: Path) -> Outcome:
    names = pictures(place, 9)
    draw(place / "captions.png", 9)
    sidecars(place, [*names, "captions.png"])
    return Outcome(each([*names, "captions.png"]))


@folder
def imagefolder_with_train_and_test(place: Path) -> Outcome:
    found: dict[str, tuple[str, ...]] = {}
    for number, name in enumerate(("00", "01", "02", "03", "04", "05")):
        side = "train" if number < 4 else "test"
        draw(place / f"{side}/{name}.png", number)
        found[f"{side}/{name}.png"] = (PROSE[number],)
    for side in ("train", "test"):
        rows = [(Path(name).name, *texts) for name, texts in found.items() if name.startswith(side)]
        by_csv(place / side / "metadata.csv", [("file_name", "text"), *rows])
    return Outcome(dict(sorted(found.items())))


@folder
def imagefolder_of_one_metadata_file(place: Path) -> Outcome:
    names = pictures(place, 5, "train/") + pictures(place, 5, "train/deep/")
    for number, name in enumerate(names):
        draw(place / name, number)
    rows = [
        {"file_name": name, "text": caption, "bbox": [1, 2, 3, 4], "license": None}
        for name, caption in zip(names, PROSE, strict=True)
    ]
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Outcome(each(names), says=("'bbox', 'license'",))


@folder
def imagefolder_with_croissant(place: Path) -> Outcome:
    names = pictures(place)
    rows = [json.dumps({"file_name": a, "caption": b}) for a, b in zip(names, PROSE, strict=True)]
    (place / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    described = {"@context": {"@language": "en"}, "@type": "sc:Dataset", "name": "mine"}
    (place / "croissant.json").write_text(json.dumps(described))
    return Outcome(each(names))


@folder
def imagefolder_metadata_in_parquet(place: Path) -> Outcome:
    names = pictures(place)
    table = pa.table({"file_name": names, "text": PROSE})
    pq.write_table(table, place / "metadata.parquet")
    return Outcome(each(names))


@folder
def coco(place: Path) -> Outcome:
    names = pictures(place, 4, "train2017/")
    images = [
        {"id": 7 * n, "file_name": Path(name).name, "height": 16} for n, name in enumerate(names)
    ]
    notes = [
        {"id": n, "image_id": 7 * (n % 4), "caption": f"{PROSE[n % 4]} {n}"} for n in range(20)
    ]
    lost = {"id": 20, "image_id": 999, "caption": "of a picture that was taken out"}
    (place / "annotations").mkdir()
    whole = {"info": {}, "licenses": [], "images": images}
    text = json.dumps({**whole, "annotations": [*notes, lost]})
    (place / "annotations/captions_train2017.json").write_text(text)
    boxes = [{"id": 1, "image_id": 7, "bbox": [0, 0, 1, 1], "category_id": 3}]
    text = json.dumps({**whole, "annotations": boxes, "categories": []})
    (place / "annotations/instances_train2017.json").write_text(text)
    captions = {
        name: tuple(f"{PROSE[n]} {number}" for number in range(n, 20, 4))
        for n, name in enumerate(names)
    }
    return Outcome(captions, {"malformed line": 1})


@folder
def a_captions_file_whose_name_is_not_utf_8(place: Path) -> Outcome:
    names = pictures(place)
    written = naive(place / "a.csv", titled([*names, "gone.png"], [*PROSE, "gone"]))
    written.rename(os.fsdecode(os.fsencode(place) + b"/l\xe9gendes.csv"))
    return Outcome(each(names), {"missing image": 1})


@folder
def damaged_and_missing_pictures(place: Path) -> Outcome:
    names = pictures(place)
    (place / names[0]).write_bytes(b"")
    (place / names[1]).write_text("<html>404</html>")
    whole = image_bytes(2, "JPEG", (200, 200))
    (place / names[2]).write_bytes(whole[: len(whole) // 2])
    (place / names[3]).unlink()
    (place / names[4]).unlink()
    (place / names[4]).mkdir()
    naive(place / "captions.csv", titled(names, PROSE))
    return Outcome(
        each(names[5:], PROSE[5:]), {"not an image": 2, "truncated image": 1, "missing image": 2}
    )


@folder
def one_picture_under_two_names(place: Path) -> Outcome:
    names = pictures(place)
    (place / names[9]).write_bytes((place / names[3]).read_bytes())
    naive(place / "captions.csv", titled(names, PROSE))
    found = each(names[:9], PROSE[:9])
    found[names[3]] = (PROSE[3], PROSE[9])
    return Outcome(found, merged=1)
