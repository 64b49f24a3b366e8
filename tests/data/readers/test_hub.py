"""Data sets of the Hub by configuration and commit, with their archives, against a hub on this machine."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.readers.hub_files import (
    REPO,
    SOURCE,
    contents,
    pairs,
    png,
    row,
    table,
    zipped,
)
from tests.data.readers.local_hub import LocalHub
from tests.data.readers.sources import rows_of
from unime.core.errors import DataError, OutputError
from unime.core.stage import execute_values

ROOT = Path(__file__).resolve().parents[3]


def forget(hub: LocalHub) -> None:
    hub.requests.clear()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_every_configuration_is_a_task_with_its_archive_and_nothing_is_fetched_twice(
    hub: LocalHub, root: Path
) -> None:
    hub.add(REPO, pairs("CIRR", "WebQA"))
    found = contents(root, **SOURCE)
    red, blue = (255, 0, 0), (0, 0, 255)
    assert found == [
        ("CIRR", "find CIRR 0", red),
        ("CIRR", "find CIRR 1", blue),
        ("WebQA", "find WebQA 0", red),
        ("WebQA", "find WebQA 1", blue),
    ]
    # Each once; of the other split nothing.
    assert sorted(hub.fetched()) == sorted(
        name for name in pairs("CIRR", "WebQA") if "diverse_instruction" not in name
    )
    forget(hub)
    assert contents(root, **SOURCE) == found
    assert hub.requests == [f"GET /api/datasets/{REPO}/revision/main"]
    forget(hub)
    rows_of(root, **SOURCE | {"split": "diverse_instruction"})
    assert sorted(hub.fetched()) == [
        f"{task}/diverse_instruction-00000-of-00001.parquet" for task in ("CIRR", "WebQA")
    ]


def test_a_list_of_configurations_and_a_task_of_ones_own(hub: LocalHub, root: Path) -> None:
    hub.add(REPO, pairs("CIRR", "WebQA", "MSCOCO_i2t", "MSCOCO_t2i"))
    found = contents(root, **SOURCE | {"name": ["MSCOCO_*", "CIRR"], "task": "my_{name}"})
    assert [task for task, _, _ in found[::2]] == ["my_CIRR", "my_MSCOCO_i2t", "my_MSCOCO_t2i"]
    assert not any("WebQA" in name for name in hub.fetched())
    found = contents(root, **SOURCE | {"name": "CIRR"})
    assert {task for task, _, _ in found} == {"CIRR"}


def test_offline_what_was_fetched_works_and_the_rest_is_one_sentence(
    hub: LocalHub, root: Path, offline: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "unime")
    commit = hub.add(REPO, pairs("CIRR", "WebQA"))
    found = contents(root, **SOURCE | {"name": "CIRR"})
    forget(hub)
    offline()
    assert contents(root, **SOURCE | {"name": "CIRR"}) == found
    assert f"main is taken for commit {commit[:12]}, as last seen" in caplog.text
    with pytest.raises(
        DataError,
        match=r"images_zip/WebQA.zip|WebQA/original\S+ of hub:lab/pairs \(commit \w{12}\) was not fetched "
        "before, and HF_HUB_OFFLINE forbids to ask the Hub; run this once where",
    ):
        rows_of(root, **SOURCE)
    with pytest.raises(DataError, match="hub:lab/other at revision main was not fetched before"):
        rows_of(root, **SOURCE | {"path": "hub:lab/other"})
    assert hub.requests == []


def test_a_hub_that_does_not_answer_is_as_good_as_offline(
    hub: LocalHub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub.add(REPO, pairs("CIRR"))
    found = contents(root, **SOURCE)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert contents(root, **SOURCE) == found
    with pytest.raises(DataError, match=r"was not fetched before, and the Hub is out of reach \("):
        rows_of(root, **SOURCE | {"path": "hub:lab/other"})


def test_offline_what_others_fetched_is_found_in_the_cache(
    hub: LocalHub, root: Path, offline: Callable[[], None]
) -> None:
    from huggingface_hub import HfApi

    hub.add(REPO, pairs("CIRR"))
    for name in pairs("CIRR"):
        HfApi().hf_hub_download(REPO, name, repo_type="dataset")
    offline()
    assert len(contents(root, **SOURCE)) == 2


def test_a_pinned_commit_asks_nothing_once_it_is_there(hub: LocalHub, root: Path) -> None:
    commit = hub.add(REPO, pairs("CIRR"))
    other = pairs("CIRR")
    other["CIRR/original-00000-of-00002.parquet"] = table(row("CIRR", 1))
    hub.add(REPO, other)
    pinned = SOURCE | {"revision": commit}
    assert [text for _, text, _ in contents(root, **pinned)] == ["find CIRR 0", "find CIRR 1"]
    forget(hub)
    contents(root, **pinned)
    assert hub.requests == []


def test_a_new_commit_is_noticed_and_what_did_not_change_is_kept(
    hub: LocalHub, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "unime")
    old = hub.add(REPO, pairs("CIRR", "WebQA"))
    contents(root, **SOURCE)
    changed = pairs("CIRR", "WebQA")
    changed["CIRR/original-00001-of-00002.parquet"] = table(row("CIRR", 1) | {"qry": "else"})
    changed["images_zip/WebQA.zip"] = zipped(
        {f"WebQA/Train/{n}.png": png("lime") for n in range(2)}
    )
    new = hub.add(REPO, changed)
    forget(hub)
    found = contents(root, **SOURCE)
    assert [text for _, text, _ in found[:2]] == ["find CIRR 0", "else"]
    assert {pixel for _, _, pixel in found[2:]} == {(0, 255, 0)}
    assert sorted(hub.fetched()) == [
        "CIRR/original-00001-of-00002.parquet",
        "images_zip/WebQA.zip",
    ]
    assert (
        f"main moved from commit {old[:12]} to {new[:12]}; 'revision: {old}' reads" in caplog.text
    )
    folders = sorted(
        p.name.rpartition("-")[0] for p in (root / "hub/lab--pairs").iterdir() if p.is_dir()
    )
    assert folders == ["CIRR", "WebQA", "WebQA"]


def recipe(root: Path, **source: Any) -> dict[str, Any]:
    return {"output": str(root.parent / "out"), "root": str(root), "sources": [SOURCE | source]}


def test_a_finished_output_stays_up_to_date_offline_and_never_changes_silently(
    hub: LocalHub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    module, values = "unime.data.stage", recipe(root)
    old = hub.add(REPO, pairs("CIRR"))
    out = execute_values(module, values)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["facts"]["hub"] == {f"hub:{REPO}": old}
    assert manifest["inputs"] == {f"hub:{REPO}": f"name:hub:{REPO}@{old}"}
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    execute_values(module, values)
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        execute_values(module, values)
        patch.setattr(constants, "HF_HUB_CACHE", str(root / "none"))
        (root / "hub").rename(root / "elsewhere")
        execute_values(module, values)
    (root / "elsewhere").rename(root / "hub")
    hub.add(REPO, pairs("CIRR", "WebQA"))
    with pytest.raises(OutputError, match=rf"inputs.hub:{REPO}: 'name:hub:{REPO}@{old}' there"):
        execute_values(module, values)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_run_that_could_not_ask_is_resumed_when_it_can(
    hub: LocalHub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = hub.add(REPO, pairs("CIRR"))
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        for _ in range(2):
            with pytest.raises(
                DataError, match="hub:lab/pairs at revision main was not fetched before"
            ):
                execute_values("unime.data.stage", recipe(root))
    out = execute_values("unime.data.stage", recipe(root))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["inputs"] == {f"hub:{REPO}": f"name:hub:{REPO}@{commit}"}


def test_an_unfinished_output_is_not_resumed_with_another_commit(
    hub: LocalHub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unime.data import stage

    old = hub.add(REPO, pairs("CIRR"))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "read_contents", killed)
        with pytest.raises(KeyboardInterrupt):
            execute_values("unime.data.stage", recipe(root))
    new = hub.add(REPO, pairs("CIRR", "WebQA"))
    with pytest.raises(OutputError, match=rf"@{old}' there, '\S+@{new}' now"):
        execute_values("unime.data.stage", recipe(root))


def test_outputs_of_versions_that_did_not_note_the_commit_are_up_to_date(
    hub: LocalHub, root: Path
) -> None:
    from unime.core.contents import checksum

    hub.add(REPO, pairs("CIRR"))
    out = execute_values("unime.data.stage", recipe(root))
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["checksum"]
    manifest["inputs"] = {f"hub:{REPO}": f"name:hub:{REPO}"}
    for source in manifest["recipe"]["sources"]:
        del source["revision"]
    text = json.dumps({**manifest, "checksum": checksum(manifest)})
    (out / "manifest.json").write_text(text)
    execute_values("unime.data.stage", recipe(root))
    assert (out / "manifest.json").read_text() == text


RUN = """
import sys
from tests.data.readers.sources import rows_of
import json, pathlib
from unime.core.errors import UnimeError
try:
    print(len(rows_of(pathlib.Path(sys.argv[1]), **json.loads(sys.argv[2]))))
