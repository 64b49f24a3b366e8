"""Recipes: what a user may write, and the sentence for what they may not."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from unime.core.config import Recipe, Section, load_recipe, read_values
from unime.core.errors import RecipeError, did_you_mean, lookup


class Part(Section):
    learning_rate: float = 1e-4
    weights: list[float] = Field(default_factory=list)


class Small(Recipe):
    steps: int
    part: Part = Part()
    losses: list[Part] = Field(default_factory=list)


def write(folder: Path, text: str, name: str = "2_small.yaml") -> Path:
    path = folder / "recipes" / "toy" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_output_and_run_follow_the_folder(tmp_path: Path):
    recipe = load_recipe(write(tmp_path, "stage: small\nsteps: 3\n"), Small)
    assert recipe.output == "runs/toy/2_small"
    moved = load_recipe(write(tmp_path, "stage: small\nsteps: 3\n"), Small, ["run=runs/other"])
    assert moved.output == "runs/other/2_small"


def test_extends_changes_only_what_is_named(tmp_path: Path):
    write(
        tmp_path, "stage: small\nsteps: 3\npart: {learning_rate: 0.5, weights: [1, 2]}\n", "a.yaml"
    )
    child = write(tmp_path, "extends: a.yaml\npart: {weights: [3]}\n", "b.yaml")
    recipe = load_recipe(child, Small)
    assert (recipe.steps, recipe.part.learning_rate, recipe.part.weights) == (3, 0.5, [3.0])


def test_overrides_reach_into_sections_and_lists(tmp_path: Path):
    path = write(tmp_path, "stage: small\nsteps: 3\nlosses: [{}, {}]\n")
    overrides = ["part.learning_rate=1e-5", "losses.1.learning_rate=2", "steps=7"]
    recipe = load_recipe(path, Small, overrides)
    assert recipe.part.learning_rate == 1e-5
    assert [loss.learning_rate for loss in recipe.losses] == [1e-4, 2.0]
    assert recipe.steps == 7


@pytest.mark.parametrize(
    ("text", "overrides", "sentence"),
    [
        ("stage: s\nsteps: 3\npart: {learning_rat: 1}", [], "part.learning_rat: no such key; did you mean 'learning_rate'?"),
        ("stage: s\nstep: 3", [], "step: no such key; did you mean 'steps'?"),
        ("stage: s", [], "steps: missing; it has no default"),
        ("stage: s\nsteps: many", [], "steps: Input should be a valid integer, unable to parse string as an integer (got 'many')"),
        ("stage: s\nsteps: 1\nlosses: [{}]", ["losses.4.weights=1"], "override 'losses.4.weights': expected a number below 1, got '4'"),
        ("stage: s\nsteps: 1", ["steps"], "override 'steps' is not of the form dotted.key=value"),
        ("- 1", [], "holds list, expected keys and values"),
        ("a: [", [], "is not YAML"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_sentence(
    tmp_path: Path, text: str, overrides: list[str], sentence: str
):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text), Small, overrides)
    assert sentence in str(caught.value)


def test_a_missing_recipe_names_its_neighbour(tmp_path: Path):
    path = write(tmp_path, "stage: s")
    with pytest.raises(RecipeError, match=r"no recipe .*did you mean '2_small\.yaml'"):
        load_recipe(path.with_name("2_smal.yaml"), Small)


def test_names_in_tables():
    assert did_you_mean("info_nec", ["info_nce", "soft_label"]) == "; did you mean 'info_nce'?"
    with pytest.raises(RecipeError, match="unknown loss 'x'; known: a, b"):
        lookup({"b": 1, "a": 2}, "x", "loss")


def test_an_override_changes_one_place_though_yaml_names_it_twice(tmp_path: Path):
    path = tmp_path / "aliased.yaml"
    path.write_text("stage: x\nfirst: &shared {model: {id: a}}\nsecond: *shared\n")
    values = read_values(path, ["second.model.id=b", "second.extra=1"])
    assert values["first"] == {"model": {"id": "a"}}
    assert values["second"] == {"model": {"id": "b"}, "extra": 1}
