"""One data set of the Hub at one commit: its files listed and fetched, each once.

The download is huggingface_hub's: its cache has what was fetched before, whoever fetched it. What a
branch stood at, and what a commit holds, is noted below the data root, so that a finished run needs no Hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from unime.core import console, files
from unime.core.errors import FULL, DataError
from unime.data.readers.hub_client import (
    HUB,
    OutOfReachError,
    ask,
    cache_of,
    check_repo,
    not_here,
    sorted_out,
)

MAIN = "main"
FOLDER = "hub"
"""Below the data root: what was fetched from the Hub and made ready to read."""
REFERENCES = "refs.json"
"""In a data set's folder: {revision: the commit that it stood at}."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubFile(NamedTuple):
    """One file of a data set."""

    size: int
    """Bytes."""
    blob: str
    """What tells its bytes apart: a hash that the Hub gives."""


@dataclass
class HubRepository:
    """A data set of the Hub at one commit."""

    repo: str
    """OWNER/NAME."""
    commit: str
    """40 hexadecimal digits."""
    root: Path
    """The data root."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What was found out about this commit (configurations), kept in its record."""
    is_partial: bool = False
    """Whether only the files are known that are in the cache; not noted then."""

    @property
    def title(self) -> str:
        """Return how messages call it."""
        return f"{HUB}{self.repo} (commit {self.commit[:12]})"

    @property
    def place(self) -> Path:
        """Return the folder of this data set, of all of its commits."""
        return place_of(self.repo, self.root)

    @property
    def record(self) -> Path:
        """Return the file that says what this commit holds."""
        return self.place / f"{self.commit}.json"

    @cached_property
    def files(self) -> dict[str, HubFile]:
        """Every file of the commit by its name.

        Raises:
            DataError: when they are not known here and the Hub cannot be asked, or refuses.
        """
        if self.record.is_file():
            known = files.read_json(self.record)
            self.notes.update(known.get("notes", {}))
            return {name: HubFile(*values) for name, values in known["files"].items()}
        try:
            info = ask(self.repo, self.commit, files_metadata=True)
        except OutOfReachError as error:
            found = _in_cache(self.repo, self.commit)
            if found:
                self.is_partial = True
                return found
            raise not_here(f"{HUB}{self.repo} at commit {self.commit[:12]}", error) from None
        found = {s.rfilename: _file(s) for s in info.siblings or []}
        for name in found:
            _check_name(name, self.title)
        return found

    def note(self, **notes: Any) -> None:
        """Keep what was found out about this commit."""
        listed = self.files
        self.notes.update(notes)
        if not self.is_partial:
            values = {"files": {n: list(f) for n, f in listed.items()}, "notes": self.notes}
            files.write_json(self.record, values)

    def fetch(self, names: Iterable[str]) -> dict[str, Path]:
        """Return where files are, those that are not in the cache fetched.

        Raises:
            DataError: when the Hub is out of reach, refuses, or the download fails.
            OSError: when the disk is full.
        """
        found = {name: path for name in names if (path := self._cached(name))}
        missing = [name for name in names if name not in found]
        if missing:
            size = sum(self.files[name].size for name in missing)
            console.log(f"{self.title}: fetching {len(missing)} files, {size / 1e6:,.1f} MB")
        for name in console.progress(missing, label=f"fetching {self.repo}", unit="files"):
            found[name] = self._fetch(name)
        return found

    def _cached(self, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, name, revision=self.commit, repo_type="dataset")
        return Path(found) if isinstance(found, str) else None

    def _fetch(self, name: str) -> Path:
        from huggingface_hub import HfApi

        try:
            found = HfApi().hf_hub_download(
                self.repo, name, repo_type="dataset", revision=self.commit
            )
        # The client raises connection, HTTP, authorisation and local-entry errors alike.
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            try:
                raise sorted_out(error, self.repo, self.commit) from None
            except OutOfReachError as reason:
                raise not_here(f"{name} of {self.title}", reason) from None
        return Path(found)


def place_of(repo: str, root: Path) -> Path:
    """Return the folder of a data set below the data root."""
    return root / FOLDER / repo.replace("/", "--")


def commit_of(repo: str, revision: str, root: Path) -> str:
    """Return the commit that a revision stands at: the Hub is asked, unless it is a commit itself.

    Out of reach of the Hub it is what the data root last saw, else what the cache of huggingface_hub has.

    Raises:
        DataError: when the Hub refuses, or cannot be asked and nothing was fetched before.
    """
    check_repo(repo)
    if _COMMIT.fullmatch(revision):
        return revision
    known = _last_seen(repo, revision, root)
    try:
        commit = str(ask(repo, revision).sha)
    except OutOfReachError as error:
        if known is None:
            raise not_here(f"{HUB}{repo} at revision {revision}", error) from None
        console.log(
            f"{HUB}{repo}: {error}; {revision} is taken for commit {known[:12]}, as last seen"
        )
        return known
    if known not in (None, commit):
        console.log(
            f"{HUB}{repo}: {revision} moved from commit {known[:12]} to {commit[:12]}; "
            f"'revision: {known}' reads what was read before"
        )
    return commit


def remember(repo: str, revision: str, commit: str, root: Path) -> None:
    """Note what a revision stands at, for the time when the Hub cannot be asked."""
    if _COMMIT.fullmatch(revision):
        return
    path = place_of(repo, root) / REFERENCES
    known = files.read_json(path) if path.is_file() else {}
    if known.get(revision) != commit:
        files.write_json(path, {**known, revision: commit})


def _last_seen(repo: str, revision: str, root: Path) -> str | None:
    path = place_of(repo, root) / REFERENCES
    if path.is_file() and revision in (known := files.read_json(path)):
        return str(known[revision])
    try:
        commit = (cache_of(repo) / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _in_cache(repo: str, commit: str) -> dict[str, HubFile]:
    """Return the files of a commit that somebody fetched before, such as by `hf download`."""
    folder = cache_of(repo) / "snapshots" / commit
    return {
        # The cache names a file by its hash, and links to it.
        path.relative_to(folder).as_posix(): HubFile(path.stat().st_size, path.resolve().name)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _file(sibling: Any) -> HubFile:
    return HubFile(sibling.size or 0, sibling.lfs.sha256 if sibling.lfs else sibling.blob_id or "")


def _check_name(name: str, title: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise DataError(f"{title}: {name!r} is no name of a file inside a data set")


def plain_name(name: str) -> str:
    """Return a name as a file may be called, another for each name."""
    import hashlib

    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    # "a/b" and "a_b" are two.
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
