"""Outputs: finished ones are kept, unfinished ones resumed, foreign ones left alone."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from unime.core import files
from unime.core.config import Recipe
from unime.core.errors import OutputError, RecipeError
from unime.core.stage import StageEntry, execute, stages
from unime.stages import recipes_in, run_folder


class ToyRecipe(Recipe):
    value: int = 1
    source: str = ""


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """A stage "select" that records its runs and fails on value 13."""
    runs: list[int] = []
    module = ModuleType("toy_stage")

    def run(recipe, out):
        runs.append(recipe.value)
        if recipe.value == 13:
            raise RuntimeError("unlucky")
        files.write_json(out.file("result.json"), recipe.value)
        out.facts(value=recipe.value)

    module.RECIPE, module.run = ToyRecipe, run  # type: ignore[attr-defined]
    module.inputs = lambda r: {"source": Path(r.source)} if r.source else {}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_stage", module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text("stage: toy\noutput: out\n")
    monkeypatch.setitem(
        stages(),
        "toy",
        StageEntry("toy_stage", ("unime", "toy"), ""),
    )
    return runs


def test_a_finished_output_is_up_to_date_and_never_overwritten(toy: list[int]):
    execute("toy_stage", "toy.yaml")
    manifest = Path("out/manifest.json").read_bytes()
    execute("toy_stage", "toy.yaml")
    assert toy == [1]
    with pytest.raises(
        OutputError,
        match=r"(?s)holds a finished output of another recipe.*recipe\.value: 1 there, 2 now.*--restart",
    ):
        execute("toy_stage", "toy.yaml", ["value=2"])
    assert Path("out/manifest.json").read_bytes() == manifest


def test_restart_moves_aside_and_deletes_nothing(toy: list[int]):
    execute("toy_stage", "toy.yaml")
    execute("toy_stage", "toy.yaml", ["value=2"], restart=True)
    assert files.read_json("out/result.json") == 2
    assert files.read_json("out.old1/result.json") == 1


def test_an_unfinished_output_is_resumed_by_the_same_recipe_only(toy: list[int]):
    with pytest.raises(RuntimeError):
        execute("toy_stage", "toy.yaml", ["value=13"])
    with pytest.raises(OutputError, match="unfinished output of another recipe"):
        execute("toy_stage", "toy.yaml")
    with pytest.raises(RuntimeError):
        execute("toy_stage", "toy.yaml", ["value=13"])
    assert toy == [13, 13]


def test_a_foreign_folder_is_left_alone(toy: list[int]):
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="was not written by unime"):
        execute("toy_stage", "toy.yaml")
    assert not toy


def test_inputs_must_be_finished(toy: list[int]):
    with pytest.raises(OutputError, match="is missing"):
        execute("toy_stage", "toy.yaml", ["source=runs/nowhere"])
    Path("half").mkdir()
    files.write_json("half/plan.json", {})
    with pytest.raises(OutputError, match="is unfinished"):
        execute("toy_stage", "toy.yaml", ["source=half"])


def test_a_changed_input_makes_another_output(toy: list[int]):
    Path("data.txt").write_text("one")
    execute("toy_stage", "toy.yaml", ["source=data.txt"])
    Path("data.txt").write_text("two")
    with pytest.raises(OutputError, match=r"inputs\.source: 'sha256:"):
        execute("toy_stage", "toy.yaml", ["source=data.txt"])


def test_dry_run_touches_nothing(toy: list[int]):
    said: list[str] = []
    execute("toy_stage", "toy.yaml", dry_run=True, echo=said.append)
    assert "value: 1" in said[0]
    assert "writes\n  out" in said[0]
    assert not Path("out").exists()


def test_the_wrong_command_names_the_right_one(toy: list[int]):
    Path("mine.yaml").write_text("stage: mine\noutput: out\n")
    with pytest.raises(
        RecipeError, match=r"stage 'mine', this command runs 'toy'; use python -m unime mine"
    ):
        execute("toy_stage", "mine.yaml")


def test_recipes_run_in_the_order_of_their_numbers(tmp_path: Path):
    for name in (
        "10_eval",
        "2_warmup",
        "0_data",
        "0_world",
        "0_base",
        "6_contrast_mined",
        "6_contrast",
    ):
        (tmp_path / f"{name}.yaml").write_text("stage: data\n")
    assert [path.stem for path in recipes_in(tmp_path)] == [
        "0_world", "0_base", "0_data", "2_warmup", "6_contrast", "6_contrast_mined", "10_eval"
    ]  # fmt: skip
    with pytest.raises(RecipeError, match="expected run=FOLDER or STEM.key=value with STEM one of"):
        run_folder(tmp_path, ["contrast.seed=1"])
    with pytest.raises(RecipeError, match="unknown recipe of .* '2_warm'; did you mean '2_warmup'"):
        run_folder(tmp_path, skip=["2_warm"])


def test_a_stage_says_where_its_recipes_stand_among_those_of_one_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for order, name in enumerate(("third", "second", "first")):
        monkeypatch.setitem(stages(), name, StageEntry("none", (name,), "", order=-order - 10))
    # None of them can be read: each stands where its name says.
    for name in ("0_aside", "0_data", "0_third", "0_second", "0_first", "1_first"):
        (tmp_path / f"{name}.yaml").write_text("no recipe")
    assert [path.stem for path in recipes_in(tmp_path)] == [
        "0_first", "0_second", "0_third", "0_data", "0_aside", "1_first"
    ]  # fmt: skip
