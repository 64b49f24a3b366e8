"""The grid: mistakes are one sentence, shared steps are shared, every command is valid."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from research.evidence.chain import chain_of
from research.evidence.grid import GRID, Cell, Grid, load_grid
from research.evidence.run import planned_minutes
from tests.conftest import ROOT
from tests.research.evidence.small import small_grid
from unime.core import stage as stages
from unime.core.errors import UnimeError

HOURS = 12


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def grid() -> Grid:
    return load_grid(ROOT / GRID)


def test_the_budget_holds(grid: Grid):
    minutes = planned_minutes(grid)
    over = {name for name, planned in minutes.items() if planned > grid.tables[name].minutes}
    assert not over
    assert sum(table.minutes for table in grid.tables.values()) <= HOURS * 60
    assert all(len(grid.test_seeds(name)) >= 3 for name in grid.tables)


def test_every_command_of_the_grid_is_valid_and_reads_what_an_earlier_one_writes(grid: Grid):
    modules = {name: entry.module for name, entry in stages.stages().items()}
    seen: set[Path] = set()
    for cell in grid.cells(seeds=[1]):
        chain = chain_of(grid, cell)
        written = {step.folder.as_posix() for step in chain}
        for step in chain:
            if step.folder in seen:
                continue
            seen.add(step.folder)
            said: list[str] = []
            recipe = next(word for word in step.words if word.endswith(".yaml"))
            overrides = step.words[step.words.index(recipe) + 1 :]
            module = modules[stages.stage_of(recipe)]
            stages.execute(module, recipe, overrides, dry_run=True, echo=said.append)
            values, _, places = said[0].partition("\nreads\n")
            resolved = yaml.safe_load(values)
            assert resolved["output"] == step.folder.as_posix()
            for place in re.findall(r"runs/evidence/[\w./-]+", places):
                assert any(place.startswith(folder) for folder in written), f"{step} reads {place}"
    assert len(seen) > 50


@pytest.mark.parametrize(
    ("table", "row", "sentence"),
    [
        ("negativs", None, "unknown table 'negativs'; did you mean 'negatives'?"),
        ("negatives", "minned", "unknown row of 'negatives': 'minned'; did you mean 'mined'?"),
        (
            "prompt",
            "trained-one-word",
            "row 'trained-one-word' of table 'prompt' cannot run yet: Cut for",
        ),
        (None, "mined", "row 'mined' of which table? Name it with --table"),
    ],
)
def test_an_unknown_name_is_one_sentence(grid: Grid, table: str, row: str, sentence: str):
    with pytest.raises(UnimeError) as caught:
        grid.cells(table, row)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tables": {"t": {"rows": {"a": {"set": {"contrats": {"x": 1}}}}}}}, "unknown step in table 't', row 'a': 'contrats'"),
        ({"tables": {"t": {"rows": {"a": {"like": ["noize"]}}}}}, "unknown variant 'noize'; did you mean 'noise'?"),
        ({"tables": {"t": {"against": ["c"]}}}, "unknown row that 'a' is compared with: 'c'"),
        ({"tables": {"t": {"above": True}}}, "rows compared with those `above` them take no `against`"),
        ({"tables": {"t": {"curve": {"rows": ["a", "c"]}}}}, "unknown row of a curve: 'c'"),
        ({"tables": {"t": {"rows": {"a": {"titel": "x"}}}}}, "tables.t.rows.a.titel: no such key; did you mean 'title'?"),
        ({"tables": {"t": {"rows": {"b": {"figures_only": True}}}}}, "row 'b' is compared with 'a', but figures alone have no queries"),
        ({"tables": {"t": {"rows": {"a": {"figures_only": True, "against": []}, "b": {"against": []}, "both": {"against": []}}, "against": []}}}, "table 't', row 'a': figures_only, and no figures"),
        ({"prepare": [{"makes": "x", "command": ["y"], "steps": ["trian"]}]}, "unknown step that something is prepared for: 'trian'; did you mean 'train'?"),
        ({"seeds": [0, 1]}, "seed 0 is for tuning (dev) and cannot be a test seed"),
        ({"tables": {"t": {"rows": {"a": {"figures": {"n": "eval.json"}}}}}}, "is not of the form STEP/FILE.json:dotted.key"),
    ],
)  # fmt: skip
def test_a_wrong_grid_is_one_sentence(tmp_path: Path, change: dict[str, Any], sentence: str):
    with pytest.raises(UnimeError) as caught:
        small_grid(tmp_path, change)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("reads", "sentence"),
    [
        ("${wrld}", "unknown step that 'train' reads: 'wrld'; did you mean 'world'?"),
        ("${eval}", "step 'eval' reads its own output: eval <- train <- eval"),
    ],
)
def test_a_step_that_cannot_be_read(tmp_path: Path, reads: str, sentence: str):
    grid = small_grid(tmp_path, {"steps": {"train": {"set": {"data": reads}}}})
    with pytest.raises(UnimeError) as caught:
        chain_of(grid, Cell("t", "a", 1))
    assert sentence in str(caught.value)


def test_a_step_of_the_dev_seed_is_made_once_for_all_seeds(tmp_path: Path):
    taught = {
        "recipe": str(tmp_path / "contrast.yaml"),
        "seconds": 5,
        "set": {"data": "${world}"},
        "of_dev": True,
    }
    grid = small_grid(
        tmp_path, {"steps": {"taught": taught, "train": {"set": {"start": "${taught}"}}}}
    )
    by_name = [
        {step.name: step for step in chain_of(grid, Cell("t", "a", seed))}
        for seed in (1, 2, grid.dev)
    ]
    taught_of = "taught, seed 0"
    assert by_name[0][taught_of] == by_name[1][taught_of]
    assert by_name[0][taught_of].reads == ("world, seed 0",)
    assert by_name[0]["train"].reads == ("world", taught_of)
    assert by_name[0]["world"].folder != by_name[0]["world, seed 0"].folder
    assert list(by_name[2]) == ["world", "taught", "train", "eval"]
    assert by_name[2]["taught"].folder == by_name[0][taught_of].folder


def folders(grid: Grid, row: str, seed: int = 1) -> dict[str, Path]:
    return {step.name: step.folder for step in chain_of(grid, Cell("t", row, seed))}


def test_cells_share_the_steps_that_are_the_same(tmp_path: Path):
    grid = small_grid(tmp_path)
    one, two = folders(grid, "a"), folders(grid, "b")
    assert list(one) == ["world", "train", "eval"]
    assert one["world"] == two["world"]
    # What is changed, and all that reads it.
    assert one["train"] != two["train"]
    assert one["eval"] != two["eval"]
    assert not set(one.values()) & set(folders(grid, "a", 2).values())


def test_a_folders_name_follows_the_recipe_too(tmp_path: Path):
    grid = small_grid(tmp_path)
    before = folders(grid, "a")
    recipe = Path(grid.steps["train"].recipe)
    recipe.write_text("# A comment changes nothing.\n" + recipe.read_text())
    from research.evidence.chain import _hash

    _hash.cache_clear()
    assert folders(grid, "a") == before
    recipe.write_text(recipe.read_text() + "rate: 2\n")
    _hash.cache_clear()
    after = folders(grid, "a")
    assert after["world"] == before["world"]
    assert after["train"] != before["train"]
    assert after["eval"] != before["eval"]


def test_later_changes_win(tmp_path: Path):
    grid = small_grid(tmp_path)
    assert grid.change("t", "both").set["train"] == {"noise": 3, "lr": 1}
    words = chain_of(grid, Cell("t", "both", 1))[1].words
    assert "noise=3" in words
    assert "lr=1" in words
