"""Text files of a data folder: nothing outside is read, nothing waits, whatever lies in the folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.readers.sources import picture
from unime.core.errors import DataError
from unime.core.inside import FileError, read_text
from unime.data.own_data.scan import scan_folder
from unime.data.readers import DataSource
from unime.data.readers.formats import data_files
from unime.data.readers.instructions import known_tasks
from unime.data.video import hash_video
from unime.eval.benchmark import TaskSpec
from unime.eval.runners.caption_forms import FORMS
from unime.search.index import passages, scan

SECRET = "the secret of another folder"
Odd = Callable[[Path], None]


def link_out(place: Path) -> None:
    place.symlink_to(place.parent.resolve().parent / "secret.txt")


def link_to_a_device(place: Path) -> None:
    place.symlink_to("/dev/zero")


def socket_file(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place))


def huge(place: Path) -> None:
    with place.open("wb") as file:
        file.truncate(3_000_000_000)


def no_text(place: Path) -> None:
    place.write_bytes(b"\xff\xfe\0")


ODD: dict[str, tuple[Odd, str]] = {
    "a link out": (link_out, "outside the data root: "),
    "a link to a device": (link_to_a_device, "outside the data root: "),
    "a link to nothing": (lambda place: place.symlink_to("nowhere"), "missing file: "),
    "a pipe": (os.mkfifo, "not a file: "),
    "a socket": (socket_file, "not a file: "),
    "a folder": (Path.mkdir, "not a file: "),
    "far too large": (huge, "too large: "),
    "no text": (no_text, "not a text: "),
}


@pytest.fixture(params=ODD)
def odd(request: pytest.FixtureRequest) -> tuple[Odd, str]:
    return ODD[request.param]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short path, for sockets have names of 100 bytes at most."""
    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "p").mkdir()
    monkeypatch.chdir(tmp_path)
    return Path("p")


def test_a_sidecar_that_is_no_text_of_the_folder_rejects_its_row(
    folder: Path, odd: tuple[Odd, str]
):
    make, reason = odd
    for name in "ab":
        picture(folder / f"{name}.png", "red" if name == "a" else "blue")
    (folder / "a.txt").write_text("a caption\r\nof two lines")
    make(folder / "b.txt")
    look = scan_folder("p", Path("runs/raw"), None)
    assert [p.captions for p in look.pictures] == [("a caption\nof two lines",)]
    (rejected,) = look.rejected
    assert rejected["file"] == "b.png"
    assert str(rejected["reason"]).startswith(f"{reason}caption file 'b.txt'")


def test_search_lists_it_and_goes_on(folder: Path, odd: tuple[Odd, str]):
    make, reason = odd
    make(folder / "b.txt")
    assert set(scan(folder, folder / ".index")) <= {"b.txt"}
    with pytest.raises(DataError, match=f"^{reason}"):
        passages(folder / "b.txt", folder)


@pytest.mark.parametrize("name", ["a link out", "a link to a device", "a pipe", "a socket"])
def test_a_file_of_rows_is_not_read_from_elsewhere(folder: Path, name: str):
    make, reason = ODD[name]
    make(folder / "rows.jsonl")
    from unime.data.stage import DataRecipe, open_sources

    source = DataSource(reader="folder", path="rows.jsonl")
    (job,) = open_sources(DataRecipe(root="p", sources=[source], output="unused"))
    with pytest.raises(FileError, match=f"^{reason}"):
        data_files(job)


def test_a_file_that_the_user_names_by_its_own_path_may_be_anywhere(folder: Path, tmp_path: Path):
    from unime.data.stage import DataRecipe, open_sources

    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "elsewhere.jsonl").symlink_to(tmp_path / "rows.jsonl")
    source = DataSource(reader="folder", path=str(tmp_path / "elsewhere.jsonl"))
    (job,) = open_sources(DataRecipe(root="p", sources=[source], output="unused"))
    assert data_files(job) == [tmp_path / "elsewhere.jsonl"]


def test_instructions_are_not_read_from_elsewhere(folder: Path, tmp_path: Path):
    (tmp_path / "secret.txt").write_text('{"task": {"query_instruction": "the secret"}}')
    (folder / "instructions.json").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(FileError, match=r"outside the data root: .*name the file itself"):
        known_tasks([folder])


def test_an_unreadable_file_is_a_reason(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "a.txt").write_text("x")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # whoever runs the tests may read everything
    with pytest.raises(FileError, match=r"^unreadable file: 'a\.txt': Permission denied$"):
        read_text(folder, "a.txt")


@pytest.mark.parametrize("form", ["urban1k", "karpathy"])
def test_benchmarks_hold_to_their_root(folder: Path, form: str):
    picture(folder / "image/1.jpg")
    (folder / "caption").mkdir()
    name = "." if form == "urban1k" else "list.json"
    link_to = folder / ("caption/1.txt" if form == "urban1k" else name)
    link_to.symlink_to(Path("secret.txt").resolve())
    empty: Any = dict.fromkeys(TaskSpec._fields)
    spec = TaskSpec._make(
        {**empty, "benchmark": "x", "root": folder, "files": name, "images": ""}.values()
    )
    with pytest.raises(FileError, match="outside the data root"):
        [list(FORMS[form](path, spec)) for path in spec.paths()]


def test_frames_of_a_video_hold_to_their_root(folder: Path):
    (folder / "clip").mkdir()
    (folder / "clip/0.png").symlink_to(Path("secret.txt").resolve())
    with pytest.raises(FileError, match="outside the data root"):
        hash_video(folder, "clip")
