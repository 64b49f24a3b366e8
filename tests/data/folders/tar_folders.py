"""Archives as webdataset has them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.folders.made import (
    PROSE,
    Outcome,
    Refused,
    each,
    folder,
    image_bytes,
)


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
def an_archive_that_is_packed(place: Path) -> Refused:
    archive(place / "00000.tar", samples(0, 3)).rename(place / "00000.tar.gz")
    return Refused("{folder} holds neither a captions file nor an image")


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
