"""What a reader is given (a source) and what it gives back (rows)."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from unime.core.config import Section
from unime.core.errors import DataError
from unime.data.items import Pair
from unime.data.readers.instructions import Instructions

Quoting = Literal["auto", "standard", "none"]


class DataSource(Section):
    """One input of `unime data`: which reader reads what, as which task."""

    reader: str
    """A name in `unime.data.readers.READERS`."""
    path: str
    """File or folder below the data root (or absolute), or `hub:OWNER/NAME`; `*` as in a shell
    makes one source of each match."""
    name: str | list[str] | None = None
    """The configuration (subset) of a Hub data set. A list, or `*` as in a shell, makes one source of
    each; `{name}` in task, image_root and archives stands for its name."""
    revision: str = "main"
    """Hub: a branch, a tag, or a commit of 40 digits, which stays what it is and needs no question."""
    archives: str | list[str] | dict[str, str] = Field(default_factory=dict)
    """Hub: archives of images (zip, tar) in the data set, named as in a shell. They are unpacked below the
    data root, where the source's image paths begin then (image_root is relative to it); in a folder
    there that the paths name, too: {archive: folder}."""
    split: str | None = None
    """The split, where the data has several; file names begin with it."""
    task: str = ""
    """The task's name; the file's or folder's name unless said otherwise."""
    meta_task: str = ""
    """classification, vqa, retrieval, grounding, or anything to group a report by."""
    in_batch: bool | None = None
    """Whether other queries' positives may serve as negatives (no: classification). Unless said
    here: as the instructions file says, else true."""
    query_instruction: str | None = None
    target_instruction: str | None = None
    """Instructions of this source. Where the text begins with one, it is taken off the text."""
    image_root: str = ""
    """Folder below the data root that image paths of this source are relative to; `{task}` in it
    stands for the task's name."""
    direction: Literal["i2t", "t2i"] = "i2t"
    """Folder reader: image to caption, or caption to image."""
    language: str | None = None
    """Folder reader: which caption to take where a row has them by language."""
    limit: int | None = Field(default=None, gt=0)
    """Read only the first rows."""
    encoding: str | None = None
    """Of text files; told by their bytes unless said here."""
    quoting: Quoting = "auto"
    """CSV and TSV: "standard" (a quoted cell may hold separators and line breaks), "none" (a line is a
    row, a quotation mark a character), or told by the file."""

    @model_validator(mode="after")
    def _only_of_the_hub(self) -> DataSource:
        if not self.path.startswith("hub:") and (self.archives or self.revision != "main"):
            raise ValueError(
                "archives and revision are of data sets of the Hub (path: hub:OWNER/NAME)"
            )
        folders = self.archives.values() if isinstance(self.archives, dict) else ()
        for folder in map(PurePosixPath, folders):
            if folder.is_absolute() or ".." in folder.parts:
                raise ValueError(f"archives: '{folder}' leads out of the folder of unpacked files")
        return self


class EmbeddedImage(str):
    """The location of an image whose bytes lie in a table or an archive; never a text."""

    __slots__ = ()


class ResolvedSource(NamedTuple):
    """A source made concrete: one existing path, one task."""

    source: DataSource
    root: Path
    """The data root."""
    path: Path
    task: str
    image_root: str
    instructions: Instructions


class TableOptions(NamedTuple):
    """How a file of rows is read."""

    root: Path
    """The data root; the locations of images in tables are relative to it."""
    encoding: str | None = None
    quoting: Quoting = "auto"
    """Both as in `DataSource`."""


class Record(NamedTuple):
    """One row as the file has it, before a reader makes pairs of it."""

    file: str
    number: int
    """From 0; in a file of lines, the line's number minus 1."""
    values: dict[str, Any] | RowError


class ReadRow(NamedTuple):
    """One row read: its pairs, or why it is rejected."""

    file: str
    number: int
    pairs: tuple[Pair, ...]
    error: RowError | None


class RowError(DataError):
    """One row cannot be used; the message is "KIND: DETAIL"."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
