"""Images with a .txt of the same name beside each, or in folders that are called as what they show."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

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
    images = []
    captions: dict[str, list[str]] = {}
    others: Counter[str] = Counter()
    for place, folders, names in os.walk(job.path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(place).relative_to(job.path)
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)  # noqa: PTH122
            if name.startswith("."):
                others["hidden"] += 1
            elif suffix.lower() in IMAGE_SUFFIXES:
                images.append((below / name).as_posix())
            elif suffix.lower() != ".txt":
                others[suffix or "without a suffix"] += 1
        for name in (*names, *folders):
            stem, suffix = os.path.splitext(name)  # noqa: PTH122
            if suffix.lower() == ".txt" and not name.startswith("."):
                captions.setdefault((below / stem).as_posix(), []).append((below / name).as_posix())
    if not images:
        raise DataError(f"{job.path} holds neither a captions file nor an image")
    _say_others(job.path, others, captions.keys() - {os.path.splitext(i)[0] for i in images})  # noqa: PTH122
    images.sort()
    if not captions and (labels := _labels(images)):
        counts = Counter(labels.values())
        shown = ", ".join(f"{label} ({count})" for label, count in counts.most_common(5))
        console.log(f"{job.path}: no captions: the folders' names are taken for labels: {shown}")
        for number, name in enumerate(images):
            values = {"image": _location(job, name), "captions": [labels[name]]}
            yield Record(name, number, _odd_name(name) or values)
        return
    for number, name in enumerate(images):
        found = captions.get(os.path.splitext(name)[0], [])  # noqa: PTH122
        yield Record(name, number, _row(job, name, found))


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


def _say_others(folder: Path, others: Counter[str], alone: set[str]) -> None:
    """Say which files are neither an image nor a caption of one."""
    if others:
        counts = ", ".join(f"{kind} ({count})" for kind, count in others.most_common(5))
        console.log(f"{folder}: {others.total()} other files are not read: {counts}")
    if alone:
        console.log(f"{folder}: {len(alone)} .txt files are not read: no image has their name")


def _row(job: ResolvedSource, name: str, captions: list[str]) -> dict[str, Any] | RowError:
    if (error := _odd_name(name)) is not None:
        return error
    if not captions:
        return RowError(
            "empty item", f"no caption file {Path(name).with_suffix('.txt').name} beside it"
        )
    if len(captions) > 1:
        names = ", ".join(Path(caption).name for caption in sorted(captions))
        return RowError("repeated caption", f"several caption files beside it: {names}")
    try:
        place = (job.path / captions[0]).relative_to(job.root).as_posix()
        data = inside.read(job.root, place, MAX_CAPTION)
    except inside.FileError as error:
        return RowError(error.kind, f"caption file {error.detail}")
    try:
        text = (
            decode_text(data, repr(place)) if job.source.encoding is None else _decoded(data, job)
        )
    except (DataError, UnicodeError) as error:
        return RowError("not a text", f"caption file {error}")
    return {"image": _location(job, name), "captions": [text]}


def _location(job: ResolvedSource, name: str) -> str:
    return (job.path / name).relative_to(job.root).as_posix()


def _odd_name(name: str) -> RowError | None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return RowError("odd name", "the image's name is not UTF-8; rename it")
    return None


def _decoded(data: bytes, job: ResolvedSource) -> str:
    text = data.decode(str(job.source.encoding)).replace("\r\n", "\n").replace("\r", "\n")
    return text.removeprefix("\ufeff")
