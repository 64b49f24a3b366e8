"""Known instructions come off the text; unknown ones stay in it and are counted."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.readers.sources import json_lines, rows_of
from unime.core.errors import DataError
from unime.data.readers.instructions import Instructions, Known, known_tasks

TABLE = known_tasks([])
EXAMPLES = {
    # (task, side, text): (instruction, content)
    ("OK-VQA", "query", "<|image_1|>\nRepresent the given image with the following question: Who?\n"):
        ("Represent the given image with the following question:", "Who?"),
    ("HatefulMemes", "query", "<|image_1|>\nRepresent the given image for binary classification to "
     "determine whether it constitutes hateful speech or not\n"):
        ("Represent the given image for binary classification to determine whether it constitutes "
         "hateful speech or not", ""),
    ("MSCOCO", "query", '<|image_1|>\nSelect the portion of the image that isolates the object '
     'labeled as "bird"\n'):
        ("Select the portion of the image that isolates the object labeled as", '"bird"'),
    ("VisualNews_t2i", "query", "Retrieve an image of this news caption. US goal. Again: yes.\n"):
        ("Retrieve an image of this news caption.", "US goal. Again: yes."),
    ("VisDial", "target", "<|image_1|>\nRepresent the given image\n"):
        ("Represent the given image", ""),
    ("EDIS", "target", "<|image_1|>\nRepresent the given image with related text information: A."):
        ("Represent the given image with related text information:", "A."),
    # A known instruction that only begins another one is not cut out of it.
    ("VisDial", "target", "Represent the given image with care"):
        ("", "Represent the given image with care"),
    ("ImageNet_1K", "target", "tench"): ("", "tench"),
    ("nobody's", "query", "<|image_1|> <|image_1|>\nNever heard of: this"):
        ("", "Never heard of: this"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(EXAMPLES))
def test_split(case: tuple[str, str, str]) -> None:
    task, side, text = case
    assert Instructions(TABLE).split(text, task, side) == EXAMPLES[case]  # type: ignore[arg-type]


KNOWN = st.sampled_from([(n, s) for n, k in TABLE.items() for s in ("query", "target")
                         if getattr(k, s)])  # fmt: skip
CONTENT = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)


@given(KNOWN, CONTENT, st.sampled_from([":", "."]), st.booleans())
def test_every_known_instruction_comes_off_whole(
    case: tuple[str, str], content: str, mark: str, placeholder: bool
) -> None:
    task, side = case
    for wording in getattr(TABLE[task], side):
        text = f"{'<|image_1|>' * placeholder}\n{wording}{mark} {content}\n"
        known = Instructions(TABLE)
        assert known.split(text, task, side) == (f"{wording}{mark}", content)  # type: ignore[arg-type]
        assert not known.unsplit


def test_what_stays_whole_is_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = {
        "qry": "In other words: Who?",
        "qry_image_path": "",
        "pos_text": "I",
        "pos_image_path": "",
    }
    json_lines(tmp_path / "OK-VQA.jsonl", [row, row])
    known = Instructions(TABLE)
    assert known.split(row["qry"], "OK-VQA", "query") == ("", row["qry"])
    known.split(row["qry"], "OK-VQA", "query")
    with caplog.at_level(logging.INFO, logger="unime"):
        known.report()
    assert [r.message for r in caplog.records] == [
        "task OK-VQA: 2 query texts begin with no known instruction and stay whole; if they carry "
        "one, name it as query_instruction"
    ]


def test_an_instructions_file_near_the_data_goes_first(tmp_path: Path) -> None:
    row = {
        "qry": "Who is it? Me.",
        "qry_image_path": "",
        "pos_text": "Answer: I",
        "pos_image_path": "",
    }
    json_lines(tmp_path / "train/OK-VQA.jsonl", [row])
    tasks = {"OK-VQA": {"query_instruction": ["Who", "Who is it?"], "target_instruction": "Answer"}}
    (tmp_path / "instructions.json").write_text(json.dumps(tasks))
    (read,) = rows_of(tmp_path, reader="mmeb_train", path="train/OK-VQA.jsonl")
    pair = read.pairs[0]
    assert (pair.query_instruction, pair.query.text) == ("Who is it?", "Me.")
    assert (pair.target_instruction, pair.positives[0].text) == ("Answer:", "I")


def test_a_recipes_instruction_is_always_the_field(tmp_path: Path) -> None:
    rows = [{"query": "q", "pos": "p"}, {"query": "Find it: q", "pos": "p"}]
    json_lines(tmp_path / "fe.jsonl", rows)
    read = rows_of(tmp_path, reader="flagembedding", path="fe.jsonl", query_instruction="Find it")
    found = [(row.pairs[0].query_instruction, row.pairs[0].query.text) for row in read]
    assert found == [("Find it", "q"), ("Find it:", "q")]


def test_a_broken_instructions_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "instructions.json").write_text('["no table"]')
    with pytest.raises(DataError, match=r"instructions.json is not of the form \{task: "):
        known_tasks([tmp_path])


def test_a_task_is_known_by_its_instruction_only_if_no_other_has_it() -> None:
    known = Instructions({"a": Known(query=("Find it",)), "b": Known(query=("Ask", "Tell")),
                          "c": Known(query=("Tell",))})  # fmt: skip
    assert known.task_of("<|image_1|>\nFind it: x") == "a"
    assert known.task_of("Tell: x") is None
    assert known.task_of("Sing: x") is None
