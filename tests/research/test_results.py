"""Every measured number that is committed says what made it."""

from __future__ import annotations

from pathlib import Path

import pytest

from unime.core import files

RESULTS = Path(__file__).resolve().parents[2] / "research" / "results"
LOOKS = RESULTS / "mini" / "looks.json"
"""What was looked at when: no measured number."""
MEASURED = [
    path
    for path in sorted(RESULTS.rglob("*.json"))
    if path != LOOKS and not path.name.endswith(".manifest.json")
]


assert MEASURED


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: str(path.relative_to(RESULTS)))
def test_a_result_names_its_recipe_and_the_hashes_of_what_was_read(path: Path):
    result = files.read_json(path)
    if "steps" in result:
        assert all(step["recipe"] and len(step["manifest"]) == 64 for step in result["steps"])
        return
    beside = path.with_suffix(".manifest.json")
    manifest = files.read_json(beside) if beside.exists() else result["manifest"]
    assert manifest["recipe"] and manifest["inputs"]
    assert all(":" in said for said in manifest["inputs"].values())
