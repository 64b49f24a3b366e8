"""`unime eval fetch`: from a server or the Hub to a folder that passes the check, resumable."""

from __future__ import annotations

import io
import json
import re
import threading
import zipfile
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.conftest import ROOT
from unime.core.errors import DataError, OutputError, RecipeError
from unime.eval.benchmark import known_benchmarks, load_benchmark
from unime.eval.fetch import MARK, choice_of, fetch, steps_of, unpack
from unime.eval.published import published, published_text

COLOURS = ("red", "green", "blue")


class Server:
    """A folder of files at an address, which counts what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        outer = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                super().do_GET()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server(tmp_path: Path):
    """Two categories of SugarCrepe's form and an archive of pictures."""
    folder = tmp_path / "served"
    folder.mkdir()
    for category in ("add_att", "swap_att"):
        records = {
            str(n): {"filename": f"{c}.png", "caption": f"a {c} thing", "negative_caption": "none"}
            for n, c in enumerate(COLOURS)
        }
        (folder / f"{category}.json").write_text(json.dumps(records))
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for colour in COLOURS:
            archive.writestr(f"pictures/{colour}.png", picture(colour))
        archive.writestr("__MACOSX/._red.png", b"nothing")
    found = Server(folder)
    yield found
    found.server.shutdown()


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(buffer, "PNG")
    return buffer.getvalue()


def benchmark_file(folder: Path, steps: list[dict[str, Any]], **values: Any) -> str:
    found = {
        "name": "small", "version": "1", "layout": "comparisons", "form": "sugarcrepe",
        "role": "compositional", "metric": "pairwise", "files": "{task}.json", "images": "pictures",
        "licence": "MIT", "citation": "", "fetch": steps,
        "tasks": {name: {"meta_task": name[:3], "queries": 3} for name in ("add_att", "swap_att")},
        **values,
    }  # fmt: skip
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(found))
    return str(path)


def steps(server: Server) -> list[dict[str, Any]]:
    return [
        {"url": f"{server.url}/{{name}}.json", "names": ["add_att", "swap_att"]},
        {"url": f"{server.url}/pictures.zip", "unpack": "*.zip"},
    ]


def test_what_is_fetched_passes_the_check_and_is_fetched_once(server: Server, tmp_path: Path):
    name, to = benchmark_file(tmp_path, steps(server)), tmp_path / "data"
    said: list[str] = []
    text = fetch(name, to, said.append)
    assert "2 tasks, 6 queries" in text and "all good" in text
    assert json.loads(text.splitlines()[1].removeprefix("in a recipe: - ")) == {
        "name": name, "root": str(to),
    }  # fmt: skip
    assert sorted(p.name for p in to.iterdir()) == [MARK, "add_att.json", "pictures", "swap_att.json"]  # fmt: skip
    assert [line[:5] for line in said if line.startswith("[")] == ["[1/2]", "[2/2]"]
    asked = len(server.asked)
    assert "all good" in fetch(name, to, said.append)
    assert len(server.asked) == asked == 3


def test_a_download_that_fails_is_taken_up_where_it_was(server: Server, tmp_path: Path):
    name, to = benchmark_file(tmp_path, steps(server)), tmp_path / "data"
    archive = server.folder / "pictures.zip"
    content = archive.read_bytes()
    archive.unlink()
    with pytest.raises(DataError, match=r"cannot fetch .*pictures\.zip: status 404"):
        fetch(name, to)
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"pictures\.zip: cannot be unpacked: "):
        fetch(name, to)
    archive.write_bytes(content)
    assert "all good" in fetch(name, to)
    assert server.asked.count("/add_att.json") == 1


def test_other_data_than_was_published_is_an_error(server: Server, tmp_path: Path):
    path = server.folder / "add_att.json"
    records = json.loads(path.read_text())
    path.write_text(json.dumps({"0": records["0"]}))
    with pytest.raises(DataError, match="task add_att: 1 queries, published with 3"):
        fetch(benchmark_file(tmp_path, steps(server)), tmp_path / "data")


