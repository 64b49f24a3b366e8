"""A folder that can be searched: its files embedded once, and kept up to date."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from unime.core import files, inside, locks
from unime.core.console import log, printable, progress
from unime.core.errors import DataError, ModelError
from unime.data.images import IMAGE_SUFFIXES
from unime.search import index_files
from unime.search.index_files import Entry, FileState

if TYPE_CHECKING:
    from PIL.Image import Image

    from unime.models.embedder import Embedder

IMAGES = tuple(sorted(IMAGE_SUFFIXES))
TEXTS = (".txt", ".md", ".rst")
FOR_TEXT = "Find me an everyday image that matches the given caption"
FOR_IMAGE = "Find an image that shows the same as the given image"
OF_IMAGE = "Represent the given image"
PASSAGE = 800
"""Characters of a text that are embedded together, at most."""
BLOCK = 128
"""Files that are written together; a killed update loses at most so many."""
PIXELS = 40_000_000
"""Pictures that are decoded at the same time have at most about so many pixels."""
MAX_FILE = 1_000_000_000
"""Bytes of a file that the page gives out."""


class Hit(NamedTuple):
    """One result."""

    path: str
    similarity: float
    text: str


class Snapshot(NamedTuple):
    """The searchable rows at one time; replaced as a whole."""

    entries: list[Entry]
    vectors: Float[np.ndarray, "rows dim"]


@dataclass
class SearchFolder:
    """A folder, its index and the model; `open` makes all three fit."""

    folder: Path
    place: Path
    embedder: Embedder
    snapshot: Snapshot
    _known: dict[str, list[Entry]] | None = None
    """The whole index by file, once it was read."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, folder: Path, place: Path, model: Path) -> SearchFolder:
        """Load the model and bring the index up to date.

        Args:
            folder: what is searched.
            place: where the index lies.
            model: an export's folder.

        Raises:
            DataError: when the folder holds nothing to search.
        """
        from unime.models.exported import exported_folder, load_exported

        model = exported_folder(model)
        embedder = load_exported(model, plain=True)
        place.mkdir(parents=True, exist_ok=True)
        with locks.only_writer(place):
            index_files.begin(place, model, _fingerprint(model))
        found = cls(folder, place, embedder, Snapshot([], np.empty((0, embedder.dim), np.float32)))
        found.update()
        if not found.snapshot.entries:
            raise DataError(
                f"{folder} holds nothing to search; expected images ({', '.join(IMAGES)}) or texts "
                f"({', '.join(TEXTS)})"
            )
        return found

    def update(self) -> bool:
        """Embed what is new or changed, forget what is gone; tell whether there was anything."""
        with self._lock:
            known = self._known
            if known is None:
                known = index_files.load(self.place)
            there = scan(self.folder, self.place)
            fresh = {p: e for p, e in known.items() if p in there and e[0].state == there[p]}
            todo = {path: state for path, state in there.items() if path not in fresh}
            changed = bool(todo) or len(fresh) < len(known) or (self.place / "parts").exists()
            if changed:
                log(
                    f"search: {len(there)} files, {len(fresh)} in the index, {len(todo)} new or "
                    f"changed, {len(known.keys() - there.keys())} gone"
                )
                with locks.only_writer(self.place):
                    fresh |= self._embed(todo)
                    index_files.finish(
                        self.place, (e for path in sorted(fresh) for e in fresh[path])
                    )
            if changed or not self.snapshot.entries:
                self.snapshot = _snapshot(fresh, self.embedder.dim)
                _report_problems(fresh)
            self._known = fresh
            return changed

    def find(
        self,
        text: str = "",
        image: Path | Image | None = None,
        top: int = 10,
        instruction: str | None = None,
    ) -> list[Hit]:
        """Return the nearest pictures and passages, one a file, best first.

        A file that was deleted or changed since it was embedded is left out.

        Raises:
            DataError: when nothing is asked for, or no result.
        """
        if top < 1 or (not text.strip() and image is None):
            raise DataError(
                f"expected a text or an image, and a number of results from 1 on; got {text!r}, "
                f"{'no image' if image is None else 'an image'}, {top}"
            )
        from unime.data.images import load_file
        from unime.models.inputs import ModelInput

        picture = load_file(image) if isinstance(image, Path) else image
        if instruction is None:
            instruction = FOR_TEXT if picture is None else FOR_IMAGE
        (vector,) = self.embedder.encode([ModelInput(text, picture, "query", instruction)])
        entries, vectors = self.snapshot
        similarities = vectors @ vector
        hits: dict[str, Hit] = {}
        for row in np.argsort(-similarities, kind="stable"):
            entry = entries[row]
            if entry.path not in hits and _state(self.folder / entry.path) == entry.state:
                hits[entry.path] = Hit(entry.path, float(similarities[row]), entry.text)
            if len(hits) == top:
                break
        return list(hits.values())

    def _embed(self, todo: dict[str, FileState]) -> dict[str, list[Entry]]:
        """Embed files block by block; each block is on disk before the next one begins."""
        from unime.models.inputs import ModelInput

        done: dict[str, list[Entry]] = {}
        paths = sorted(todo)
        blocks = [paths[start : start + BLOCK] for start in range(0, len(paths), BLOCK)]
        for block in progress(blocks, label="search: embedding", unit="blocks"):
            found: dict[str, list[Entry]] = {}
            for batch in self._read(block, todo, found):
                inputs = [
                    ModelInput(text, image, "target", "" if image is None else OF_IMAGE)
                    for _, text, image in batch
                ]
                vectors = self.embedder.encode(inputs, batch_size=32)
                for (path, text, _), vector in zip(batch, vectors, strict=True):
                    entry = Entry(path, todo[path], text, "", vector)
                    found.setdefault(path, []).append(entry)
            index_files.write_part(self.place, [e for path in block for e in found[path]])
            done |= found
        return done

    def _read(
        self, block: Sequence[str], states: dict[str, FileState], found: dict[str, list[Entry]]
    ) -> Iterator[list[tuple[str, str, Image | None]]]:
        """Yield (path, passage, picture) in batches of bounded pixels; note what is unreadable."""
        from unime.data.images import load_rgb

        batch: list[tuple[str, str, Image | None]] = []
        pixels = 0
        for path in block:
            try:
                if path.lower().endswith(TEXTS):
                    batch += [
                        (path, text, None) for text in passages(self.folder / path, self.folder)
                    ]
                else:
                    image = load_rgb(self.folder, path)
                    self._check_size(image, path)
                    pixels += image.width * image.height
                    batch.append((path, "", image))
            except DataError as error:
                found[path] = [Entry(path, states[path], "", str(error), ())]
            if pixels > PIXELS:
                yield batch
                batch, pixels = [], 0
        if batch:
            yield batch

    def _check_size(self, image: Image, path: str) -> None:
        from unime.data.image_processor import refusal

        reason = refusal(self.embedder.processor.image_processor, image.size)
        if reason is not None:
            what = f"{path!r} has {image.width} x {image.height} pixels"
            raise DataError(f"refused by the model: {what}: {reason}")

    def read(self, path: str) -> bytes:
        """Return the bytes of one of the folder's files, as the page gives it out.

        Raises:
            DataError: when it is gone, unreadable, or leads out of the folder by now.
        """
        return inside.read(self.folder, path, MAX_FILE)


