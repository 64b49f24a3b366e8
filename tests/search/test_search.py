"""A searched folder: embedded once, kept up to date, resumable, answered on the command line and a page."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.export.test_export import exported
from tests.narrow import narrow
from unime.core.errors import DataError, ModelError
from unime.data.tables import read_table
from unime.models.embedder import Embedder
from unime.search import index_files as store
from unime.search.index import open_search, passages, picture_of, scan
from unime.search.results_page import show
from unime.search.server import SearchServer

COLOURS = ("red", "green", "blue", "yellow", "white", "black")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("qwen2_vl", tmp_path_factory.mktemp("model"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, colour in enumerate(COLOURS):
        size = (40 + number, 30)
        Image.new("RGB", size, colour).save(
            folder / ("more" if number % 2 else "") / f"{colour}.png"
        )
    (folder / "recipe.txt").write_text("Bread.\n\nFlour, water, salt.")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / ".hidden.png").write_bytes(b"left alone")
    return folder


def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count what is embedded from now on."""
    counts: list[int] = []
    encode = Embedder.encode

    def counting(self, encodes, *args, **kwargs):
        counts.append(len(encodes))
        return encode(self, encodes, *args, **kwargs)

    monkeypatch.setattr(Embedder, "encode", counting)
    return counts


def test_files_whose_names_are_not_utf8_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "a.txt").write_text("a note")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("another")
    with caplog.at_level("INFO", "unime"):
        assert set(scan(tmp_path, tmp_path / ".index")) == {"a.txt"}
    assert "1 files are left out: their names are not UTF-8" in caplog.text


