"""A small data set laid out as MMEB-train is, as files of the Hub."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.data.readers.sources import rows_of
from unime.data.images import load_rgb

REPO = "lab/pairs"
CARD = """---
configs:
{configs}
---
# Pairs
"""
SOURCE = {
    "reader": "mmeb_train",
    "path": f"hub:{REPO}",
    "name": "*",
    "split": "original",
    "archives": {"images_zip/{name}.zip": "images"},
}


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            # Without a time: equal files are to make equal archives.
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def table(*rows: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


def row(task: str, number: int) -> dict[str, Any]:
    return {
        "qry": f"<|image_1|>\nfind {task} {number}",
        "qry_image_path": f"images/{task}/Train/{number}.png",
        "pos_text": f"answer {number}",
        "pos_image_path": "",
    }


def pairs(*tasks: str) -> dict[str, bytes]:
    """Return the files of a data set laid out as MMEB-train is."""
    configs, found = [], {}
    for task in tasks:
        configs.append(
            f"- config_name: {task}\n  data_files:\n"
            f"  - {{split: diverse_instruction, path: {task}/diverse_instruction-*}}\n"
            f"  - {{split: original, path: {task}/original-*}}"
        )
        found |= {
            f"{task}/original-00000-of-00002.parquet": table(row(task, 0)),
            f"{task}/original-00001-of-00002.parquet": table(row(task, 1)),
            f"{task}/diverse_instruction-00000-of-00001.parquet": table(row(task, 7)),
            f"images_zip/{task}.zip": zipped(
                {f"{task}/Train/{n}.png": png(colour) for n, colour in ((0, "red"), (1, "blue"))}
            ),
        }
    found["README.md"] = CARD.format(configs="\n".join(configs)).encode()
    return found


def contents(root: Path, **source: Any) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return task, text and the picture's first pixel of each row."""
    found = []
    for read in rows_of(root, **source):
        assert read.error is None, read.error
        (pair,) = read.pairs
        assert pair.query.image is not None
        pixel = load_rgb(root, pair.query.image).getpixel((0, 0))
        found.append((pair.task, pair.query.text, pixel))
    return found
