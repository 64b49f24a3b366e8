"""What an unfinished output should hold: each file's size and hash, noted before it is in place.

A resumed run goes on from files that an earlier run left. The journal says whether they are still
the ones that were written: a damaged or deleted file is an error then, not another result. A change
has two lines, one before it (with what will be there) and one after it, so that a run killed between
the two leaves both the old and the new state acceptable.

    {"id": 1f, "name": "model", "files": {"model/config.json": [512, "9c.."]}, "whole": true}
    {"done": 1f}
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from unime.core.errors import OutputError
from unime.core.hashes import content_hash

NAME = "journal.jsonl"

SELF_CHECKED = ("checkpoints",)
"""Folders of an unfinished output that have hashes of their own (`unime.train.checkpoints`)."""

VARIABLE = "UNIME_JOURNALS"
"""The environment variable that lists the outputs being filled, in JSON: worker processes note what they write."""

State = tuple[int, str] | None
"""Size and hash of a file; None where there is none."""


def journals() -> list[Journal]:
    """Return the journals of the outputs that this process, or its parent, fills."""
    return [_journal(folder) for folder in _folders()]


def add_journal(folder: Path) -> None:
    """Note every change below a folder in its journal from now on, in child processes too."""
    os.environ[VARIABLE] = json.dumps(list(dict.fromkeys([*_folders(), _absolute(folder)])))


def remove_journal(folder: Path) -> None:
    """Note no more changes below a folder."""
    left = [other for other in _folders() if other != _absolute(folder)]
    os.environ[VARIABLE] = json.dumps(left)


@lru_cache(maxsize=64)
def _journal(folder: str) -> Journal:
    return Journal(Path(folder))


def _folders() -> list[str]:
    return json.loads(os.environ.get(VARIABLE, "[]"))


def _absolute(folder: Path) -> str:
    # Not resolved: files are named by the path they are written by.
    return os.path.abspath(folder)  # noqa: PTH100


class Journal:
    """The journal of one output folder.

    Args:
        folder: the output.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(_absolute(folder))
        self._forgotten: set[str] = set()
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The journal's file."""
        return self.folder / NAME

    def name_of(self, path: Path) -> str | None:
        """Return a path's name in the output; None where it is outside or checked elsewhere."""
        path = Path(_absolute(path))
        if not path.is_relative_to(self.folder) or path == self.folder:
            return None
        name = path.relative_to(self.folder)
        # What is written into a temporary folder is noted when that folder gets its name.
        temporary = any(part.startswith(".") and ".partial" in part for part in name.parts)
        return None if temporary or name.parts[0] in SELF_CHECKED else name.as_posix()

    def begin_file(self, name: str, written: Path) -> str:
        """Note that a file is about to be put at `name`; return the change's id."""
        return self._begin(name, {name: _state_of(written)})

    def begin_folder(self, name: str, written: Path) -> str:
        """Note that a folder is about to be put at `name`."""
        states = {
            f"{name}/{path.relative_to(written).as_posix()}": _state_of(path)
            for path in sorted(written.rglob("*"))
            if path.is_file()
        }
        return self._begin(name, states, whole=True)

    def begin_removal(self, name: str) -> str:
        """Note that a file or folder is about to be removed."""
        return self._begin(name, {}, whole=True)

    def forget(self, name: str) -> None:
        """Stop checking a file that grows line by line."""
        if name not in self._forgotten:
            self._forgotten.add(name)
            self._append({"forget": name})

    def done(self, change: str) -> None:
        """Note that a change is in place."""
        self._append({"done": change})

    def expected(self) -> dict[str, set[State]]:
        """Return which states each noted file may be in.

        Raises:
            OutputError: when the journal itself is damaged.
        """
        lines = self._lines()
        done = {line["done"] for line in lines if "done" in line}
        states: dict[str, set[State]] = {}
        for line in lines:
            if "forget" in line:
                states.pop(line["forget"], None)
            if "id" not in line:
                continue
            new = {name: (int(size), str(value)) for name, (size, value) in line["files"].items()}
            below = {name for name in states if _is_below(name, line["name"])}
            for name in below | set(new):
                certain = {new.get(name)}
                if line["id"] not in done:
                    # An exchanged folder is absent for a moment.
                    certain |= states.get(name, {None}) | ({None} if line["whole"] else set())
                states[name] = certain
        return {name: options for name, options in states.items() if options != {None}}

    def written(self) -> dict[str, tuple[int, str]]:
        """Return the files that are in place for certain, as they were written; reads none of them."""
        return {
            name: state
            for name, (state, *others) in self.expected().items()
            if state is not None and not others
        }

    def check(self) -> None:
        """Compare the folder with the journal, and note what a killed run left open.

        Raises:
            OutputError: naming the files that are damaged or gone.
        """
        self._cut_torn_line()
        wrong: list[str] = []
        for name, options in sorted(self.expected().items()):
            found = self._found(name, options)
            if found not in options:
                wrong.append(f"{name}: {_describe(found, options)}")
            elif len(options) > 1:
                self.done(self._begin(name, {} if found is None else {name: found}))
        if wrong:
            raise OutputError(
                "\n  ".join([f"{self.folder} was changed since it was written:", *wrong])
                + "\nput these files back, or --restart to move this output aside and begin anew"
            )

    def _cut_torn_line(self) -> None:
        """Drop a last line that a killed run did not end."""
        if self.path.is_file():
            data = self.path.read_bytes()
            if not data.endswith(b"\n"):
                os.truncate(self.path, data.rfind(b"\n") + 1)

    def _found(self, name: str, options: set[State]) -> State:
        path = self.folder / name
        if not path.is_file():
            return None
        size = path.stat().st_size
        if size not in {state[0] for state in options if state is not None}:
            return size, ""
        return size, content_hash(path)

    def _begin(self, name: str, states: Mapping[str, State], *, whole: bool = False) -> str:
        change = uuid.uuid4().hex[:12]
        self._forgotten.discard(name)
        line = {"id": change, "name": name, "files": states, "whole": whole}
        # On disk before the file is: a power cut must not leave a file that the journal denies.
        self._append(line, sync=True)
        return change

    def _append(self, line: Mapping[str, Any], *, sync: bool = False) -> None:
        data = json.dumps(line).encode() + b"\n"
        with self._lock, self.path.open("ab") as handle:
            handle.write(data)
            handle.flush()
            if sync:
                os.fsync(handle.fileno())

    def _lines(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        *lines, _ = self.path.read_bytes().split(b"\n")
        found = []
        for number, raw in enumerate(lines, start=1):
            try:
                line = json.loads(raw)
                if not _is_line(line):
                    raise ValueError("no line of a journal")
            except ValueError as error:
                raise OutputError(
                    f"{self.path}, line {number} is damaged ({error}); --restart moves this output "
                    "aside and begins anew"
                ) from None
            found.append(line)
        return found


def _is_line(line: Any) -> bool:
    """Tell whether a line has the form that this module writes."""
    if not isinstance(line, dict):
        return False
    if line.keys() in ({"done"}, {"forget"}):
        return all(isinstance(value, str) for value in line.values())
    if line.keys() != {"id", "name", "files", "whole"} or not isinstance(line["files"], dict):
        return False
    named = isinstance(line["id"], str) and isinstance(line["name"], str)
    return named and all(_is_state(state) for state in line["files"].values())


def _is_state(state: Any) -> bool:
    if not isinstance(state, list) or len(state) != 2:
        return False
    return isinstance(state[0], int) and isinstance(state[1], str)


def _state_of(path: Path) -> tuple[int, str]:
    return path.stat().st_size, content_hash(path, fresh=True)


def _is_below(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}/")


def _describe(found: State, options: set[State]) -> str:
    """Say how a file differs from what was written."""
    if found is None:
        return "is gone"
    sizes = sorted({state[0] for state in options if state is not None})
    if found[0] not in sizes:
        return f"has {found[0]} bytes, {' or '.join(map(str, sizes))} were written"
    return "has other contents than were written"
