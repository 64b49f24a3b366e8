"""Every shipped recipe is valid, and every path and name in it is known."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from unime.core import stage as stages
from unime.core.errors import UnimeError
from unime.stages import recipes_in

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(
    path.relative_to(ROOT)
    for folder in ("recipes", "research/recipes")
    for path in (ROOT / folder).rglob("*.yaml")
    if path.name[0].isdigit()
)
MODULES = {name: entry.module for name, entry in stages.stages().items()}


def dry_run(path: Path, *overrides: str) -> str:
    said: list[str] = []
    module = MODULES[stages.stage_of(path)]
    stages.execute(module, path, overrides, dry_run=True, echo=said.append)
    return said[0]


def test_recipes_are_found():
    assert len(RECIPES) >= 100


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_a_dry_run_of_every_recipe(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    assert f"writes\n  {'assets/student' if path.stem == '0_base' else 'runs/'}" in dry_run(path)


def test_the_shipped_student_is_what_its_recipe_makes(monkeypatch: pytest.MonkeyPatch, caplog):
    """Otherwise `make demo` stops at its second recipe, in every checkout."""
    monkeypatch.chdir(ROOT)
    with caplog.at_level(logging.INFO, logger="unime"):
        stages.execute(MODULES["base"], "recipes/mini/0_base.yaml")
    assert caplog.messages == [
        "assets/student was written before outputs had hashes of their files; they are not checked",
        "base: assets/student is up to date",
    ]


@pytest.mark.parametrize(
    "folder",
    sorted({path.parent for path in RECIPES if path.parts[1] != "start_anywhere"}),
    ids=str,
)
def test_folders_with_a_table_of_contents(folder: Path):
    script = ROOT / folder / "run.sh"
    assert script.stat().st_mode & 0o111
    assert recipes_in(ROOT / folder)


def test_what_a_stage_reads_an_earlier_one_of_its_folder_writes(monkeypatch: pytest.MonkeyPatch):
    """`${run}/2_warmup/model` must be the output of a recipe with a smaller number."""
    monkeypatch.chdir(ROOT)
    seen = 0
    for folder in {path.parent for path in RECIPES}:
        written: set[str] = set()
        for path in recipes_in(folder):
            for word in dry_run(path).replace('"', " ").split():
                if word.startswith("runs/") and not word.startswith(
                    ("runs/teacher", "runs/photos/raw")
                ):
                    place = "/".join(word.rstrip(",").split("/")[:3])
                    if not place.endswith((".json", path.stem)):
                        assert place in written, f"{path} reads {word}"
                        seen += 1
            written.add(f"runs/{path.parent.name}/{path.stem}")
    assert seen > 50


@pytest.mark.parametrize(
    ("recipe", "override", "sentence"),
    [
        ("2_warmup", "training.learning_rat=1", "training.learning_rat: no such key; did you mean 'learning_rate'?"),
        ("2_warmup", "losses.0.name=info_nse", "unknown loss 'info_nse'; did you mean 'info_nce'?"),
        ("2_warmup", "losses.0.options.temprature=1", "loss 'info_nce' has no option 'temprature'; did you mean 'temperature'?"),
        ("2_warmup", "tune.parts=[languge]", "tune.parts.0: Input should be 'language', 'vision' or 'projector' (got 'languge')"),
        ("0_data", "sources.0.reader=mmeb_trian", "unknown reader 'mmeb_trian'; did you mean 'mmeb_train'?"),
        ("4_judge", "engine=orakle", "unknown engine 'orakle'; did you mean 'oracle'?"),
        ("5_select", "rule=eiter", "unknown rule 'eiter'; did you mean 'either'?"),
        ("9_eval", "benchmarks.0.name=mini_mmbe", "unknown benchmark 'mini_mmbe'; did you mean 'mini_mmeb'?"),
        ("3_mine", "model.prompt=embed/hierarchical.v2", "no prompt 'embed/hierarchical.v2'; did you mean 'embed/hierarchical.v1'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_found_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, recipe: str, override: str, sentence: str
):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UnimeError) as caught:
        dry_run(Path(f"recipes/mini/{recipe}.yaml"), override)
    assert sentence in str(caught.value)
