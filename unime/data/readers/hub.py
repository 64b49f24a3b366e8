"""Data sets of the `datasets` library, on the Hub or saved to disk, as Parquet files below the data root.

Written once, so that images inside them have a location that stays valid; then they are read like any
other Parquet file. What comes of a data set of the Hub lies in `hub/OWNER--NAME/`:

- `refs.json`, `COMMIT.json`: what branches stood at, and what a commit holds;
- `CONFIGURATION--SPLIT-COMMIT.parquet`: the rows;
- `ARCHIVE-HASH/`: the files of its archives. The hash is that of the archives, so that commits with the
  same ones share them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from unime.core import console, files, locks
from unime.core.errors import DataError, did_you_mean
from unime.data.readers.base import DataSource
from unime.data.readers.hub_repository import HUB, MAIN, HubRepository, commit_of, remember
from unime.data.readers.hub_tables import (
    configurations,
    plain_name,
    rows_of_configuration,
    write_parquet,
)
from unime.data.readers.unpacking import SUFFIXES, is_archive, sync_disk, unpack_archive

__all__ = [
    "HUB",
    "HubTable",
    "hub_name",
    "hub_state",
    "hub_tables",
    "is_hub",
    "saved_to_parquet",
]

CONVERTED = "converted"
UNPACKED = ".unpacked.json"
"""In a folder of unpacked archives: which of them are there whole."""


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

    Raises:
        DataError: when the commit cannot be found out.
    """
    commit = commit_of(source.path.removeprefix(HUB), source.revision, root)
    return Path(f"{source.path}@{commit}")


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
        names = configurations(data, source.name)
        remember(repo, source.revision, commit, root)
        if len(names) > 1:
            console.log(f"{data.title}: {len(names)} configurations: {', '.join(names)}")
        return [_table(data, name, source) for name in names]


def _table(data: HubRepository, name: str, source: DataSource) -> HubTable:
    # Archives first: a name of theirs that is not there is found before anything is fetched.
    chosen = {
        pattern.replace("{name}", name): into.replace("{name}", name)
        for pattern, into in _patterns(source).items()
    }
    archives = _matching(data, chosen)
    path = rows_of_configuration(data, name, source.split)
    image_root = source.image_root.replace("{name}", name)
    if archives:
        tree = _unpacked(data, archives).relative_to(data.root).as_posix()
        image_root = f"{tree}/{image_root}" if image_root else tree
    task = data.repo.rpartition("/")[2] if source.name is None else name
    given = {"name": name, "image_root": image_root, "task": source.task.replace("{name}", name)}
    return HubTable(path, source.model_copy(update=given), task)


def _patterns(source: DataSource) -> Mapping[str, str]:
    """Return the recipe's archives as {pattern: folder}."""
    if isinstance(source.archives, str):
        return {source.archives: ""}
    if isinstance(source.archives, list):
        return dict.fromkeys(source.archives, "")
    return source.archives


def _matching(data: HubRepository, patterns: Mapping[str, str]) -> dict[str, str]:
    """Return {archive: the folder that it is unpacked in}.

    Raises:
        DataError: when a pattern matches nothing, or something that is no archive.
    """
    found: dict[str, str] = {}
    for pattern, into in patterns.items():
        names = [name for name in data.files if fnmatchcase(name, pattern)]
        if not names:
            raise DataError(
                f"{data.title} has no file '{pattern}' (archives:)"
                f"{did_you_mean(pattern, filter(is_archive, data.files))}"
            )
        for name in names:
            if not is_archive(name):
                raise DataError(
                    f"{data.title}: {name} is no archive (archives: '{pattern}'); expected a name that "
                    f"ends with {', '.join(SUFFIXES)}"
                )
            found[name] = into
    return found


def _unpacked(data: HubRepository, archives: Mapping[str, str]) -> Path:
    """Return the folder that archives are unpacked in, each of them once."""
    state = hashlib.sha256()
    for name, into in sorted(archives.items()):
        state.update(f"{name}\0{data.files[name].blob}\0{into}\n".encode())
    stem = plain_name(Path(min(archives)).name.partition(".")[0])
    place = data.place / f"{stem}-{state.hexdigest()[:12]}"
    place.mkdir(exist_ok=True)
    mark = place / UNPACKED
    done = files.read_json(mark) if mark.is_file() else {}
    for name, into in archives.items():
        if name in done:
            continue
        below = place / into
        below.mkdir(parents=True, exist_ok=True)
        (archive,) = data.fetch([name]).values()
        title = f"{name} of {data.title}"
        count = unpack_archive(archive, title, below, data.place / ".unpacking")
        sync_disk()
        done[name] = count
        files.write_json(mark, done)
        console.log(f"{title}: {count} files unpacked in {below}")
    return place


def saved_to_parquet(folder: Path, split: str | None, root: Path) -> Path:
    """Return a folder written by `save_to_disk` as a Parquet file.

    Raises:
        DataError: when it cannot be loaded, or holds several splits and none was chosen.
    """
    import datasets

    state = hashlib.sha256()
    for part in sorted(folder.rglob("*.json")):
        state.update(part.read_bytes())
    # Its name is an input of finished outputs: it stays as it was first.
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in folder.name)
    path = root / CONVERTED / f"{name}-{state.hexdigest()[:12]}.parquet"
    if split is not None:
        path = path.with_name(f"{split}-{path.name}")
    if path.is_file():
        return path
    try:
        loaded: Any = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(f"{folder} is no data set written by save_to_disk: {error}") from None
    if isinstance(loaded, dict):
        if split not in loaded:
            raise DataError(f"{folder} has the splits {', '.join(loaded)}; choose one by split:")
        loaded = loaded[split]
    write_parquet(loaded, path, str(folder))
    return path
