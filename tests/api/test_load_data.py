"""`load_data`: folders, files, rows in memory; killed, repeated, and given what is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import unime
from tests.api.given import COLOURS, captioned, pairs, picture
from tests.conftest import ROOT
from unime.core import files
from unime.core.errors import DataError, OutputError, RecipeError, UnimeError
from unime.data.data_folder import DataFolder
from unime.data.images import load_file
from unime.data.own_data.recipe import _DATA


def test_rows_in_memory_become_tables_and_images_of_their_own(run: Path):
    data = DataFolder.open(run / "data")
    rows = list(data.rows())
    assert [row["query"] for row in rows] == [
        {"text": f"a {c} picture", "image": None} for c in COLOURS
    ]
    assert sum(row["split"] == "dev" for row in rows) == 2
    for number, row in enumerate(rows):
        (positive,) = row["positives"]
        shown = load_file(Path(str(positive["image"])))
        assert np.array_equal(np.asarray(shown), np.asarray(picture(COLOURS[number])))
    assert data.to_arrow()["scores"][0].as_py()[:2] == pytest.approx([0.9, 0.1])
    # Content-addressed: eight images, each shown up to three times, and one file of rows.
    written = [p.relative_to(run / "data") for p in (run / "data/.rows").rglob("*") if p.is_file()]
    assert sorted(p.suffix for p in written) == [".jsonl", *[".png"] * 8]
    listed = files.read_json(run / "data/manifest.json")["files"]
    assert {p.as_posix() for p in written} <= listed.keys()
    assert str(data).startswith(f"DataFolder('{data.path}': 8 pairs")


def test_the_same_call_is_up_to_date_and_another_is_refused(
    run: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("unime.data.stage.run", lambda *_: pytest.fail("it ran again"))
    again = unime.load_data(iter(pairs()), run / "data", dev_count=2)
    assert again == DataFolder(run / "data")
    before = {p: p.stat().st_mtime_ns for p in (run / "data").rglob("*")}
    with pytest.raises(OutputError, match=r"(?s)finished output of another recipe.*restart=True"):
        unime.load_data(pairs()[:-1], run / "data", dev_count=2)
    after = {p: p.stat().st_mtime_ns for p in (run / "data").rglob("*") if p.name != ".rows"}
    assert after == {p: t for p, t in before.items() if p.name != ".rows"}


def test_restart_moves_an_output_aside():
    unime.load_data(pairs(), "data")
    whole = list(DataFolder(Path("data")).rows())
    assert all([n["text"] for n in row["negatives"]] == ["", "none"] for row in whole)
    assert [bool(np.isnan(score)) for score in whole[0]["scores"]] == [False, False, True]
    moved = unime.load_data(pairs()[:4], "data", restart=True)
    assert len(list(moved.rows())) == 4
    assert len(list(DataFolder(Path("data.old1")).rows())) == 8


def test_an_empty_cell_of_a_data_frame_is_a_pair_without_a_score():
    rows = [
        {"query": "a", "positive": "b", "score": 0.5},
        {"query": "c", "positive": "d", "score": float("nan")},
    ]
    scores = [list(row["scores"]) for row in unime.load_data(rows, "data").rows()]
    assert scores == [[0.5], []]


KILLED = """
import os, sys
from unime import load_data
from unime.core import files
from tests.api.given import pairs
count = 0
def stop(moment):
    global count
    count += 1
    if count == int(sys.argv[1]):
        os._exit(137)
files.on_commit = stop
load_data(pairs(), "data", dev_count=2)
"""


@pytest.mark.parametrize("number", [1, 4, 18, 20, 23])
def test_a_killed_call_is_carried_on_by_the_same_call(number: int):
    """Before any image, between images, in the rows, and with the output opened."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(number)], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 137, done.stderr
    assert not Path("data/manifest.json").exists()
    unime.load_data(pairs(), "data", dev_count=2)
    unime.load_data(pairs(), "other/data", dev_count=2)
    for name in ("items.parquet", "tasks.json"):
        whole = Path("data", name).read_bytes()
        assert name == "items.parquet" or whole == Path("other/data", name).read_bytes()
    assert not list(Path("data").rglob(".*partial*"))
    one, other = ([r["query"] for r in DataFolder.open(p).rows()] for p in ("data", "other/data"))
    assert one == other


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ([], DataError, "not one row"),
        ([1], DataError, "row 0: expected a dict"),
        ({"query": "x"}, DataError, "expected a path or rows"),
        ("nowhere", DataError, "nowhere is neither a folder nor a file"),
        ([{"query": "x", "positive": 3}], DataError, "row 0, 'positive': expected a text.*got int"),
        ([{"query": "x", "positive": {"img": "a"}}], DataError, "expected the keys 'text'"),
        ([{"query": "x", "positive": "y", "score": "high"}], DataError, "'score': expected a num"),
        ([{"query": "x", "positive": Path("gone.png")}], DataError, "missing image"),
        ([{"query": "x", "positive": Path("torn.png")}], DataError, "not an image"),
        ([{"query": "x"}], DataError, "missing column"),
        ([{"image": Path("whole.png"), "caption": object()}], DataError, "expected captions"),
    ],
)
def test_bad_input_is_one_clear_error(source: Any, error: type[UnimeError], said: str):
    picture("red").save("whole.png")
    Path("torn.png").write_bytes(Path("whole.png").read_bytes()[:40])
    with pytest.raises(error, match=said):
        unime.load_data(source, "data")
    assert not Path("data/manifest.json").exists()


