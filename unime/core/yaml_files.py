"""Reads YAML and JSON that people write, bounded, and quotes what is pasted into YAML.

Recipes, prompt files and benchmark files hold mappings, lists, texts, numbers, true, false and
null. Whatever else YAML allows is refused in one sentence: tags, keys that are no text, a key
twice, numbers that are none; so are files that grow without bound when aliases are followed.
"""

from __future__ import annotations

import json
import math
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from unime.core.errors import RecipeError, UnimeError

MAX_BYTES = 1 << 18
"""Of a YAML file; the largest of this project has 30 kB."""
MAX_VALUES = 100_000
"""Of a file, every alias followed."""
MAX_DEPTH = 50
MAX_INT = 2**63 - 1

_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_TAGS = {_MERGE} | {
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")
}
_RUN = re.compile(r"(\$+)\{run\}")


def read_yaml(path: Path, error: type[UnimeError] = RecipeError) -> Any:
    """Read a YAML file.

    Raises:
        UnimeError: of the given class, in one sentence, for whatever cannot be read.
    """
    return parse_yaml(read_text(path, MAX_BYTES, error), str(path), error)


def parse_yaml(text: str, name: str, error: type[UnimeError] = RecipeError) -> Any:
    """Parse YAML; `name` says in an error where it stands.

    Raises:
        UnimeError: as `read_yaml`.
    """
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except _RefusedError as refused:
        raise error(f"{name}, line {refused.line}: {refused}") from None
    except yaml.YAMLError as problem:
        raise error(f"{name} is not YAML: {_short(problem)}") from None
    # A scalar with a tag that its text does not fit, such as `!!int x` or `!!bool 3`.
    except (ValueError, LookupError, TypeError, OverflowError) as problem:
        raise error(f"{name} holds a value that cannot be read: {_short(problem)}") from None
    finally:
        if loader is not None:
            loader.dispose()


def read_json(path: Path, error: type[UnimeError], limit: int) -> Any:
    """Read a JSON file that a person wrote.

    Args:
        path: the file.
        error: the class of what is raised.
        limit: the largest size, in bytes.

    Raises:
        UnimeError: of the given class, in one sentence.
    """
    try:
        return json.loads(read_text(path, limit, error), object_pairs_hook=_distinct)
    except RecursionError:
        raise error(f"{path} is nested too deeply to be read") from None
    except ValueError as problem:
        raise error(f"{path} is not JSON: {_short(problem)}") from None


def read_text(path: Path, limit: int, error: type[UnimeError]) -> str:
    """Read a UTF-8 text of bounded size; a byte order mark is left out.

    Raises:
        UnimeError: of the given class, in one sentence.
    """
    try:
        if not path.is_file():
            raise error(f"{path} is not a file")
        with path.open("rb") as handle:
            data = handle.read(limit + 1)
        if len(data) > limit:
            size = path.stat().st_size
            raise error(f"{path} has {size} bytes, expected at most {limit}")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"{path} is not UTF-8 text: {_short(problem)}") from None
    except (OSError, ValueError) as problem:
        raise error(f"{path} cannot be read: {_short(problem)}") from None


def quoted(text: str) -> str:
    """Return a text as a YAML scalar on one line, which any YAML reads as that very text."""
    dumped = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf)
    return dumped.removesuffix("\n")


def fill_run(text: str, run: str) -> str:
    """Put the run folder in place of `${run}`; `$${run}` stands for the text `${run}` itself."""

    def put(match: re.Match[str]) -> str:
        dollars = len(match[1])
        return "$" * (dollars // 2) + (run if dollars % 2 else "{run}")

    return _RUN.sub(put, text)


def keep_run(text: str) -> str:
    """Return a text that `fill_run` turns back into the given one, whatever stands in it."""
    return _RUN.sub(lambda match: 2 * match[1] + "{run}", text)


class _RefusedError(Exception):
    """YAML that is well-formed and yet no recipe."""

    def __init__(self, problem: str, mark: yaml.Mark) -> None:
        super().__init__(problem)
        self.line = mark.line + 1


class _Loader(yaml.SafeLoader):
    """Knows the size and depth of every node, aliases followed, before anything is built."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._measures: dict[yaml.Node, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if node not in self._measures:
                raise _RefusedError("an alias stands inside what it names", mark)
            return node
        self._depth += 1
        self._bound(1, self._depth, mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if node.tag not in _TAGS:
            raise _RefusedError(f"the tag {node.tag} is unknown here; write plain values", mark)
        parts: list[Any] = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [n for part in parts for n in (part if isinstance(part, tuple) else (part,))]
        below = [self._measures[part] for part in flat]
        size = 1 + sum(one for one, _ in below)
        depth = 1 + max((one for _, one in below), default=0)
        self._bound(size, depth, mark)
        self._measures[node] = (size, depth)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (_TEXT, _MERGE):
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise _RefusedError(
                    f"the key {_cut(str(shown))} is no text; put it in quotes", key.start_mark
                )
            if key.value in seen:
                raise _RefusedError(
                    f"the key '{_cut(key.value)}' stands twice, first in line {seen[key.value]}",
                    key.start_mark,
                )
            seen[key.value] = line
        return node

    def _bound(self, size: int, depth: int, mark: yaml.Mark) -> None:
        if depth > MAX_DEPTH:
            raise _RefusedError(f"nested deeper than {MAX_DEPTH} levels", mark)
        if size > MAX_VALUES:
            raise _RefusedError(f"more than {MAX_VALUES} values when aliases are followed", mark)


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float | str:
    """Return a number that a program can count with; `12:30` is a text, as in YAML 1.2."""
    if ":" in node.value:
        return node.value
    is_int = node.tag.endswith(":int")
    read = yaml.SafeLoader.construct_yaml_int if is_int else yaml.SafeLoader.construct_yaml_float
    # `!!int x`, `0x_`; Python refuses to read more than 4300 digits.
    with suppress(ValueError, IndexError):
        value = read(loader, node)
        if abs(value) <= (MAX_INT if is_int else sys.float_info.max):
            return value
    raise _RefusedError(
        f"{_cut(node.value)} is no number, not finite, or too large", node.start_mark
    )


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _number)
# Dates are texts: a folder is called 2024-05-01 more often than a recipe needs a date.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag in _TAGS]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key '{_cut(key)}' stands twice")
        values[key] = value
    return values


def _short(problem: object) -> str:
    return _cut(" ".join(str(problem).split()), 300)


def _cut(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
