"""requirements.lock fits pyproject.toml, and says nothing about the machine that wrote it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found = [Requirement(line) for group in groups for line in group]
    return [requirement for requirement in found if requirement.name != project["name"]]


def test_every_declared_package_is_locked_at_a_version_that_is_allowed():
    locked = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]
    versions: dict[str, list[str]] = {}
    for requirement in locked:
        (pin,) = requirement.specifier
        assert pin.operator == "==" and requirement.url is None, requirement
        versions.setdefault(canonicalize_name(requirement.name), []).append(pin.version)
    unfit = [
        f"{requirement}, locked: {found or 'no version'}"
        for requirement in declared()
        if not (found := versions.get(canonicalize_name(requirement.name), []))
        or not all(requirement.specifier.contains(version) for version in found)
    ]
    assert not unfit, f"run make lock: {unfit}"


def test_every_declared_package_has_a_lowest_version():
    """`make lowest` would install one of years ago, and a user's installer could."""
    unbounded = [
        str(requirement)
        for requirement in declared()
        if not any(part.operator in (">=", "==", "~=") for part in requirement.specifier)
    ]
    assert not unbounded
