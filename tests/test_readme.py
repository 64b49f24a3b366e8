"""README's tables are made from committed files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unime.core import files
from unime.eval.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
TABLES = re.findall(
    r"<!-- table: (\S+) -->\n(.*?)<!-- end -->", (ROOT / "README.md").read_text(), re.DOTALL
)


def test_there_are_tables():
    assert TABLES


@pytest.mark.parametrize(("path", "table"), TABLES, ids=[path for path, _ in TABLES])
def test_a_table_says_what_its_file_says(path: str, table: str):
    assert table == markdown_table(ROOT / path)


@pytest.mark.parametrize("path", [path for path, _ in TABLES])
def test_a_table_has_the_manifest_of_the_evaluation_that_made_it(path: str):
    manifest = files.read_json((ROOT / path).with_suffix(".manifest.json"))
    names = [row["name"] for row in files.read_json(ROOT / path)["rows"]]
    assert names == [model["name"] for model in manifest["recipe"]["models"]]
    assert {f"model {name}" for name in names} <= manifest["inputs"].keys()
