"""Images with a .txt of the same name beside each, or in folders that are called as what they show."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from unime.core import console, inside
from unime.core.errors import DataError
from unime.data.images import IMAGE_SUFFIXES
from unime.data.readers.base import Record, ResolvedSource, RowError
from unime.data.readers.encoding import decode_text

MAX_CAPTION = 1_000_000
"""Bytes of a caption file; a larger one is no caption."""
NO_LABELS = frozenset(
    [
        "train",
        "training",
        "test",
        "testing",
        "val",
        "valid",
        "validation",
        "dev",
        "eval",
        "data",
        "dataset",
        "image",
        "images",
        "img",
        "imgs",
        "picture",
        "pictures",
        "photo",
        "photos",
        "jpg",
        "jpeg",
        "png",
        "raw",
        "all",
        "new",
        "old",
        "misc",
        "other",
        "unknown",
        "unlabeled",
        "unlabelled",
    ]
)
"""Folders that say how images are kept, not what they show."""
_LABEL = re.compile(r"[^\W\d_]{3}")


def records(job: ResolvedSource) -> Iterator[Record]:
    """Yield one row for each image of a folder and its subfolders, in the order of their names.

    Raises:
        DataError: when there is none.
    """
    found = _walk(job.path)
    if not found.images:
        raise DataError(f"{job.path} holds neither a captions file nor an image")
    _say_others(job.path, found)
    place = job.path.relative_to(job.root).as_posix()
    below = "" if place == "." else f"{place}/"
    labels = {} if found.captions else _labels(found.images)
    if labels:
        counts = Counter(labels.values()).most_common(5)
        shown = ", ".join(f"{label} ({count})" for label, count in counts)
        console.log(f"{job.path}: no captions: the folders' names are taken for labels: {shown}")
    for number, name in enumerate(found.images):
        if not name.isascii() and console.printable(name) != name:
            row: dict[str, Any] | RowError = RowError(
                "odd name", "the image's name is not UTF-8; rename it"
            )
        elif labels:
            row = {"image": f"{below}{name}", "captions": [labels[name]]}
        else:
            row = _row(job, below, name, found.captions.get(_stem(name), []))
        yield Record(name, number, row)


class _Found(NamedTuple):
    """What a folder holds; names are relative to it."""

    images: list[str]
    captions: dict[str, list[str]]
    """Files and folders that end in .txt, by their names without it."""
    others: Counter[str]
    """Further files, by suffix."""


def _walk(top: Path) -> _Found:
    found = _Found([], {}, Counter())
    for place, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inner, inner_folders = os.path.relpath(place, top), set(folders)
        below = "" if inner == "." else f"{Path(inner).as_posix()}/"
        for name in (*names, *folders):
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
            if name.startswith("."):
                found.others["hidden"] += 1
            elif suffix == ".txt":
                found.captions.setdefault(below + name[:-4], []).append(below + name)
            elif name in inner_folders:
                continue
            elif suffix in IMAGE_SUFFIXES:
                found.images.append(below + name)
            else:
                found.others[suffix or "without a suffix"] += 1
    found.images.sort(key=lambda name: name.split("/"))
    return found


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122


def _labels(images: Sequence[str]) -> dict[str, str]:
    """Return the label of each image, where all lie in folders that are named as labels are."""
    folders = {image: PurePosixPath(image).parent.name for image in images}
    names = set(folders.values())
    are_labels = len(names) > 1 and all(
        _LABEL.search(name) and name.casefold() not in NO_LABELS for name in names
    )
    return (
        {i: re.sub(r"[_\s]+", " ", name).strip() for i, name in folders.items()}
        if are_labels
        else {}
    )


def _say_others(folder: Path, found: _Found) -> None:
    """Say which files are neither an image nor a caption of one."""
    if found.others:
        counts = ", ".join(f"{kind} ({count})" for kind, count in found.others.most_common(5))
        console.log(f"{folder}: {found.others.total()} other files are not read: {counts}")
    alone = found.captions.keys() - set(map(_stem, found.images))
    if alone:
        console.log(f"{folder}: {len(alone)} .txt files are not read: no image has their name")


def _row(
    job: ResolvedSource, below: str, name: str, captions: list[str]
) -> dict[str, Any] | RowError:
    if not captions:
        return RowError("empty item", f"no caption file {Path(_stem(name)).name}.txt beside it")
    if len(captions) > 1:
        names = ", ".join(Path(caption).name for caption in sorted(captions))
        return RowError("repeated caption", f"several caption files beside it: {names}")
    try:
        place = f"{below}{captions[0]}"
        data = inside.read(job.root, place, MAX_CAPTION)
    except inside.FileError as error:
        return RowError(error.kind, f"caption file {error.detail}")
    try:
        text = (
            decode_text(data, repr(place)) if job.source.encoding is None else _decoded(data, job)
        )
    except (DataError, UnicodeError) as error:
        return RowError("not a text", f"caption file {error}")
    return {"image": f"{below}{name}", "captions": [text]}


def _decoded(data: bytes, job: ResolvedSource) -> str:
    text = data.decode(str(job.source.encoding)).replace("\r\n", "\n").replace("\r", "\n")
    return text.removeprefix("\ufeff")