def test_an_unreadable_image_in_memory_names_its_row():
    picture("red", 64).save("a.png")
    Path("b.png").write_bytes(Path("a.png").read_bytes()[:60])
    with Image.open("b.png") as torn, pytest.raises(DataError, match="row 1, 'positive'"):
        unime.load_data([{"query": "a", "positive": "b"}, {"query": "x", "positive": torn}], "data")


def test_a_folder_of_others_is_left_alone():
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not written by unime"):
        unime.load_data(pairs(), "mine")
    assert [p.name for p in Path("mine").iterdir()] == ["notes.txt"]
    with pytest.raises(OutputError, match="is a file"):
        unime.load_data(pairs(), "mine/notes.txt")


def test_image_files_are_linked_and_never_touched(tmp_path: Path):
    photos = tmp_path / "photos"
    photos.mkdir()
    picture("red").save(photos / "a.png")
    (photos / "link.png").symlink_to("a.png")
    before = (photos / "a.png").stat()
    rows = [
        {"query": "a", "positive": Path("a.png")},
        {"query": "b", "positive": "link.png"},
        {"query": "c", "positive": {"text": "with a text", "image": photos / "a.png"}},
        {"query": "d", "positive": picture("blue")},
    ]
    data = unime.load_data(rows, "data", root=photos)
    paths = [Path(str(row["positives"][0]["image"])) for row in data.rows()]
    assert len(set(paths)) == 2
    assert all(path.is_relative_to("data") for path in paths)
    assert paths[0].read_bytes() == (photos / "a.png").read_bytes()
    assert (before.st_mtime_ns, before.st_size) == (paths[0].stat().st_mtime_ns, before.st_size)
    assert sorted(p.name for p in photos.iterdir()) == ["a.png", "link.png"]


class Frame:
    """What load_data knows of a DataFrame."""

    iloc = None

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows[0])  # as pandas does: the columns

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return self.rows


def test_every_form_of_captioned_images_makes_the_same_pairs():
    folder = captioned(Path("photos"))
    rows = [{"image": picture(c), "caption": f"a {c} picture"} for c in COLOURS]
    named = [{"image": f"photos/{c}.png", "caption": f"a {c} picture"} for c in COLOURS]
    encoded = [
        {**row, "image": {"bytes": Path(row["image"]).read_bytes(), "path": None}} for row in named
    ]
    found = {
        "folder": folder, "file": str(folder / "captions.jsonl"), "rows": rows, "frame": Frame(rows),
        "generator": iter(rows), "paths": named, "encoded": encoded,
    }  # fmt: skip
    for form, source in found.items():
        data = unime.load_data(source, f"out/{form}")
        assert list(data.tasks) == ["image_to_text", "text_to_image"], form
        texts = [row["query"]["text"] or row["positives"][0]["text"] for row in data.rows()]
        assert sorted(texts) == sorted(2 * [f"a {c} picture" for c in COLOURS]), form
    one = unime.load_data(folder, "out/one", direction="t2i", query_instruction="Find it")
    assert {row["query_instruction"] for row in one.rows()} == {"Find it"}
    with pytest.raises(RecipeError, match="belongs to one direction"):
        unime.load_data(folder, "out/two", query_instruction="Find it")


def test_captioned_images_are_read_as_unime_data_reads_them():
    sources = yaml.safe_load(_DATA.format(place="x", train=1, test=1))["sources"]
    data = unime.load_data(captioned(Path("photos")), "data")
    recipe = files.read_json(data.path / "manifest.json")["recipe"]
    for given, written in zip(recipe["sources"], sources, strict=True):
        assert given.items() >= {k: v for k, v in written.items() if k != "path"}.items()
