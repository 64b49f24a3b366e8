"""The published file forms of pictures with captions: (location below the root, captions).

To add one: a function that reads a file or folder, and one line in `FORMS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unime.core import inside
from unime.core.errors import DataError
from unime.core.yaml_files import read_json
from unime.data.images import IMAGE_SUFFIXES
from unime.data.readers import cells, folder, formats, sidecars
from unime.data.readers.base import DataSource, ResolvedSource, RowError
from unime.data.readers.caption_tables import IMAGE_COLUMNS
from unime.data.readers.instructions import Instructions
from unime.eval.benchmark import TaskSpec

MAX_BYTES = 1 << 30
"""Of a JSON list of records, which is read as a whole."""

Captioned = tuple[str, list[str]]


def _folder(path: Path, spec: TaskSpec) -> Iterator[Captioned]:
    """Any form of the folder reader (`unime/data/readers/folder.py`), rows of one picture joined."""
    job = _job(path, spec, "folder")
    captions: dict[str, list[str]] = {}
    for file, number, values in folder.records(job):
        try:
            if isinstance(values, RowError):
                raise values
            (pair,) = folder.pairs(values, job)
        except RowError as error:
            raise DataError(f"{path.parent / file}, row {number}: {error}") from None
        assert pair.query.image is not None
        captions.setdefault(pair.query.image, []).extend(item.text for item in pair.positives)
    yield from captions.items()


def _table(path: Path, spec: TaskSpec) -> Iterator[Captioned]:
    """Rows with a picture and a list of captions, kept as they are, repeated ones too.

    Columns `image` and `text` (or `caption`, `captions`), as royokong/flickr30k_test has them.
    """
    for file, number, values in formats.records(_job(path, spec, "rows")):
        try:
            if isinstance(values, RowError):
                raise values
            image = cells.image(_first(values, IMAGE_COLUMNS), "image", spec.images)
            found = _first(values, ("text", "captions", "caption", "sentences"))
            texts = found if isinstance(found, list) else [found]
            captions = [cells.text(text, "caption").strip() for text in texts]
        except RowError as error:
            raise DataError(f"{file}, row {number}: {error}") from None
        if image is None or not captions:
            raise DataError(f"{file}, row {number}: a picture and its captions, got {values!r:.80}")
        yield image, captions


def _karpathy(path: Path, spec: TaskSpec) -> Iterator[Captioned]:
    """`{images: [{split, filepath?, filename, sentences: [{raw}]}]}`; the test split counts.

    Source: Karpathy and Fei-Fei 2015, the splits everyone uses for Flickr30k and COCO.
    """
    for record in _json(path, dict)["images"]:
        if record.get("split") == "test":
            parts = (spec.images, record.get("filepath") or "", record["filename"])
            captions = [sentence["raw"].strip() for sentence in record["sentences"]]
            yield "/".join(part for part in parts if part), captions


def _sharegpt4v(path: Path, spec: TaskSpec) -> Iterator[Captioned]:
    """`[{image, conversations: [{from, value}, {from, value}]}]`; the answer is the caption.

    Long captions, line breaks as spaces. Source: Zhang et al. 2024, Long-CLIP.
    """
    for record in _json(path, list):
        caption = record["conversations"][1]["value"].replace("\n", " ")
        below = f"{spec.images}/" if spec.images else ""
        yield f"{below}{record['image']}", [caption]


def _urban1k(path: Path, spec: TaskSpec) -> Iterator[Captioned]:
    """Folders `image/*.jpg` and `caption/*.txt`, of which the first line counts.

    Source: Zhang et al. 2024, Long-CLIP.
    """
    pictures = sorted(p for p in (path / "image").iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    for picture in pictures:
        caption = path / "caption" / f"{picture.stem}.txt"
        if not caption.is_file():
            raise DataError(f"{picture} has no caption file {caption}")
        place = caption.relative_to(spec.root).as_posix()
        lines = inside.read_text(spec.root, place, sidecars.MAX_CAPTION).splitlines() or [""]
        yield picture.relative_to(spec.root).as_posix(), [lines[0].strip()]


FORMS: dict[str, Callable[[Path, TaskSpec], Iterator[Captioned]]] = {
    "folder": _folder,
    "table": _table,
    "karpathy": _karpathy,
    "sharegpt4v": _sharegpt4v,
    "urban1k": _urban1k,
}


def _job(path: Path, spec: TaskSpec, reader: str) -> ResolvedSource:
    return ResolvedSource(
        source=DataSource(reader=reader, path=str(path), language=spec.language),
        root=spec.root,
        path=path,
        task=spec.benchmark,
        image_root=spec.images,
        instructions=Instructions({}),
    )


def _first(values: dict[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        if name in values:
            return values[name]
    raise RowError("missing column", f"one of {', '.join(names)}; columns: {', '.join(values)}")


def _json(path: Path, kind: type) -> Any:
    value = read_json(path, DataError, MAX_BYTES)
    if not isinstance(value, kind):
        raise DataError(f"{path} holds a {type(value).__name__}, expected a {kind.__name__}")
    return value
