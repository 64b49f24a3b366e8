"""Where an output came from: what identifies an input, what differs between two plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unime.core import files
from unime.core.config import Recipe
from unime.core.contents import fingerprint, hash_listing
from unime.core.errors import OutputError
from unime.core.provenance import differences, open_output


class Toy(Recipe):
    value: int = 1


# Without null: a key that is absent in one plan and null in the other makes no difference.
JSON = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_plans_differ_just_when_something_in_them_does(old: Any, new: Any) -> None:
    assert bool(differences({"recipe": old}, {"recipe": new})) == (old != new)
    assert differences(old, old) == []


def test_differences_name_the_place_and_both_values() -> None:
    old = {"recipe": {"loss": {"temperature": 0.02}, "output": "o"}, "inputs": {}}
    new = {"recipe": {"loss": {"temperature": 0.05}, "output": "o"}, "inputs": {"data": "x"}}
    assert differences(old, new) == [
        "inputs.data: None there, 'x' now",
        "recipe.loss.temperature: 0.02 there, 0.05 now",
    ]


def test_a_file_and_a_model_folder_are_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.txt").write_text("one")
    file, folder = fingerprint(tmp_path / "deep/a.txt"), fingerprint(tmp_path)
    assert fingerprint(tmp_path) == folder
    (tmp_path / "deep/a.txt").write_text("two")
    assert fingerprint(tmp_path / "deep/a.txt") != file
    assert fingerprint(tmp_path) != folder  # same name, same size
    changed = fingerprint(tmp_path)
    (tmp_path / "deep/a.txt").rename(tmp_path / "deep/b.txt")
    assert fingerprint(tmp_path) != changed


def test_a_folder_of_pictures_is_names_and_sizes_of_these_and_the_bytes_of_the_rest(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.PNG").write_bytes(b"one")
    (tmp_path / "rows.json").write_text("[1]")
    before = fingerprint(tmp_path)
    (tmp_path / "a.PNG").write_bytes(b"two")
    assert fingerprint(tmp_path) == before
    (tmp_path / "rows.json").write_text("[2]")
    assert fingerprint(tmp_path) != before


def test_an_output_of_before_folders_were_bytes_is_still_up_to_date(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    recipe, inputs = Toy(stage="toy", output=str(tmp_path / "out")), {"model": model}
    open_output(recipe, inputs).finish()
    manifest = files.read_json(tmp_path / "out/manifest.json")
    del manifest["files"], manifest["checksum"]
    manifest["inputs"]["model"] = f"listing:{hash_listing(model)}"
    files.write_json(tmp_path / "out/manifest.json", manifest)
    assert open_output(recipe, inputs).up_to_date
    (model / "config.json").write_text("{ }")
    with pytest.raises(OutputError, match="inputs.model: 'listing:.* there, 'tree:.* now"):
        open_output(recipe, inputs)


def test_a_finished_output_is_its_manifest_and_covers_its_model_folder(tmp_path: Path) -> None:
    stage = tmp_path / "2_warmup"
    (stage / "model").mkdir(parents=True)
    files.write_json(stage / "manifest.json", {"recipe": 1})
    first = fingerprint(stage)
    assert first == fingerprint(stage / "model")
    (stage / "run.json").write_text("times differ")
    assert fingerprint(stage) == first
    files.write_json(stage / "manifest.json", {"recipe": 2})
    assert fingerprint(stage) != first


def test_an_unfinished_input_is_an_error_and_a_hub_id_is_its_name(tmp_path: Path) -> None:
    files.write_json(tmp_path / "plan.json", {})
    with pytest.raises(OutputError, match="is unfinished; run its stage again, it will be resumed"):
        fingerprint(tmp_path)
    assert fingerprint(Path("Qwen/Qwen2-VL-2B-Instruct")) == "name:Qwen/Qwen2-VL-2B-Instruct"
    with pytest.raises(OutputError, match=r"nothing is missing \(working directory"):
        fingerprint(tmp_path / "no" / "nothing")


def test_an_output_of_before_a_key_was_new_stands_at_its_default(tmp_path: Path) -> None:
    finish(tmp_path)
    manifest = files.read_json(tmp_path / "manifest.json")
    del manifest["files"], manifest["checksum"]  # an older version's
    assert manifest["recipe"].pop("value") == 1
    files.write_json(tmp_path / "manifest.json", manifest)
    assert open_output(Toy(stage="toy", output=str(tmp_path)), {}).up_to_date
    with pytest.raises(OutputError, match="recipe.value: 1 there, 2 now"):
        open_output(Toy(stage="toy", output=str(tmp_path), value=2), {})
    manifest["recipe"]["gone"] = 3
    files.write_json(tmp_path / "manifest.json", manifest)
    with pytest.raises(OutputError, match="recipe.gone: 3 there, None now"):
        open_output(Toy(stage="toy", output=str(tmp_path)), {})


def finish(folder: Path, **facts: Any) -> bytes:
    out = open_output(Toy(stage="toy", output=str(folder)), {})
    out.facts(**facts)
    out.note(seconds_in_some_part=1.5)
    out.finish()
    return (folder / "manifest.json").read_bytes()


def test_manifests_are_deterministic_and_runs_tell_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        manifests.append(finish(Path("out"), prompt="p", root=Path("r")))
    assert manifests[0] == manifests[1]
    manifest, run = (json.loads((tmp_path / "a/out" / n).read_text()) for n in
                     ("manifest.json", "run.json"))  # fmt: skip
    assert manifest["facts"] == {"prompt": "p", "root": "r"}
    assert manifest["recipe"] == {"stage": "toy", "output": "out", "value": 1}
    assert run["seconds_in_some_part"] == 1.5
    assert run["versions"]["torch"]
    assert not (tmp_path / "a/out/plan.json").exists()


def test_a_kill_after_the_manifest_leaves_nothing_behind_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(moment: str) -> None:
        if moment == "after manifest.json":
            raise Killed

    monkeypatch.setattr(files, "on_commit", kill)
    with pytest.raises(Killed):
        finish(tmp_path / "out")
    monkeypatch.setattr(files, "on_commit", None)
    assert open_output(Toy(stage="toy", output=str(tmp_path / "out")), {}).up_to_date
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.json", "run.json"]


def test_time_spent_adds_up_over_resumed_runs(tmp_path: Path) -> None:
    recipe = Toy(stage="toy", output=str(tmp_path / "out"))
    out = open_output(recipe, {})
    files.write_json(tmp_path / "out/run.json", {"seconds": 100.0})
    out.finish()
    assert json.loads((tmp_path / "out/run.json").read_text())["seconds"] >= 100.0
