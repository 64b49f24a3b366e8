"""YAML that people write: bounded, plain, and what is pasted into it comes back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.core.test_config import Small, write
from unime.core.config import load_recipe, read_values
from unime.core.errors import DataError, PromptError, RecipeError
from unime.core.yaml_files import fill_run, keep_run, parse_yaml, quoted
from unime.data.readers.instructions import known_tasks
from unime.models.prompts import load_judge_prompt, load_prompt

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = LAUGHS.replace("[x,x,x,x,x,x,x,x,x]", "{k: 1}").replace("[*", "{<<: [*").replace("]", "]}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (LAUGHS, "line 6: more than 100000 values when aliases are followed"),
        (MERGED, "line 6: more than 100000 values when aliases are followed"),
        ("[" * 200_000, "line 1: nested deeper than 50 levels"),
        ("- " * 100_000, "line 1: nested deeper than 50 levels"),
        ("a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(200)), "line 50: nested deeper"),
        ("a: &a [*a]", "line 1: an alias stands inside what it names"),
        ("a: !!python/object/apply:os.system [x]", "the tag tag:yaml.org,2002:python/object/apply:os.system is unknown here"),
        ("a: !!binary x", "the tag tag:yaml.org,2002:binary is unknown here"),
        ("a: 1\nb: {c: 1,\n  c: 2}", "line 3: the key 'c' stands twice, first in line 2"),
        ("2024: 1", "line 1: the key 2024 is no text; put it in quotes"),
        ("no: 1", "line 1: the key no is no text; put it in quotes"),
        ("[1]: 1", "the key a list or mapping is no text"),
        ("a: .nan", "line 1: .nan is no number, not finite, or too large"),
        ("a: -.inf", "line 1: -.inf is no number, not finite, or too large"),
        ("a: 1.0e+999", "line 1: 1.0e+999 is no number, not finite, or too large"),
        ("a: " + "9" * 5000, "is no number, not finite, or too large"),
        ("a: !!int x", "line 1: x is no number, not finite, or too large"),
        ("a: !!bool 3", "holds a value that cannot be read"),
        ("a: *b", "found undefined alias 'b'"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: \x00", "special characters are not allowed"),
    ],
)  # fmt: skip
def test_what_no_recipe_means_is_one_sentence_at_once(text: str, sentence: str):
    start = time.monotonic()
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "r.yaml")
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 and time.monotonic() - start < 30


def test_merge_keys_aliases_dates_and_clock_times():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\nd: 2024-05-01\ne: 12:30"
    assert parse_yaml(text, "r.yaml") == {
        "a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"x": 1, "y": 2}] * 2,
        "d": "2024-05-01", "e": "12:30",
    }  # fmt: skip


AWKWARD = st.sampled_from(
    ["2024", "no", "2024-05-01", "1e3", "~", "a: b", "#x", "", "${run}", "$$${run}x", "a\nb", "{a}",
     "'\"\\", "- a", "!!x", "a, b/x", "a #1/x", "\u2028", "\ufeff", "\U0001f600", "\udc80", "%", "..."]
)  # fmt: skip


@given(st.one_of(AWKWARD, st.text()))
def test_what_is_pasted_comes_back(text: str):
    pasted = f"# {quoted(text)} in a comment\na: {{b: {quoted(text)}, c: 1}}\n"
    assert parse_yaml(pasted, "r.yaml") == {"a": {"b": text, "c": 1}}
    assert yaml.safe_load(pasted)["a"]["b"] == text
    assert fill_run(keep_run(text), "runs/x") == text


def test_run_is_put_in_and_can_be_written():
    assert fill_run("${run}/a $${run} $$${run}", "R") == "R/a ${run} $R"


def test_recipes_that_extend_each_other(tmp_path: Path):
    one = write(tmp_path, "extends: b.yaml\nstage: s", "a.yaml")
    write(tmp_path, "extends: a.yaml", "b.yaml")
    with pytest.raises(RecipeError, match=r"in a circle: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        read_values(one)
    for number in range(20):
        write(tmp_path, f"extends: {number + 1}.yaml", f"{number}.yaml")
    with pytest.raises(RecipeError, match="more than 8 recipes extend each other"):
        read_values(one.with_name("0.yaml"))
    with pytest.raises(RecipeError, match="extends: expected a recipe's file name, got 5"):
        read_values(write(tmp_path, "extends: 5"))


def test_files_that_are_no_text(tmp_path: Path):
    path = write(tmp_path, "")
    path.write_bytes(b"stage: \xff\xfe")
    with pytest.raises(RecipeError, match="is not UTF-8 text"):
        read_values(path)
    path.write_text("# " + "x" * 300_000)
    with pytest.raises(RecipeError, match="has 300002 bytes, expected at most 262144"):
        read_values(path)
    with pytest.raises(RecipeError, match="is not a file"):
        read_values(tmp_path)
    with pytest.raises(RecipeError, match="no recipe"):
        read_values("x" * 5000 + ".yaml")
    path.write_bytes(b"\xef\xbb\xbfstage: s")
    assert read_values(path)["stage"] == "s"


@pytest.mark.parametrize(
    ("text", "override", "sentence"),
    [
        ("part: {learning_rate: 'nan'}", "steps=1", "part.learning_rate: Input should be a finite number"),
        ("part: {learning_rate: '1e999'}", "steps=1", "part.learning_rate: Input should be a finite number"),
        ("part: {learning_rate: yes}", "steps=1", "part.learning_rate: Value error, Input should be a number (got True)"),
        ("steps: '99999999999999999999'", "part={}", "steps: Value error, Input should be at most 9223372036854775807 in size"),
        ("steps: 1", "part.learning_rate=.inf", ".inf is no number, not finite, or too large"),
        ("steps: 1", ".".join("a" * 100) + "=1", "is nested deeper than 50 levels"),
        ("steps: " + "x" * 5000, "part={}", "(got 'xxx"),
    ],
)  # fmt: skip
def test_numbers_are_numbers(tmp_path: Path, text: str, override: str, sentence: str):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, f"stage: s\n{text}"), Small, [override])
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_prompt_files_are_read_by_the_same_reader(tmp_path: Path):
    prompt = tmp_path / "p.yaml"
    prompt.write_text(LAUGHS)
    with pytest.raises(PromptError, match="more than 100000 values"):
        load_prompt(str(prompt))
    judge = Path("prompts/judge/yes_no.v1.yaml").read_text()
    prompt.write_text(judge.replace('["Yes", "yes", "YES"]', '"Yes"'))
    with pytest.raises(
        PromptError, match=r"level 'answers\.yes' must be a list of texts, got 'Yes'"
    ):
        load_judge_prompt(str(prompt))


def test_notes_beside_data_are_read_by_the_same_reader(tmp_path: Path):
    notes = tmp_path / "instructions.json"
    notes.write_text("[" * 100_000)
    with pytest.raises(DataError, match="is nested too deeply to be read"):
        known_tasks([tmp_path])
    notes.write_text('{"t": {"query_instruction": "a"}, "t": {}}')
    with pytest.raises(DataError, match="is not JSON: the key 't' stands twice"):
        known_tasks([tmp_path])
    notes.write_text('{"t": {"query_instruction": 5}}')
    with pytest.raises(DataError, match="is not of the form"):
        known_tasks([tmp_path])
