"""An unfinished output is resumed from the files that were written, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unime.core import files
from unime.core.errors import OutputError
from unime.core.journal import NAME, Journal, add_journal, remove_journal


class Killed(BaseException):
    pass


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """An output that is being filled."""
    folder = tmp_path / "out"
    folder.mkdir()
    add_journal(folder)
    yield folder
    remove_journal(folder)


def check(folder: Path) -> None:
    """Resume as another process would."""
    Journal(folder).check()


def write(folder: Path) -> None:
    files.write_text(folder / "a.txt", "one")
    with files.atomic_folder(folder / "model") as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep/weights").write_bytes(b"weights")
        (temporary / "config").write_bytes(b"config")


def test_what_was_written_is_accepted_and_what_changed_is_named(out: Path):
    write(out)
    check(out)
    (out / "a.txt").write_text("two")
    (out / "model/deep/weights").unlink()
    (out / "model/config").write_text("changed")
    with pytest.raises(OutputError) as error:
        check(out)
    assert str(error.value) == (
        f"{out} was changed since it was written:\n"
        "  a.txt: has other contents than were written\n"
        "  model/config: has 7 bytes, 6 were written\n"
        "  model/deep/weights: is gone\n"
        "put these files back, or --restart to move this output aside and begin anew"
    )


def test_removed_and_rewritten_files_are_accepted(out: Path):
    write(out)
    files.write_text(out / "a.txt", "two")
    files.remove_folder(out / "model")
    files.write_text(out / "b.txt", "b")
    files.remove_file(out / "b.txt")
    check(out)
    (out / "a.txt").write_text("one")
    with pytest.raises(OutputError, match=r"a\.txt: has other contents"):
        check(out)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", ["a.txt", "model"])
def test_a_kill_beside_a_change_leaves_old_and_new_acceptable_until_the_next_check(
    out: Path, monkeypatch: pytest.MonkeyPatch, moment: str, name: str
):
    write(out)

    def kill(said: str) -> None:
        if said == f"{moment} {name}":
            raise Killed

    monkeypatch.setattr(files, "on_commit", kill)
    with pytest.raises(Killed):
        write(out) if name == "model" else files.write_text(out / "a.txt", "two")
    monkeypatch.setattr(files, "on_commit", None)
    check(out)
    # From here on it is certain which of the two it is.
    path = out / "a.txt" if name == "a.txt" else out / "model/config"
    path.unlink()
    with pytest.raises(OutputError, match="is gone"):
        check(out)


def test_a_kill_while_a_folder_is_filled_leaves_nothing_to_miss(out: Path):
    # As `files.atomic_folder` names it; a killed run removes nothing.
    files.write_json(out / ".model.0a1b2c3d.partial/unime.json", {})
    files.sweep_partials(out)
    check(out)
    assert Journal(out).written() == {}


def test_a_log_that_grows_and_folders_with_checks_of_their_own_are_not_compared(out: Path):
    files.write_text(out / "train.jsonl", "1\n")
    files.append_lines(out / "train.jsonl", ["2"])
    files.write_text(out / "checkpoints/1/complete.json", "{}")
    (out / "checkpoints/1/complete.json").unlink()
    check(out)
    files.write_text(out / "train.jsonl", "1\n")  # cut, as after a resume
    files.append_lines(out / "train.jsonl", ["3"])
    check(out)


def test_a_torn_line_is_dropped_and_a_damaged_one_is_an_error(out: Path):
    write(out)
    with (out / NAME).open("ab") as journal:
        journal.write(b'{"id": "1')
    check(out)
    files.write_text(out / "b.txt", "b")
    check(out)
    data = (out / NAME).read_bytes()
    (out / NAME).write_bytes(data.replace(b'"name"', b'"nama"', 1))
    with pytest.raises(OutputError, match=r"journal.jsonl, line 1 is damaged .* --restart moves"):
        check(out)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.data())
def test_any_flipped_bit_of_any_file_is_an_error(out: Path, data: st.DataObject):
    if not (out / "a.txt").exists():
        write(out)
    paths = [out / "a.txt", out / "model/config", out / "model/deep/weights", out / NAME]
    path = data.draw(st.sampled_from(paths))
    before = path.read_bytes()
    place = data.draw(st.integers(0, len(before) - 1))
    flipped = before[place] ^ 1 << data.draw(st.integers(0, 7))
    path.write_bytes(before[:place] + bytes([flipped]) + before[place + 1 :])
    try:
        if path.name == NAME:
            # Of the journal: an error, or it says the same (white space, an unused id).
            try:
                check(out)
            except OutputError:
                return
            assert (
                Journal(out).written().items()
                <= {
                    name: ((out / name).stat().st_size, _hash(out / name))
                    for name in ("a.txt", "model/config", "model/deep/weights")
                }.items()
            )
        else:
            with pytest.raises(OutputError, match="was changed since"):
                check(out)
    finally:
        path.write_bytes(before)


def _hash(path: Path) -> str:
    from unime.core.hashes import content_hash

    return content_hash(path, fresh=True)
