"""Which files of a folder are read: captions files, sidecars, splits, archives, and what lies beside them."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable
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


def sidecars(place: Path, names: Iterable[str], suffix: str = ".txt") -> None:
    """Write the usual captions beside some pictures."""
    for name, caption in zip(names, PROSE, strict=False):
        (place / name).with_suffix(suffix).write_text(f"{caption}\n", encoding="utf-8")


def archive(place: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Write a plain tar."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return place


def samples(first: int, count: int, suffix: str = "jpg") -> list[tuple[str, bytes]]:
    """Return the members of a webdataset archive."""
    found = []
    for number in range(first, first + count):
        found.append((f"{number:09}.{suffix}", image_bytes(number)))
        found.append((f"{number:09}.txt", PROSE[number].encode()))
    return found


@folder
def sidecars_of_many_suffixes(place: Path) -> Outcome:
    kinds = {
        "a.jpg": "JPEG", "b.JPG": "JPEG", "c.jfif": "JPEG", "d.jpe": "JPEG", "e.jp2": "JPEG2000",
        "f.tif": "TIFF", "g.TIFF": "TIFF", "h.avif": "AVIF", "i.webp": "WEBP", "j.bmp": "BMP",
    }  # fmt: skip
    for number, (name, kind) in enumerate(kinds.items()):
        draw(place / name, number, kind)
    sidecars(place, kinds)
    return Outcome(each(kinds))


@folder
def heic_is_refused_with_its_reason(place: Path) -> Outcome:
    names = pictures(place)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    (place / "phone.heic").write_bytes(heic)
    (place / "phone.txt").write_text("from a phone")
    sidecars(place, names)
    return Outcome(each(names), {"not an image": 1})


@folder
def sidecars_in_capitals(place: Path) -> Outcome:
    names = pictures(place)
    sidecars(place, names[:5], ".TXT")
    for name, caption in zip(names[5:], PROSE[5:], strict=True):
        (place / name).with_suffix(".Txt").write_text(caption)
    return Outcome(each(names))


@folder
def sidecars_in_subfolders_with_names_like_files(place: Path) -> Outcome:
    """A folder called like a picture or like a caption is a folder."""
    (place / "holiday.png").mkdir()
    (place / "holiday.txt").mkdir()
    names = pictures(place, 5, "holiday.png/") + pictures(place, 5, "2024-05-01/")
    for number, name in enumerate(names):
        draw(place / name, number)
    sidecars(place, names)
    return Outcome(each(names))


@folder
def a_folder_in_place_of_a_sidecar(place: Path) -> Outcome:
    names = pictures(place)
    sidecars(place, names)
    (place / "03.txt").unlink()
    (place / "03.txt").mkdir()
    kept = [number for number in range(10) if number != 3]
    return Outcome(each([names[n] for n in kept], [PROSE[n] for n in kept]), {"not a file": 1})


@folder
def sidecars_missing_empty_and_odd(place: Path) -> Outcome:
    names = pictures(place)
    sidecars(place, names)
    (place / "00.txt").unlink()
    (place / "01.txt").write_bytes(b"")
    (place / "02.txt").write_text(" \n\n")
    (place / "03.txt").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe\x81\x8d\x9d")
    (place / "04.txt").write_text("word " * 400_000)
    (place / "05.txt").unlink()
    (place / "05.txt").symlink_to("/etc/hostname")
    (place / "06.txt").unlink()
    os.mkfifo(place / "06.txt")
    rejected = {
        "empty item": 3, "not a text": 1, "too large": 1, "outside the data root": 1,
        "not a file": 1,
    }  # fmt: skip
    return Outcome(each(names[7:], PROSE[7:]), rejected)


@folder
def sidecars_of_several_encodings(place: Path) -> Outcome:
    names = pictures(place, 5)
    text = "caf\u00e9 \u00fcber"
    codes = ("utf-8", "utf-8-sig", "utf-16", "latin-1", "utf-16-be")
    for name, code in zip(names, codes, strict=True):
        (place / name).with_suffix(".txt").write_bytes(f"{text} {name}\r\nsecond".encode(code))
    return Outcome({name: (f"{text} {name}\nsecond",) for name in names})


@folder
def two_sidecars_of_one_picture(place: Path) -> Outcome:
    names = pictures(place)
    sidecars(place, names)
    (place / "03.TXT").write_text("another caption")
    kept = [number for number in range(10) if number != 3]
    return Outcome(
        each([names[n] for n in kept], [PROSE[n] for n in kept]), {"repeated caption": 1}
    )


@folder
def what_macs_and_windows_leave_behind(place: Path) -> Outcome:
    names = pictures(place)
    sidecars(place, names)
    for below in ("", "__MACOSX/"):
        (place / below).mkdir(exist_ok=True)
        for name in names:
            (place / f"{below}._{name}").write_bytes(
                b"\0\x05\x16\x07\0\x02\0\0Mac OS X" + bytes(90)
            )
            (place / f"{below}._{Path(name).stem}.txt").write_bytes(b"\0\x05\x16\x07" + bytes(90))
    (place / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (place / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (place / "desktop.ini").write_text("[.ShellClassInfo]\n")
    (place / ".ipynb_checkpoints").mkdir()
    draw(place / ".ipynb_checkpoints/00-checkpoint.png", 77)
    return Outcome(each(names))


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
def class_folders(place: Path) -> Outcome:
    """Pictures in folders that are called as what they show (a Should)."""
    for number, name in enumerate(("cat/1.png", "cat/2.png", "tabby_dog/1.png")):
        draw(place / name, number)
    return Outcome(each(("cat/1.png", "cat/2.png", "tabby_dog/1.png"), ("cat", "cat", "tabby dog")))


@folder
def no_picture_at_all(place: Path) -> Refused:
    (place / "notes.md").write_text("nothing here")
    return Refused("{folder} holds neither a captions file nor an image")


@folder
def an_archive_that_is_packed(place: Path) -> Refused:
    archive(place / "00000.tar", samples(0, 3)).rename(place / "00000.tar.gz")
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
def img2dataset_webdataset(place: Path) -> Outcome:
    for shard in range(2):
        members = samples(shard * 5, 5)
        for number in range(shard * 5, shard * 5 + 5):
            values = {"caption": PROSE[number], "key": f"{number:09}", "status": "success"}
            members.append((f"{number:09}.json", json.dumps(values).encode()))
        archive(place / f"{shard:05}.tar", sorted(members))
        (place / f"{shard:05}_stats.json").write_text('{"count": 5, "successes": 5}')
        table = pa.table({"url": ["u"], "caption": ["c"], "key": ["0"]})
        pq.write_table(table, place / f"{shard:05}.parquet")
    return Outcome(each(f"{n // 5:05}.tar#{n:09}.jpg" for n in range(10)))


@folder
def webdataset_with_folders_and_capitals(place: Path) -> Outcome:
    members = [
        ("set/", b""),
        ("set/a.JPG", image_bytes(0)), ("set/a.TXT", b"one"),
        ("set/._a.JPG", b"\0\x05\x16\x07"),
        ("other/a.png", image_bytes(1)), ("other/a.txt", "caf\u00e9".encode()),
        ("b.png", image_bytes(2)), ("b.json", b'{"text": "three", "width": 24}'),
        ("c.png", image_bytes(3)), ("c.cls", b"7"),
        ("d.png", image_bytes(4)), ("d.txt", b"five"), ("d.jpg", image_bytes(5)),
        ("e.txt", b"of no picture"),
    ]  # fmt: skip
    archive(place / "train.tar", members[1:])
    found = {
        "train.tar#set/a.JPG": ("one",),
        "train.tar#other/a.png": ("caf\u00e9",),
        "train.tar#b.png": ("three",),
    }
    return Outcome(found, {"missing column": 2, "repeated column": 1})


@folder
def a_webdataset_archive_cut_off(place: Path) -> Refused:
    whole = archive(place / "00001.tar", samples(5, 5)).read_bytes()
    archive(place / "00000.tar", samples(0, 5))
    (place / "00001.tar").write_bytes(whole[: len(whole) // 3])
    return Refused("{folder}/00001.tar")


@folder
def a_webdataset_archive_cut_off_between_two_files(place: Path) -> Refused:
    """Without the zeros at its end an archive is not whole, though each of its files is."""
    whole = archive(place / "00000.tar", samples(0, 5)).read_bytes()
    (place / "00000.tar").write_bytes(whole[: whole.index(b"000000003.jpg")])
    return Refused("{folder}/00000.tar")


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
def names_that_are_not_utf_8(place: Path) -> Outcome:
    names = pictures(place)
    sidecars(place, names)
    odd = os.fsencode(place) + b"/caf\xe9"
    (place / "09.png").rename(os.fsdecode(odd + b".png"))
    (place / "09.txt").rename(os.fsdecode(odd + b".txt"))
    os.mkdir(os.fsencode(place) + b"/\xe9t\xe9")  # noqa: PTH102
    draw(Path(os.fsdecode(os.fsencode(place) + b"/\xe9t\xe9/a.png")), 30)
    return Outcome(each(names[:9], PROSE[:9]), {"odd name": 2})


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
