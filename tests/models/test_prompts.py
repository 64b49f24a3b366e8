"""Prompt files: released ones never change, mistakes are named, renderings are what they were."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from unime.core.errors import PromptError
from unime.models import prompts
from unime.models.prompts import (
    fill,
    load_judge_prompt,
    load_list_prompt,
    load_prompt,
    locked,
    prompt_ids,
)

GOOD = """about: a test
fields: [instruction, text]
system: "Be brief."
task: "{instruction}"
kind: {text: "{text}", image: "", image_text: "{text}"}
"""


def test_every_file_is_locked_and_unchanged() -> None:
    found = {
        name: hashlib.sha256((prompts.FOLDER / f"{name}.yaml").read_bytes()).hexdigest()
        for name in prompt_ids()
    }
    assert found == locked()
    assert len(found) >= 4


def test_every_file_loads_and_holds_no_image_token() -> None:
    for name in prompt_ids():
        load = {"judge": load_judge_prompt, "rerank": load_list_prompt}
        prompt = load.get(name.partition("/")[0], load_prompt)(name)
        assert prompt.hash == locked()[name]
        assert "<" not in str(prompt.levels)


def test_changed_released_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "embed").mkdir()
    changed = (prompts.FOLDER / "embed/plain.v1.yaml").read_text() + "\n"
    (tmp_path / "embed/plain.v1.yaml").write_text(changed)
    (tmp_path / "LOCK").write_text((prompts.FOLDER / "LOCK").read_text())
    monkeypatch.setattr(prompts, "FOLDER", tmp_path)
    with pytest.raises(PromptError, match="changed after its release"):
        load_prompt("embed/plain.v1")


def test_renderings() -> None:
    plain = load_prompt("embed/plain.v1")
    assert plain.render("query", "image_text", "two dogs", "Find it.") == (
        None,
        "Find it.\ntwo dogs",
    )
    assert plain.render("target", "image") == (None, "")
    one_word = load_prompt("embed/one_word.v1")
    system, user = one_word.render("target", "text", "two dogs")
    assert system is None
    assert user.startswith("two dogs\n") and "single word" in user
    hierarchical = load_prompt("embed/hierarchical.v1")
    query, target = (hierarchical.render(side, "text", "x", "do") for side in ("query", "target"))
    assert query.system != target.system
    assert query.user == target.user == "do\nx"


def test_judge_rendering_puts_the_query_first_and_apart() -> None:
    prompt = load_judge_prompt("judge/yes_no.v1")
    assert set(prompt.yes).isdisjoint(prompt.no)
    one = prompt.render("Find it.", ("red {ring}", True), ("", True))
    other = prompt.render("Find it.", ("red {ring}", True), ("a blue square", False))
    assert one.query == other.query
    assert [part["type"] for part in one.query] == ["image", "text"]
    assert "red {ring}" in one.query[1]["text"] and "Find it." in one.query[1]["text"]
    assert [part["type"] for part in one.candidate] == ["image", "text", "text"]
    assert "a blue square" in other.candidate[0]["text"]


def test_a_list_names_its_candidates_in_order() -> None:
    prompt = load_list_prompt("rerank/choose.v1")
    system, query, candidates = prompt.render("Find it.", ("q", True), [("one", False), ("", True)])
    assert system is not None and "letter" in system
    assert query == [
        {"type": "image"},
        {"type": "text", "text": "Task: Find it.\nQuery: the image above, with the text: q"},
    ]
    assert [part.get("text", "IMAGE") for part in candidates] == [
        "\n(A) ", "one", "\n(B) ", "IMAGE", "the image above",
        "\nWhich candidate is what the query asks for? Answer with its letter.",
    ]  # fmt: skip


def test_values_are_put_in_as_they_are() -> None:
    assert fill("{text}!", {"text": "{text} {0} }{"}) == "{text} {0} }{!"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{text}", "{txt}"), "level 'kind.text': no field 'txt'; did you mean 'text'"),
        (('"Be brief."', '"Be {instruction}."'), "level 'system': no field 'instruction'"),
        (("{instruction}", "{instruction!r}"), "level 'task': .* is more than a name"),
        (("{instruction}", "{instruction"), "level 'task'"),
        (("task:", "tsak:"), "no level 'tsak'; did you mean 'task'"),
        (('task: "{instruction}"\n', ""), "level 'task' is missing"),
        (('image: "",', ""), "level 'kind' must hold exactly"),
        (('"Be brief."', "{query: a}"), "level 'system' must be a text, or one each"),
        (("about:", "about: ["), "is not YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(*change, 1))
    with pytest.raises(PromptError, match=message):
        load_prompt(str(path))


def test_own_file_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert load_prompt(str(path)).render("query", "text", "x", "do") == ("Be brief.", "do\nx")


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(PromptError, match="did you mean 'embed/hierarchical.v1'"):
        load_prompt("embed/hierachical.v1")
    with pytest.raises(PromptError, match="did you mean 'judge/yes_no.v1'"):
        load_judge_prompt("judge/yesno.v1")


def test_prompts_need_no_torch() -> None:
    code = (
        "import sys; from unime.models.prompts import load_prompt; load_prompt('embed/plain.v1');"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
