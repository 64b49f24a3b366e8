"""Pictures with a text file beside each, and what else lies there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tests.data.folders.made import (
    PROSE,
    Outcome,
    draw,
    each,
    folder,
    pictures,
)


def sidecars(place: Path, names: Iterable[str], suffix: str = ".txt") -> None:
    """Write the usual captions beside some pictures."""
    for name, caption in zip(names, PROSE, strict=False):
        (place / name).with_suffix(suffix).write_text(f"{caption}\n", encoding="utf-8")


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
def class_folders(place: Path) -> Outcome:
    """Pictures in folders that are called as what they show (a Should)."""
    for number, name in enumerate(("cat/1.png", "cat/2.png", "tabby_dog/1.png")):
        draw(place / name, number)
    return Outcome(each(("cat/1.png", "cat/2.png", "tabby_dog/1.png"), ("cat", "cat", "tabby dog")))


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
