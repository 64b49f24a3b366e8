"""Split known task instructions off texts that carry them inside.

MMEB writes the instruction and an image placeholder into the text of query and target. Here they
become fields. The known instructions are in `instructions.yaml`; an `instructions.json` next to
the data ({task: {query_instruction, target_instruction, meta_task, in_batch}}) goes first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unime.core import console, inside
from unime.core.errors import DataError
from unime.core.yaml_files import read_json, read_yaml

Side = Literal["query", "target"]

PLACEHOLDER = re.compile(r"<\|image_\d+\|>[ \t]*\n?")
FILE_NAME = "instructions.json"
MAX_BYTES = 1 << 24

# After an instruction comes the end, a colon or full stop and the content, or quoted content.
# Without this, "Represent the given image" would cut into "Represent the given image with ...".
_BOUNDARY = r"(?:[.:?]?\s*\Z|[.:?]\s+|\s+(?=[\"'\u201c]))"


class Known(NamedTuple):
    """What is known of a task beforehand."""

    query: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    """Instructions, without closing punctuation; several wordings are allowed."""
    meta_task: str = ""
    in_batch: bool | None = None


@dataclass
class Instructions:
    """The known instructions of the tasks of one source, and how often they were missing."""

    tasks: Mapping[str, Known]
    given: Known = field(default_factory=Known)
    """What the recipe says for this source; goes before the table."""
    unsplit: Counter[str] = field(default_factory=Counter)
    """Texts that no known instruction begins, by "task side"."""
    _of: dict[str, Known] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What is known of the tasks asked for: readers ask in every row."""

    def of(self, task: str) -> Known:
        """Return what is known of a task."""
        found = self._of.get(task)
        if found is None:
            found = self._of[task] = self._merged(task)
        return found

    def _merged(self, task: str) -> Known:
        known = self.tasks.get(task, Known())
        return Known(
            self.given.query or known.query,
            self.given.target or known.target,
            self.given.meta_task or known.meta_task,
            known.in_batch if self.given.in_batch is None else self.given.in_batch,
        )

    def split(self, text: str, task: str, side: Side) -> tuple[str, str]:
        """Return (instruction, content) of a text that may carry placeholder and instruction.

        Where no known instruction begins the text, the instruction is empty, the text stays
        whole, and `report` says so. A target without a known instruction is taken as plain
        content (a label, an answer, a caption).
        """
        text = PLACEHOLDER.sub("", text).strip()
        known = self.of(task).query if side == "query" else self.of(task).target
        instruction, content = _cut(text, known)
        if instruction:
            return instruction, content
        given = self.given.query if side == "query" else self.given.target
        if given:
            return given[0], text
        if text and (side == "query" or known):
            self.unsplit[f"{task} {side}"] += 1
        return "", text

    def plain(self, text: str, task: str, side: Side) -> tuple[str, str]:
        """Return (instruction, content) of a text whose format keeps instructions elsewhere.

        The instruction is what recipe or instructions file say; it is taken off only where the
        text happens to begin with it.
        """
        known = self.of(task).query if side == "query" else self.of(task).target
        text = text.strip()
        if not known:
            return "", text
        instruction, content = _cut(text, known)
        if instruction:
            return instruction, content
        return known[0], text

    def task_of(self, query_text: str) -> str | None:
        """Return the one task whose query instruction begins the text, if there is just one."""
        text = PLACEHOLDER.sub("", query_text).strip()
        found = {
            task
            for task, known in self.tasks.items()
            if any(pattern.match(text) for pattern in _patterns(known.query))
        }
        return found.pop() if len(found) == 1 else None

    def report(self) -> None:
        """Log, once for each task and side, how many texts kept their instruction."""
        for name, count in sorted(self.unsplit.items()):
            task, _, side = name.rpartition(" ")
            console.log(
                f"task {task}: {count} {side} texts begin with no known instruction and stay "
                f"whole; if they carry one, name it as {side}_instruction"
            )


def known_tasks(places: Iterable[Path]) -> dict[str, Known]:
    """Return the built-in table, with every task of the first `instructions.json` found.

    Args:
        places: folders to look in, nearest first.

    Raises:
        DataError: when the file is not of the expected form.
    """
    tasks = dict(_built_in())
    places = list(places)
    for folder in places:
        path = folder / FILE_NAME
        if path.is_file():
            # The last place is the data root, or what is nearest to one.
            inside.check_file(path, places[-1])
            tasks.update(_read(path))
            break
    return tasks


def as_known(values: Mapping[str, Any]) -> Known:
    """Return `Known` from {query_instruction, target_instruction, meta_task, in_batch}."""
    return Known(
        _wordings(values.get("query_instruction")),
        _wordings(values.get("target_instruction")),
        str(values.get("meta_task") or ""),
        values.get("in_batch"),
    )


def _read(path: Path) -> dict[str, Known]:
    values = read_json(path, DataError, MAX_BYTES)
    try:
        return {str(task): as_known(known) for task, known in values.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"{path} is not of the form {{task: {{query_instruction, target_instruction, "
            f"meta_task, in_batch}}}}: {error}"
        ) from None


@cache
def _built_in() -> dict[str, Known]:
    path = Path(__file__).with_name("instructions.yaml")
    tables = read_yaml(path)
    return {task: as_known(values) for task, values in tables.items()}


def _wordings(value: str | list[str] | None) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else list(value or [])
    if not all(isinstance(text, str) for text in values):
        raise TypeError(f"expected a text or a list of texts, got {str(value)[:100]}")
    return tuple(text for text in values if text.strip())


def _cut(text: str, wordings: tuple[str, ...]) -> tuple[str, str]:
    for pattern in _patterns(wordings):
        match = pattern.match(text)
        if match:
            return " ".join(match["instruction"].split()), text[match.end() :].strip()
    return "", text


@cache
def _patterns(wordings: tuple[str, ...]) -> list[re.Pattern[str]]:
    """Return patterns for the wordings, the longest first, blind to spacing."""
    patterns = []
    for wording in sorted(wordings, key=lambda text: (-len(text), text)):
        bare = PLACEHOLDER.sub("", wording).strip().rstrip(".:?")
        words = r"\s+".join(re.escape(word) for word in bare.split())
        patterns.append(re.compile(rf"(?P<instruction>{words}{_BOUNDARY})"))
    return patterns