def test_a_folder_with_something_else_stays_as_it_is(server: Server, tmp_path: Path):
    mine = tmp_path / "data" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        fetch(benchmark_file(tmp_path, steps(server)), mine.parent)
    assert [path.name for path in mine.parent.iterdir()] == ["notes.txt"]
    done = tmp_path / "done"
    fetch(benchmark_file(tmp_path, steps(server)), done)
    with pytest.raises(OutputError, match="holds small; fetch other into another folder"):
        fetch(benchmark_file(tmp_path, steps(server), name="other"), done)


def test_what_a_command_cannot_fetch_is_said_with_where_it_is(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"get it by hand: github\.com/Heidelberg-NLP/VALSE"):
        fetch("valse", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_tasks_that_are_not_fetched_are_named(server: Server, tmp_path: Path):
    one = [
        {"url": f"{server.url}/add_att.json", "tasks": ["add_att"]},
        {"url": f"{server.url}/pictures.zip", "unpack": "*.zip", "tasks": ["add_att"]},
    ]
    name = benchmark_file(tmp_path, one, data="ask the authors")
    text = fetch(name, tmp_path / "data")
    assert "1 tasks, 3 queries" in text
    assert "to be had by hand: swap_att: ask the authors" in text
    assert '"tasks": ["add_att"]' in text


def test_the_hub_is_asked_for_what_the_benchmark_names(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls = []

    def snapshot_download(repo: str, **options: Any) -> None:
        calls.append((repo, options))
        with zipfile.ZipFile(server.folder / "pictures.zip") as archive:
            archive.extractall(options["local_dir"])
        for name in ("add_att", "swap_att"):
            content = (server.folder / f"{name}.json").read_bytes()
            (options["local_dir"] / f"{name}.json").write_bytes(content)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    # The Hub has the pictures at the root: `root: hub` and a fetched folder mean the same.
    for path in server.folder.glob("*.json"):
        path.write_text(path.read_text().replace('"filename": "', '"filename": "pictures/'))
    name = benchmark_file(tmp_path, [], hub="owner/small", revision="abc", hub_files="{task}.json")
    text = fetch(name, tmp_path / "data")
    options = {"repo_type": "dataset", "revision": "abc", "local_dir": tmp_path / "data", "allow_patterns": None}  # fmt: skip
    assert calls == [("owner/small", options)]
    assert '"files": "{task}.json"' in text and '"images": ""' in text
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: 1 / 0)
    with pytest.raises(DataError, match="cannot fetch owner/small: ZeroDivisionError"):
        fetch(name, tmp_path / "again")


@pytest.mark.parametrize("name", ["../out.png", "/tmp/out.png", "a/../../out.png", "link"])
def test_an_archive_does_not_write_outside(name: str, tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        member = zipfile.ZipInfo(name)
        if name == "link":
            member.external_attr = 0o120777 << 16
        archive.writestr("fine.png", b"fine")
        archive.writestr(member, "/etc")
    with pytest.raises(DataError, match="leads out of the folder, or is a link"):
        unpack(tmp_path / "bad.zip", tmp_path / "into" / "here")
    assert not (tmp_path / "into").exists()


def test_the_one_folder_of_an_archive_is_left_out(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.writestr("Urban1k/image/1.jpg", b"1")
        archive.writestr("Urban1k/caption/1.txt", b"2")
    unpack(tmp_path / "one.zip", tmp_path / "flat", flatten=True)
    unpack(tmp_path / "one.zip", tmp_path / "whole")
    assert (tmp_path / "flat/image/1.jpg").read_bytes() == b"1"
    assert (tmp_path / "whole/Urban1k/caption/1.txt").read_bytes() == b"2"


def test_every_benchmark_says_how_to_get_it():
    """By a command, by words, or because the data is the user's own or generated."""
    fetched = set()
    for name in known_benchmarks():
        benchmark = load_benchmark(name)
        try:
            found = steps_of(benchmark)
        except RecipeError:
            assert benchmark.data or name == "captions" or benchmark.tasks_file or benchmark.name.startswith("mini"), name  # fmt: skip
            continue
        fetched.add(name)
        choice_of(name, benchmark, found, Path("data"))
        for step in found:
            assert (step.hub is None) != (step.url is None)
            assert set(step.tasks) <= benchmark.tasks.keys()
            assert ("{name}" in (step.url or "")) == bool(step.names)
            if step.url and step.names and "{task}" in benchmark.files:
                # Every file that the tasks ask for is among them.
                files = {(t.files or benchmark.files).format(task=n) for n, t in benchmark.tasks.items()}  # fmt: skip
                assert files == {f"{name}.json" for name in step.names}
    assert fetched >= {
        "mmeb_v1", "mmeb_v2", "flickr30k", "coco5k", "urban1k", "sugarcrepe", "sugarcrepe_pp", "aro",
        "winoground", "scifact", "sts_benchmark",
    }  # fmt: skip


def test_published_numbers_fit_their_benchmark_and_have_a_source():
    tables = published()
    assert len(tables) >= 10
    for table in tables:
        benchmark = load_benchmark(table.benchmark)
        tasks = benchmark.tasks
        groups = {task.meta_task for task in tasks.values()}
        parts = {task.modality or benchmark.modality for task in tasks.values()}
        known = {"overall", "ind", "ood", *groups, *parts, *tasks}
        assert set(table.columns) <= known, table.benchmark
        assert table.source.url.startswith("https://") and table.source.where
        values = [value for row in table.rows.values() for value in row if value is not None]
        assert values and all(0 < value < 100 for value in values)
        for model, row in table.rows.items():
            assert any(value is not None for value in row), model


def test_published_means_are_those_of_their_parts_and_say_which():
    """A typing error shows; and MMEB's overall, a mean over 36 sets, is not one over four groups."""
    weights = {"classification": 10, "vqa": 10, "retrieval": 12, "grounding": 4}
    assert Counter(t.meta_task for t in load_benchmark("mmeb_v1").tasks.values()) == weights
    over_sets, over_groups = set(), set()
    for table in published("mmeb_v1"):
        for model, row in table.rows.items():
            values = dict(zip(table.columns, row, strict=True))
            overall = values["overall"]
            parts = {key: value for key in weights if (value := values.get(key)) is not None}
            if overall is None or len(parts) < len(weights):
                continue
            means = (
                sum(parts[key] * weight for key, weight in weights.items()) / 36,
                sum(parts.values()) / 4,
            )
            away = [abs(mean - overall) for mean in means]
            assert min(away) < 0.15, model
            by_groups = away[1] < away[0]
            (over_groups if by_groups else over_sets).add(model)
            if by_groups:
                assert "mean of the four groups" in table.note, model
    assert len(over_sets) >= 6 and "UniME, Phi-3.5-V 4.2B" in over_groups


def test_one_benchmark_is_listed_with_what_others_published():
    text = published_text("flickr30k")
    assert "UniME-V2, Qwen2-VL 7B" in text and "https://arxiv.org/abs/2510.13515" in text
    assert "mean of the four groups" in published_text("mmeb_v1")
    assert published_text("text_pairs") == ""


def test_the_readme_names_every_benchmark_and_commands_that_there_are():
    from typer.main import get_command

    from unime.eval.commands import app

    text = (ROOT / "eval/README.md").read_text()
    missing = [
        name for name in known_benchmarks() if name not in text and not name.startswith("mini_")
    ]
    assert not missing
    verbs = set(re.findall(r"unime eval ([a-z]+)", text))
    assert verbs and verbs <= get_command(app).commands.keys()  # type: ignore[attr-defined]
