"""Durable changes: whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from unime.core import files


class Stop(Exception):
    pass


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_stopped_write_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
):
    path = tmp_path / "value.json"
    files.write_json(path, {"old": 1})

    def stop(name: str) -> None:
        if name == f"{moment} value.json":
            raise Stop

    monkeypatch.setattr(files, "on_commit", stop)
    with pytest.raises(Stop):
        files.write_json(path, {"new": 1})
    assert files.read_json(path) == ({"old": 1} if moment == "before" else {"new": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_a_torn_line_is_dropped_and_cut_off(tmp_path: Path):
    log = tmp_path / "log.jsonl"
    files.append_lines(log, ["one", "two"])
    with log.open("ab") as handle:
        handle.write(b"thr")
    assert files.read_lines(log) == ["one", "two"]
    files.append_lines(log, ["four"])
    assert files.read_lines(log) == ["one", "two", "four"]


def test_folders_appear_whole(tmp_path: Path):
    target = tmp_path / "model"
    with files.atomic_folder(target) as folder:
        (folder / "weights").write_text("1")
        assert not target.exists()
    with pytest.raises(Stop), files.atomic_folder(target) as folder:
        raise Stop
    assert (target / "weights").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_leftovers_of_a_kill_are_swept(tmp_path: Path):
    (tmp_path / ".12345678.partial.json").write_text("half")
    (tmp_path / "deep" / ".model.12345678.partial").mkdir(parents=True)
    (tmp_path / "kept.json").write_text("{}")
    files.sweep_partials(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "kept.json"]
