"""Nothing that a user may have written is overwritten or mixed with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.data.own_data.test_own_data import own_folder
from unime.core import files
from unime.core.config import load_recipe
from unime.core.errors import DataError, OutputError
from unime.core.overwrite import check_replaceable, contains, has_keys, is_free
from unime.core.provenance import Output
from unime.data import images
from unime.data.own_data.prepare import prepare
from unime.eval.report.report_page import write_report
from unime.eval.stage import RECIPE, run
from unime.judge.export_scores import export_judged
from unime.search.index_files import begin

STUDENT = str(ROOT / "assets/student")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}  # fmt: skip


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    images._real.cache_clear()
    own_folder(tmp_path / "photos", "csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("place", ["recipes/photos/9_eval.yaml", "recipes/photos/notes.md", "recipes/photos", "runs/photos/raw/captions.csv", "runs/photos/raw/report.json"])  # fmt: skip
def test_own_data_writes_nowhere_where_something_is(work: Path, place: str):
    (work / place).parent.mkdir(parents=True, exist_ok=True)
    (work / place).write_text("mine")
    before = contents(work)
    with pytest.raises(OutputError, match=r"stays as it is.* such as --into recipes/photos_2$"):
        prepare("photos", model=STUDENT, echo=lambda _: None)
    assert contents(work) == before
    recipe = prepare("photos", STUDENT, Path("recipes/photos_2"), echo=lambda _: None)
    assert recipe == Path("recipes/photos_2") and (work / "runs/photos_2/raw/images").is_dir()
    assert {name: contents(work)[name] for name in before} == before


def test_other_data_of_the_same_name_is_not_mixed_in(work: Path):
    prepare("photos", model=STUDENT, echo=lambda _: None)
    before = contents(work / "runs"), contents(work / "recipes")
    own_folder(work / "other" / "photos", "txt")
    with pytest.raises(OutputError, match="recipes/photos is there already"):
        prepare("other/photos", model=STUDENT, echo=lambda _: None)
    with pytest.raises(OutputError, match=r"runs/photos/raw is there already"):
        prepare("other/photos", model=STUDENT, into=Path("elsewhere/photos"), echo=lambda _: None)
    with pytest.raises(DataError, match="are there already; run it with `unime run"):
        prepare(str(work / "photos"), model=STUDENT, echo=lambda _: None)
    assert before == (contents(work / "runs"), contents(work / "recipes"))


def test_killed_at_any_change_the_same_command_does_it_again(
    work: Path, monkeypatch: pytest.MonkeyPatch
):
    prepare("photos", model=STUDENT, echo=lambda _: None)
    whole = contents(work / "recipes"), contents(work / "runs/photos/raw")
    moments: list[str] = []
    stop_at = 0
    for stop_at in range(1, 100):
        for folder in (work / "recipes", work / "runs"):
            files.remove_folder(folder)
        moments.clear()

        def stop(moment: str, stop_at: int = stop_at) -> None:
            moments.append(moment)
            if len(moments) == stop_at:
                raise KeyboardInterrupt

        monkeypatch.setattr(files, "on_commit", stop)
        try:
            prepare("photos", model=STUDENT, echo=lambda _: None)
        except KeyboardInterrupt:
            monkeypatch.setattr(files, "on_commit", None)
            if stop_at <= 2 or moments[-1] != "after report.json":  # else it was done
                prepare("photos", model=STUDENT, echo=lambda _: None)
            assert whole == (contents(work / "recipes"), contents(work / "runs/photos/raw"))
            continue
        break
    assert stop_at > 20  # each of the files written was a place to stop at


def test_what_cannot_be_used_is_listed_when_too_little_can(work: Path):
    (work / "few").mkdir()
    (work / "few/captions.csv").write_text("image,caption\nmissing.png,nothing\n")
    for _ in range(2):  # and the same command may be tried again
        with pytest.raises(DataError, match=r"listed in runs/few/raw/rejected\.jsonl"):
            prepare("few", model=STUDENT)
    with pytest.raises(DataError, match="is neither a folder nor a file"):
        prepare("nowhere/few", model=STUDENT)
    # What was refused keeps nobody from other data of that name.
    own_folder(work / "other" / "few", "csv")
    assert prepare("other/few", model=STUDENT, echo=lambda _: None) == Path("recipes/few")


def test_what_is_rejected_is_listed(work: Path):
    (work / "few").mkdir()
    (work / "few/captions.csv").write_text("image,caption\nmissing.png,nothing\n")
    with pytest.raises(DataError, match="has 0 usable captioned pictures"):
        prepare("few", model=STUDENT)
    (line,) = (work / "runs/few/raw/rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["row"] == 1 or "missing image" in line


NAMES = [
    "2024",
    "no",
    "1e3",
    "~x",
    "a: b",
    "#x",
    "it's",
    'say "x"',
    "${run}",
    "日本 語",
    "a\nb",
    "{x}",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_folder_and_model_is_read_back(work: Path, name: str):
    own_folder(work / "top" / name, "csv")
    (work / "models").mkdir()
    (work / "models" / name).symlink_to(STUDENT)
    model = f"models/{name}"
    recipe = prepare(f"top/{name}", model, Path("recipes") / name, echo=lambda _: None)
    from unime.export.stage import ExportRecipe
    from unime.train.contrast import ContrastRecipe

    assert load_recipe(recipe / "2_warmup.yaml", ContrastRecipe).model.id == model
    export = load_recipe(recipe / "8_export.yaml", ExportRecipe)
    assert export.title == name and export.model.id == f"runs/{name}/6_contrast/model"
    entries = load_recipe(recipe / "9_eval.yaml", RECIPE).models
    assert [entry.source for entry in entries][:2] == [model, f"runs/{name}/2_warmup/model"]
    assert (recipe / "0_data.yaml").read_text().startswith("# Written by `unime data` from ")


def test_a_place_is_free_when_nothing_is_there(tmp_path: Path):
    assert is_free(tmp_path / "new") and is_free(tmp_path)
    (tmp_path / ".hidden").write_text("")
    (tmp_path / "broken").symlink_to("nowhere")
    assert not is_free(tmp_path) and not is_free(tmp_path / "broken")


def test_a_file_is_replaced_only_where_it_carries_the_mark(tmp_path: Path):
    path = tmp_path / "x"
    for ours, text in ((contains("M"), "a M b"), (has_keys("rows"), '{"rows": []}')):
        check_replaceable(tmp_path / "new", ours, "c")
        path.write_text(text)
        check_replaceable(path, ours, "c")
        for other in ("mine", "[1]", "[" * 100_000, "\udcff"):
            path.write_bytes(other.encode(errors="surrogateescape"))
            with pytest.raises(OutputError, match="is there already and is not as `c` writes it"):
                check_replaceable(path, ours, "c")
    with pytest.raises(OutputError, match="is no file"):
        check_replaceable(tmp_path, contains("M"), "c")


def test_commands_leave_a_users_file_alone(tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(OutputError, match="is not as `unime judge export` writes it"):
        export_judged("no.yaml", [], path, "unime_v2")
    with pytest.raises(OutputError, match="is not as `unime eval report` writes it"):
        write_report([tmp_path])
    recipe = RECIPE.model_validate({
        "stage": "eval", "output": "o", "results": str(path), "benchmarks": [{"name": "captions", "root": "r"}],
        "models": [{"name": "m", "model": {"id": "x"}}],
    })  # fmt: skip
    with pytest.raises(OutputError, match="is not as `unime eval run` writes it"):
        run(recipe, Output(tmp_path / "o", {}))
    assert not (tmp_path / "o").exists()
    assert path.read_text() == "mine"


def test_an_index_takes_no_folder_that_holds_something_else(tmp_path: Path):
    table = tmp_path / "index.parquet"
    table.write_text("mine")
    (tmp_path / "parts").mkdir()
    before = table.read_bytes()
    with pytest.raises(OutputError, match=re.escape(f"{tmp_path} is there already and is no search index")):  # fmt: skip
        begin(tmp_path, Path("m"), "f")
    assert table.read_bytes() == before and (tmp_path / "parts").is_dir()
    begin(tmp_path / "new", Path("m"), "f")
    begin(tmp_path / "new", Path("m"), "g")
