"""Recipes: YAML files checked against frozen pydantic models, with `dotted.key=value` overrides.

`extends: other.yaml` takes another recipe and changes only what is named. `${run}` stands for
the run folder: `runs/` and the name of the recipe's folder, or the override `run=FOLDER`; `$${run}`
is the text `${run}` itself. All paths are relative to the working directory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    field_validator,
)

from unime.core.errors import RecipeError, did_you_mean
from unime.core.yaml_files import MAX_DEPTH, MAX_INT, fill_run, parse_yaml, read_yaml

R = TypeVar("R", bound="Recipe")
S = TypeVar("S", bound="Section")

MAX_EXTENDS = 8
"""Recipes that extend one another in a row."""


class Section(BaseModel):
    """A part of a recipe: frozen, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _countable(cls, value: Any, info: Any) -> Any:
        """Refuse true for a number, which pydantic takes for 1."""
        wanted = cls.model_fields[str(info.field_name)].annotation
        kinds = {wanted, *get_args(wanted)}
        if isinstance(value, bool) and kinds & {int, float} and not kinds & {bool, Any}:
            raise ValueError("Input should be a number")
        return value

    @field_validator("*")
    @classmethod
    def _not_too_large(cls, value: Any) -> Any:
        """Refuse what no tensor can hold."""
        if isinstance(value, int) and abs(value) > MAX_INT:
            raise ValueError(f"Input should be at most {MAX_INT} in size")
        return value


class Recipe(Section):
    """What every stage's recipe has."""

    stage: str
    """The verb that runs it: data, distill, contrast, mine, judge, select, export, eval, ..."""
    output: str
    """The folder this stage fills; `${run}/<name of the recipe file>` unless said otherwise."""

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values of a manifest, written perhaps by an older version, in today's form."""
        return values


def load_recipe(path: Path | str, schema: type[R], overrides: Sequence[str] = ()) -> R:
    """Read a recipe and check it.

    Args:
        path: the YAML file.
        schema: the stage's recipe class.
        overrides: `dotted.key=value`, values in YAML; `run=FOLDER` moves the whole run.

    Raises:
        RecipeError: one sentence a mistake, with the nearest right name.
    """
    return checked(read_values(path, overrides), schema, str(path))


def checked(values: Mapping[str, Any], schema: type[S], name: str) -> S:
    """Return the values of a recipe, or of one of its sections, as its class.

    Args:
        values: by key.
        schema: the recipe's or section's class.
        name: what the values are called in an error.

    Raises:
        RecipeError: one sentence a mistake, with the nearest right name.
    """
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        lines = [_sentence(schema, problem) for problem in error.errors()]
        title = f"{name} is not a valid {schema.__name__}:"
        raise RecipeError("\n  ".join([title, *lines])) from None


def read_values(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a recipe's values, `extends` followed, overrides and `${run}` put in; unchecked."""
    path = Path(path)
    values = _read_yaml(path)
    run = str(values.pop("run", f"runs/{path.resolve().parent.name}"))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise RecipeError(f"override '{override}' is not of the form dotted.key=value")
        if key == "run":
            run = text
        else:
            _put(values, key, _parse(text, override))
    values.setdefault("output", f"${{run}}/{path.stem}")
    return _fill(values, run)


def _read_yaml(path: Path, heirs: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a recipe and what it extends; `heirs` are the recipes that extend this one."""
    try:
        is_there, whole = path.exists(), path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise RecipeError(f"no recipe {str(path)[:200]!r}: {error}") from None
    if not is_there:
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.yaml")])
        raise RecipeError(f"no recipe {path} (working directory {Path.cwd()}){near}")
    chain = " -> ".join(str(heir) for heir in (*heirs, whole))
    if whole in heirs:
        raise RecipeError(f"recipes extend each other in a circle: {chain}")
    if len(heirs) >= MAX_EXTENDS:
        raise RecipeError(f"more than {MAX_EXTENDS} recipes extend each other: {chain}")
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise RecipeError(f"{path} holds {type(values).__name__}, expected keys and values")
    values = _unshared(values)
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise RecipeError(f"{path}: extends: expected a recipe's file name, got {parent!r}")
    return _merge(_read_yaml(path.parent / parent, (*heirs, whole)), values)


def _unshared(value: Any) -> Any:
    """Return a value of its own for every YAML alias: an override means one place."""
    if isinstance(value, dict):
        return {key: _unshared(one) for key, one in value.items()}
    return [_unshared(one) for one in value] if isinstance(value, list) else value


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key; anything else, lists too, is replaced whole."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def _parse(text: str, override: str) -> Any:
    value = parse_yaml(text, f"the value of override '{override[:200]}'")
    # YAML 1.1 reads 1e-4 as text; a recipe means the number.
    if isinstance(value, str) and set(value) & set("0123456789"):
        with suppress(ValueError):
            number = float(value)
            return number if math.isfinite(number) else value
    return value


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    if len(parents) >= MAX_DEPTH:
        raise RecipeError(f"override '{key[:200]}' is nested deeper than {MAX_DEPTH} levels")
    place: Any = values
    for name in parents:
        if isinstance(place, list):
            place = place[_index(place, name, key)]
        else:
            if place.get(name) is None:
                place[name] = {}
            place = place[name]
        if not isinstance(place, dict | list):
            raise RecipeError(f"override '{key}': '{name}' is {place!r} and has no parts")
    if isinstance(place, list):
        place[_index(place, last, key)] = value
    else:
        place[last] = value


def _index(place: list[Any], name: str, key: str) -> int:
    if not name.isdigit() or int(name) >= len(place):
        raise RecipeError(f"override '{key}': expected a number below {len(place)}, got '{name}'")
    return int(name)


def _fill(value: Any, run: str) -> Any:
    if isinstance(value, str):
        return fill_run(value, run)
    if isinstance(value, dict):
        return {key: _fill(item, run) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, run) for item in value]
    return value


def _sentence(schema: type[BaseModel], problem: Any) -> str:
    location = problem["loc"]
    name = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        near = did_you_mean(str(location[-1]), _fields_at(schema, location[:-1]))
        return f"{name}: no such key{near}"
    if problem["type"] == "missing":
        return f"{name}: missing; it has no default"
    got = repr(problem["input"])
    return f"{name}: {problem['msg']} (got {got if len(got) <= 200 else got[:200] + '...'})"


def _fields_at(schema: Any, location: Sequence[int | str]) -> list[str]:
    """Return the field names of the section at `location`, as far as it can be followed."""
    sections = _sections(schema)
    for part in location:
        found: list[type[BaseModel]] = []
        for section in sections:
            field = section.model_fields.get(str(part))
            if field is not None:
                found += _sections(field.annotation)
        sections = found or sections
    return [name for section in sections for name in section.model_fields]


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]