def picture_of(data: bytes, max_pixels: int = PIXELS) -> Image:
    """Return an uploaded picture as upright RGB; larger ones are refused before they are unpacked.

    Raises:
        ImageError: when it is no picture, damaged, or has more than `max_pixels`.
    """
    from unime.data.images import decode

    return decode(data, "the picture", max_pixels)


def scan(folder: Path, place: Path) -> dict[str, FileState]:
    """Return every searchable file below a folder; hidden ones and the index are left out.

    What is no regular file, or leads out of the folder, is found too: reading it says why not.
    """
    found: dict[str, FileState] = {}
    odd = 0
    ignored = place.resolve()
    for parent, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and Path(parent, f) != ignored]
        for name in names:
            if name.startswith(".") or not name.lower().endswith((*IMAGES, *TEXTS)):
                continue
            path = Path(parent, name)
            state = _state(path)
            if state is not None and path.parent.resolve() != ignored:
                below = path.relative_to(folder).as_posix()
                if printable(below) == below:
                    found[below] = state
                else:
                    odd += 1
    if odd:
        log(f"search: {odd} files are left out: their names are not UTF-8")
    return found


def passages(path: Path, folder: Path | None = None) -> list[str]:
    """Return a text file's passages: whole paragraphs, cut where they are too long.

    Args:
        path: of the file.
        folder: what it must not lead out of; its own by default.

    Raises:
        DataError: when it is no UTF-8 text, empty, too large, or leads out of the folder.
    """
    folder = path.parent if folder is None else folder
    paragraphs = inside.read_text(folder, path.relative_to(folder).as_posix()).split("\n\n")
    found: list[str] = []
    for paragraph in (text for p in paragraphs if (text := p.strip())):
        for start in range(0, len(paragraph), PASSAGE):
            piece = paragraph[start : start + PASSAGE]
            if found and len(found[-1]) + len(piece) + 2 <= PASSAGE:
                found[-1] += "\n\n" + piece
            else:
                found.append(piece)
    if not found:
        raise DataError(f"not a text: {path.name!r} is empty")
    return found


def _state(path: Path) -> FileState | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return FileState(status.st_size, status.st_mtime_ns)


def _fingerprint(model: Path) -> str:
    """Return what an index hangs on: preprocessing, and the weights by their sizes and times."""
    states = [_state(path) for path in sorted(model.glob("*.safetensors"))]
    return f"{files.read_json(model / 'unime.json')['fingerprint']} {states}"


def _snapshot(by_file: dict[str, list[Entry]], dim: int) -> Snapshot:
    entries = [e for path in sorted(by_file) for e in by_file[path] if not e.problem]
    vectors = np.array([e.vector for e in entries], dtype=np.float32).reshape(-1, dim)
    return Snapshot(entries, vectors)


def _report_problems(by_file: dict[str, list[Entry]]) -> None:
    problems = [e for entries in by_file.values() for e in entries if e.problem]
    for entry in problems[:5]:
        log(f"search: left out {entry.problem}")
    if len(problems) > 5:
        log(f"search: ... {len(problems)} files in all cannot be read")


def open_search(folder: Path, index: Path | None = None, model: Path | None = None) -> SearchFolder:
    """Load the model and bring the folder's index up to date.

    Args:
        folder: with images and text files, at any depth.
        index: where the index lies; `.unime-search` in the folder by default.
        model: an exported model; by default the one the index was made with, else the newest of
            `runs/*/8_export/embedder`.

    Raises:
        DataError: when the folder cannot be searched.
        ModelError: when there is no model.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with images or text files")
    place = index or folder / ".unime-search"
    return SearchFolder.open(folder, place, model or _default_model(place))


def _default_model(place: Path) -> Path:
    from unime.search.index_files import model_of

    known = model_of(place)
    if known is not None and (known / "unime.json").is_file():
        return known
    exports = Path("runs").glob("*/8_export/embedder/unime.json")
    newest = max(exports, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise ModelError(
            "no model to search with: give --model FOLDER, written by `unime export` "
            "(there is no runs/*/8_export/embedder here)"
        )
    return newest.parent
