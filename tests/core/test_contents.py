"""A finished output is read as it was written, or not at all."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from unime.cli import app
from unime.core import contents, files
from unime.core.config import Recipe
from unime.core.contents import fingerprint, verify_files
from unime.core.errors import DamagedError, OutputError, UnimeError
from unime.core.provenance import open_output


class Toy(Recipe):
    value: int = 1


def recipe_of(folder: Path) -> Toy:
    return Toy(stage="toy", output=str(folder))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A finished output with a table, a model and a file of times."""
    out = open_output(recipe_of(tmp_path / "out"), {})
    files.write_text(out.file("table.parquet"), "rows")
    with files.atomic_folder(out.file("model")) as folder:
        (folder / "weights").write_bytes(b"weights")
        (folder / "README.md").write_text("a card")
    files.append_lines(out.file("speed.jsonl"), ["1"])
    out.facts(steps={3: "a number as a key"})
    out.finish()
    return tmp_path / "out"


def test_the_manifest_lists_every_file_and_run_json_those_with_times(output: Path):
    manifest, run = (files.read_json(output / name) for name in ("manifest.json", "run.json"))
    assert list(manifest["files"]) == ["model/README.md", "model/weights", "table.parquet"]
    assert manifest["files"]["table.parquet"] == [
        4,
        contents.hashes.content_hash(output / "table.parquet"),
    ]
    assert list(run["files"]) == ["speed.jsonl"]
    assert sorted(p.name for p in output.iterdir()) == [
        "manifest.json", "model", "run.json", "speed.jsonl", "table.parquet"
    ]  # fmt: skip


def test_a_truncated_table_is_not_up_to_date_and_no_input(output: Path):
    (output / "table.parquet").write_text("row")
    sentence = (
        f"{output} was changed since it was finished:\n"
        "  table.parquet has 3 bytes, 4 were written\n"
        "put these files back, or run its stage again with --restart"
    )
    for read in (lambda: open_output(recipe_of(output), {}), lambda: fingerprint(output)):
        with pytest.raises(OutputError) as error:
            read()
        assert str(error.value) == sentence
    # The model in it is whole.
    assert fingerprint(output / "model").startswith("manifest:")


def test_a_deleted_file_is_named_and_a_card_may_change(output: Path):
    (output / "model/README.md").write_text("results were added")
    fingerprint(output)
    (output / "model/weights").unlink()
    with pytest.raises(OutputError, match="model/weights is gone"):
        fingerprint(output / "model")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.data())
def test_any_flipped_bit_of_any_file_is_an_error_or_nothing(output: Path, data: st.DataObject):
    before = fingerprint(output)
    names = ["manifest.json", "run.json", "table.parquet", "model/weights", "speed.jsonl"]
    path = output / data.draw(st.sampled_from(names))
    whole = path.read_bytes()
    place, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
    try:
        found = fingerprint(output)
    except UnimeError:
        return
    finally:
        path.write_bytes(whole)
    # The manifest tells contents apart by its own bytes: even white space makes another input.
    assert path.name in ("run.json", "manifest.json")
    assert found == before or path.name == "manifest.json"


def test_a_manifest_that_says_something_else_is_damaged(output: Path):
    text = (output / "manifest.json").read_text()
    (output / "manifest.json").write_text(text.replace('"value": 1', '"value": 2'))
    with pytest.raises(DamagedError, match=r"manifest\.json was changed since it was written"):
        open_output(recipe_of(output), {})
    (output / "manifest.json").write_text("{")
    with pytest.raises(DamagedError, match=r"manifest\.json is damaged, it is not JSON: "):
        fingerprint(output)


def test_an_output_of_before_hashes_is_read_and_said_to_be_unchecked(
    output: Path, caplog: pytest.LogCaptureFixture
):
    manifest = files.read_json(output / "manifest.json")
    del manifest["files"], manifest["checksum"]
    files.write_json(output / "manifest.json", manifest)
    with caplog.at_level(logging.INFO, logger="unime"):
        assert open_output(recipe_of(output), {}).up_to_date
        fingerprint(output)
    assert caplog.messages == [
        f"{output} was written before outputs had hashes of their files; they are not checked"
    ]


def test_verify_files_reads_all_outputs_below_a_folder(output: Path):
    done = CliRunner().invoke(app, ["verify", "--files", str(output.parent)])
    assert done.stdout == f"{output}: 3 files as they were written\n"
    (output / "table.parquet").write_text("r0ws")
    with pytest.raises(OutputError, match="1 of 1 outputs are damaged\n.* was changed since"):
        verify_files(output.parent)
    with pytest.raises(OutputError, match="holds no finished output"):
        verify_files(output / "model")