except UnimeError as error:
    sys.exit(str(error))
"""


def in_a_process(hub: LocalHub, root: Path, cache: Path) -> subprocess.Popen[str]:
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    words = [sys.executable, "-c", RUN, str(root), json.dumps(SOURCE)]
    return subprocess.Popen(words, env=env, stdout=-1, stderr=-1, text=True, cwd=ROOT)


def test_a_killed_download_is_resumed(hub: LocalHub, root: Path, tmp_path: Path) -> None:
    hub.add(REPO, pairs("CIRR", "WebQA"))
    hub.hold_at = "images_zip/WebQA.zip"
    process = in_a_process(hub, root, tmp_path / "other")
    assert hub.reached.wait(60)
    process.kill()
    process.wait()
    hub.hold_at = ""
    first = hub.fetched()
    assert "images_zip/CIRR.zip" in first
    forget(hub)
    said, problem = in_a_process(hub, root, tmp_path / "other").communicate(timeout=120)
    assert said.strip() == "4", problem
    # What came whole does not come again; the one that was cut off does.
    assert "images_zip/WebQA.zip" in hub.fetched()
    assert sorted([*first, *hub.fetched()]) == sorted(
        [
            *(name for name in pairs("CIRR", "WebQA") if "diverse_instruction" not in name),
            "images_zip/WebQA.zip",
        ]
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"name": "CIR"},
            r"has no configuration 'CIR'; did you mean 'CIRR'\? \(all: CIRR, WebQA\)",
        ),
        ({"name": None}, r"has 2 configurations: CIRR, WebQA; choose by name:, a list of them, or"),
        ({"split": "orignal"}, r"'CIRR' has no split 'orignal'; did you mean 'original'\?"),
        ({"split": None}, r"has the splits diverse_instruction, original; choose one by split:"),
        (
            {"archives": "images/{name}.zip"},
            r"has no file 'images/CIRR.zip' \(archives:\); did you mean",
        ),
        (
            {"revision": "v9"},
            r"hub:lab/pairs has no revision 'v9'; expected a branch, a tag or a commit",
        ),
        ({"path": "hub:lab/none"}, r"no data set lab/none, or it is private \(status 404\); check"),
        (
            {"path": "hub:lab/secret"},
            r"lab/secret, or it is private \(status 401\); .* `hf auth login`",
        ),
        ({"path": "hub:../../etc"}, r"hub:../../etc: expected hub:OWNER/NAME"),
    ],
)
def test_what_is_not_there_is_one_clear_sentence(
    hub: LocalHub, root: Path, change: dict[str, Any], words: str
) -> None:
    hub.add(REPO, pairs("CIRR", "WebQA"))
    hub.private.add("lab/secret")
    with pytest.raises(DataError, match=words):
        rows_of(root, **SOURCE | change)


def test_archives_and_revisions_are_of_the_hub_alone(tmp_path: Path) -> None:
    from unime.data.readers import DataSource

    for extra in ({"archives": "a.zip"}, {"revision": "v1"}):
        with pytest.raises(ValueError, match="archives and revision are of data sets of the Hub"):
            DataSource.model_validate({"reader": "mmeb_train", "path": "a", **extra})
    with pytest.raises(ValueError, match=r"'\.\./x' leads out of the folder of unpacked files"):
        DataSource.model_validate(SOURCE | {"archives": {"a.zip": "../x"}})


def test_what_the_cache_has_is_not_taken_for_all_of_a_commit(
    hub: LocalHub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi, constants

    hub.add(REPO, pairs("CIRR", "WebQA"))
    for name in (n for n in pairs("CIRR", "WebQA") if "WebQA" not in n):
        HfApi().hf_hub_download(REPO, name, repo_type="dataset")
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert len(contents(root, **SOURCE | {"name": "CIRR"})) == 2
        with pytest.raises(DataError, match="has no file 'images_zip/WebQA.zip'"):
            rows_of(root, **SOURCE)
    assert len(contents(root, **SOURCE)) == 4


def test_the_api_takes_configurations_too(hub: LocalHub, tmp_path: Path) -> None:
    from unime import load_data

    commit = hub.add(REPO, pairs("CIRR", "WebQA", "NIGHTS"))
    data = load_data(
        f"hub:{REPO}",
        tmp_path / "out",
        root=tmp_path / "root",
        reader="mmeb_train",
        name=["CIRR", "NIGHTS"],
        split="original",
        revision=commit,
        archives={"images_zip/{name}.zip": "images"},
    )
    assert sorted({row["task"] for row in data.rows()}) == ["CIRR", "NIGHTS"]
