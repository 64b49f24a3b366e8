"""Images with a .txt of the same name beside each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unime.core import console, inside
from unime.core.errors import DataError
from unime.data.images import IMAGE_SUFFIXES
from unime.data.readers.base import Record, ResolvedSource, RowError
from unime.data.readers.encoding import decode_text

MAX_CAPTION = 1_000_000
"""Bytes of a caption file; a larger one is no caption."""


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
    for number, name in enumerate(sorted(images)):
        found = captions.get(os.path.splitext(name)[0], [])  # noqa: PTH122
        yield Record(name, number, _row(job, name, found))


def _say_others(folder: Path, others: Counter[str], alone: set[str]) -> None:
    """Say which files are neither an image nor a caption of one."""
    if others:
        counts = ", ".join(f"{kind} ({count})" for kind, count in others.most_common(5))
        console.log(f"{folder}: {others.total()} other files are not read: {counts}")
    if alone:
        console.log(f"{folder}: {len(alone)} .txt files are not read: no image has their name")


def _row(job: ResolvedSource, name: str, captions: list[str]) -> dict[str, Any] | RowError:
    try:
        name.encode()
    except UnicodeEncodeError:
        return RowError("odd name", "the image's name is not UTF-8; rename it")
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
    return {"image": (job.path / name).relative_to(job.root).as_posix(), "captions": [text]}


def _decoded(data: bytes, job: ResolvedSource) -> str:
    text = data.decode(str(job.source.encoding)).replace("\r\n", "\n").replace("\r", "\n")
    return text.removeprefix("\ufeff")
