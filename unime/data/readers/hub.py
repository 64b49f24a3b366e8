"""Data sets of the Hub: rows and images below the data root, read like any other Parquet file there.

What comes of one lies in `hub/OWNER--NAME/`:

- `refs.json`, `COMMIT.json`: what branches stood at, and what a commit holds;
- `CONFIGURATION--SPLIT-COMMIT.parquet`: the rows;
- `ARCHIVE-HASH/`: the files of its archives. The hash is that of the archives, so that commits with the
  same ones share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from unime.core import console, locks
from unime.core.errors import DataError
from unime.data.readers.base import DataSource
from unime.data.readers.hub_archives import matching_archives, unpacked
from unime.data.readers.hub_client import HUB, NotFetchedError
from unime.data.readers.hub_repository import MAIN, HubRepository, commit_of, remember
from unime.data.readers.hub_tables import configurations, rows_of_configuration


class HubTable(NamedTuple):
    """One configuration of a data set of the Hub, ready to read."""

    path: Path
    """Its rows, a Parquet file."""
    source: DataSource
    """The recipe's, for this configuration alone."""
    task: str
    """The task's name, unless the recipe gave one without `{name}`."""


def is_hub(source: DataSource) -> bool:
    """Tell whether a source is a data set of the Hub."""
    return source.path.startswith(HUB)


def hub_name(source: DataSource) -> str:
    """Return how a stage's plan names a data set of the Hub."""
    return source.path if source.revision == MAIN else f"{source.path}@{source.revision}"


def hub_state(source: DataSource, root: Path) -> Path:
    """Return what identifies a data set of the Hub as a stage's input: `hub:OWNER/NAME@COMMIT`.

    Without the commit where it cannot be found out: a recipe can be checked out of the Hub's reach.

    Raises:
        DataError: when the Hub refuses.
    """
    try:
        commit = commit_of(source.path.removeprefix(HUB), source.revision, root)
    except NotFetchedError:
        return Path(source.path)
    return Path(f"{source.path}@{commit}")


def commits_of(
    sources: Iterable[DataSource], root: Path, inputs: Mapping[str, str]
) -> dict[str, str]:
    """Return the commits that a stage's plan names, by `hub_name`.

    Args:
        sources: of the recipe.
        root: the data root.
        inputs: of the plan.

    Raises:
        DataError: when it does not name one, because it could not be found out.
    """
    found: dict[str, str] = {}
    for source in filter(is_hub, sources):
        name = hub_name(source)
        _, _, found[name] = inputs[name].partition("@")
        if not found[name]:
            commit_of(source.path.removeprefix(HUB), source.revision, root)  # says why
            raise DataError(
                f"{source.path}: the Hub answers only since a moment ago; run this again"
            )
    return found


def hub_tables(source: DataSource, root: Path, commit: str | None = None) -> list[HubTable]:
    """Fetch what a source names, as far as it is not there, and return its configurations.

    Args:
        source: of the recipe; its revision may be a branch.
        root: the data root, a folder.
        commit: what the revision stands at, where that was found out before.

    Raises:
        DataError: when something is not there, out of reach, or cannot be read.
        OutputError: when another process is fetching the same data set.
    """
    repo = source.path.removeprefix(HUB)
    commit = commit or commit_of(repo, source.revision, root)
    data = HubRepository(repo, commit, root)
    data.place.mkdir(parents=True, exist_ok=True)
    with locks.only_writer(data.place):
        for leftover in data.place.glob(".*.partial*"):  # of a killed run
            leftover.unlink()
        names = configurations(data, source.name)
        remember(repo, source.revision, commit, root)
        if len(names) > 1:
            console.log(f"{data.title}: {len(names)} configurations: {', '.join(names)}")
        # Of all of them first: what is not there is found before hours of fetching.
        archives = [matching_archives(data, source, name) for name in names]
        return [
            _table(data, name, source, found) for name, found in zip(names, archives, strict=True)
        ]


def _table(
    data: HubRepository, name: str, source: DataSource, archives: Mapping[str, str]
) -> HubTable:
    path = rows_of_configuration(data, name, source.split)
    image_root = source.image_root.replace("{name}", name)
    if archives:
        tree = unpacked(data, archives).relative_to(data.root).as_posix()
        image_root = f"{tree}/{image_root}" if image_root else tree
    task = data.repo.rpartition("/")[2] if source.name is None else name
    given = {"name": name, "image_root": image_root, "task": source.task.replace("{name}", name)}
    return HubTable(path, source.model_copy(update=given), task)