def test_a_picture_finds_itself_and_is_embedded_once(
    photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    counts = encoded(monkeypatch)
    found = open_search(photos, model=model)
    assert sum(counts) == len(COLOURS) + 1
    assert {e.path for e in found.snapshot.entries} == {
        "red.png", "more/green.png", "blue.png", "more/yellow.png", "white.png", "more/black.png", "recipe.txt"
    }  # fmt: skip
    # As a document a picture is nearest to itself; as a query, whatever a random model thinks.
    row = next(i for i, e in enumerate(found.snapshot.entries) if e.path == "blue.png")
    assert np.argmax(found.snapshot.vectors @ found.snapshot.vectors[row]) == row
    hits = found.find("", photos / "blue.png", top=3)
    assert len(hits) == 3
    assert [h.similarity for h in hits] == sorted((h.similarity for h in hits), reverse=True)
    counts.clear()
    again = open_search(photos)  # the index knows its model
    assert counts == []
    np.testing.assert_array_equal(again.snapshot.vectors, found.snapshot.vectors)
    assert {h.path for h in again.find("anything", top=99)} == {
        e.path for e in again.snapshot.entries
    }


def test_an_index_with_narrow_strings_is_kept_and_becomes_large(
    photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    found = open_search(photos, model=model)
    index = photos / ".unime-search/index.parquet"
    narrow(index)
    counts = encoded(monkeypatch)
    again = open_search(photos)
    assert counts == []
    assert [e[:4] for e in again.snapshot.entries] == [e[:4] for e in found.snapshot.entries]
    np.testing.assert_array_equal(again.snapshot.vectors, found.snapshot.vectors)
    (photos / "recipe.txt").unlink()
    assert again.update() and counts == []
    assert read_table(index).schema.equals(store.SCHEMA)


def test_new_changed_and_deleted_files_are_noticed(
    photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    found = open_search(photos, model=model)
    counts = encoded(monkeypatch)
    assert not found.update()
    (photos / "red.png").unlink()
    Image.new("RGB", (33, 33), "orange").save(photos / "blue.png")
    Image.new("RGB", (33, 34), "pink").save(photos / "pink.png")
    # Before the update: what changed under the index is left out rather than shown wrongly.
    assert not {"red.png", "blue.png"} & {h.path for h in found.find("x", top=99)}
    counts.clear()
    assert found.update()
    assert sum(counts) == 2
    paths = {h.path for h in found.find("x", top=99)}
    assert {"pink.png", "blue.png"} <= paths and "red.png" not in paths
    # A broken file is read again when it was mended, not before.
    Image.new("RGB", (20, 20), "cyan").save(photos / "broken.jpg")
    assert found.update()
    assert "broken.jpg" in {h.path for h in found.find("x", top=99)}


def test_another_model_makes_another_index(photos: Path, model: Path, tmp_path: Path):
    open_search(photos, model=model)
    other = exported("qwen3_vl", tmp_path / "other")
    found = open_search(photos, model=other)
    assert found.snapshot.vectors.shape == (len(COLOURS) + 1, found.embedder.dim)
    assert not (photos / ".unime-search/parts").exists()


def test_a_killed_update_is_carried_on(photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
    code = (
        "import os, sys, signal; from pathlib import Path\n"
        "from unime.core import files; from unime.search import index, open_search\n"
        "index.BLOCK = 3\n"
        "done = []\n"
        "def kill(moment):\n"
        "    if moment.startswith('after 0'):\n"
        "        done.append(moment)\n"
        "    if len(done) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.on_commit = kill\n"
        "open_search(Path(sys.argv[1]), model=Path(sys.argv[2]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(photos), str(model)], cwd=ROOT, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list((photos / ".unime-search/parts").glob("*.parquet"))) == 2
    counts = encoded(monkeypatch)
    found = open_search(photos, model=model)
    assert sum(counts) <= len(COLOURS) + 1 - 5  # six rows of eight files were safe, one a reject
    assert len(found.snapshot.entries) == len(COLOURS) + 1
    assert not (photos / ".unime-search/parts").exists()


def test_texts_are_cut_into_passages(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo\n\n" + "x" * 1700)
    assert [len(text) for text in passages(path)] == [8, 800, 800, 100]
    assert passages(path)[0] == "one\n\ntwo"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a text"):
        passages(path)


def test_what_leads_out_hangs_or_is_refused_by_the_model_is_listed(
    photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    (photos.parent / "secret.txt").write_text("the secret of another folder")
    (photos / "notes.txt").symlink_to(photos.parent / "secret.txt")
    (photos / "away.png").symlink_to("/etc/passwd")
    os.mkfifo(photos / "pipe.txt")
    os.mkfifo(photos / "pipe.png")
    Image.new("RGB", (900, 3)).save(photos / "wide.png")
    said: list[str] = []
    monkeypatch.setattr("unime.search.index.log", said.append)
    found = open_search(photos, model=model)
    odd = {"notes.txt", "away.png", "pipe.txt", "pipe.png", "wide.png"}
    assert not odd & {e.path for e in found.snapshot.entries}
    assert len(found.snapshot.entries) == len(COLOURS) + 1
    assert "secret" not in str(found.find("the secret", top=99))
    assert any("6 files in all cannot be read" in line for line in said)
    problems = [e.problem for e in store.load(found.place)["wide.png"]]
    assert problems == [
        "refused by the model: 'wide.png' has 900 x 3 pixels: absolute aspect ratio must be smaller "
        "than 200, got 300.0"
    ]
    # Not even when it takes the place of a file that was read.
    (photos / "recipe.txt").unlink()
    (photos / "recipe.txt").symlink_to(photos.parent / "secret.txt")
    with pytest.raises(DataError, match="outside the data root"):
        found.read("recipe.txt")
    assert found.read("red.png") == (photos / "red.png").read_bytes()


def test_an_upload_has_its_own_cap():
    buffer = io.BytesIO()
    Image.new("L", (300, 200), 7).save(buffer, "PNG")
    assert picture_of(buffer.getvalue()).getpixel((0, 0)) == (7, 7, 7)
    with pytest.raises(DataError, match=r"image too large: 'the picture' has 300 x 200 pixels"):
        picture_of(buffer.getvalue(), 59_999)


def test_the_index_itself_and_hidden_files_are_not_searched(photos: Path):
    place = photos / "index"
    place.mkdir()
    (place / "thumb.png").write_bytes(b"x")
    assert len(scan(photos, place)) == len(COLOURS) + 2


def test_the_command_prints_results_and_a_page(photos: Path, model: Path):
    found = open_search(photos, model=model)
    lines: list[str] = []
    show(found, "a <red> picture & more", None, 5, None, lines.append)
    assert len(lines) == 6
    page = (photos / ".unime-search/results.html").read_text()
    assert page.count("data:image/jpeg;base64,") + page.count('class="passage"') == 5
    assert "a &lt;red&gt; picture &amp; more" in page
    assert "http" not in page.replace("data:image", "").replace("file:", "")


def test_a_search_imports_no_sentence_transformers(photos: Path, model: Path):
    """That alone takes longer than all the rest from a cold shell."""
    program = (
        "import sys; from pathlib import Path; from unime.search import open_search; "
        f"assert open_search(Path({str(photos)!r}), model=Path({str(model)!r})).find('red'); "
        "assert 'sentence_transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.fixture
def server(photos: Path, model: Path) -> Iterator[SearchServer]:
    found = SearchServer(open_search(photos, model=model), 0, 10)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def get(server: SearchServer, path: str, **options) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}{path}", **options)
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def test_the_page_answers_and_gives_away_nothing_else(server: SearchServer, photos: Path):
    hits = json.loads(get(server, "/api?q=red"))
    assert len(hits) == len(COLOURS) + 1
    page = get(server, "/?q=red").decode()
    assert "/thumbnail/more/green.png" in page and 'value="red"' in page
    assert get(server, "/thumbnail/more/green.png")[:2] == b"\xff\xd8"
    assert get(server, "/file/red.png") == (photos / "red.png").read_bytes()
    posted = get(server, "/picture", data=(photos / "red.png").read_bytes(), method="POST").decode()
    assert posted.count('class="hit"') == len(COLOURS) + 1
    for path in (
        "/file/../../etc/passwd",
        "/file/%2e%2e/x",
        "/file/broken.jpg",
        "/file//etc/passwd",
    ):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(server, path)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get(server, "/api?q=red", headers={"Host": "evil.example:80"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        get(server, "/picture", data=b"no picture", method="POST")


def test_the_server_notices_a_new_file(server: SearchServer, photos: Path, monkeypatch):
    Image.new("RGB", (50, 50), "pink").save(photos / "pink.png")
    server.found.update()  # what its watcher does every few seconds
    assert "pink.png" in {hit["path"] for hit in json.loads(get(server, "/api?q=x"))}


def test_mistakes_are_one_sentence(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no model to search with: give --model FOLDER"):
        open_search(tmp_path / "empty")
    with pytest.raises(DataError, match="holds nothing to search"):
        open_search(tmp_path / "empty", model=model)
    with pytest.raises(DataError, match="is no folder"):
        open_search(tmp_path / "nowhere", model=model)
