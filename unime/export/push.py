"""`unime push DIR OWNER/NAME`: an export on the Hub; what changes there is shown first.

Only what `unime verify` has passed, unchanged since, is uploaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from unime.core import files
from unime.core.errors import ModelError, OutputError
from unime.core.hashes import sha256
from unime.export.verify import SEAL, hashes

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MARKS = {"new": "+", "changed": "~", "same": "=", "removed": "-", "kept": " "}


class FileChange(NamedTuple):
    """What an upload does to one file."""

    kind: str
    """A key of MARKS; "kept" files are only there and stay."""
    name: str
    size: int


def push(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    confirm: Callable[[str], bool] = lambda _: True,
    echo: Callable[[str], None] = print,
    api: HfApi | None = None,
) -> list[FileChange]:
    """Show what an upload would change, ask, upload; return the changes.

    Args:
        folder: an export, or an export stage's output that holds `embedder/`.
        repo: its Hub id; created when missing.
        private: for a repository that is created now.
        dry_run: only show.
        confirm: asked with one sentence before anything is written.
        echo: where the changes are shown.
        api: the Hub, or a stand-in.

    Raises:
        ModelError: when the export was not verified, or was changed since.
        OutputError: when the Hub refuses or cannot be reached, with its words.
    """
    from huggingface_hub import HfApi

    # The error of whichever HTTP client the library uses: no connection, no answer, a refusal.
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    folder = folder / "embedder" if (folder / "embedder").is_dir() else folder
    check_verified(folder)
    api = api or HfApi()
    try:
        changes = compare(folder, repo, api)
        echo(report(folder, repo, changes))
        todo = [change for change in changes if change.kind in ("new", "changed", "removed")]
        if dry_run or not todo:
            return changes
        size = sum(change.size for change in todo if change.kind != "removed")
        if not confirm(f"upload {_readable(size)} to {repo}?"):
            return changes
        api.create_repo(repo, private=private, exist_ok=True)
        _commit(folder, repo, todo, api)
    except (HTTPError, OSError) as error:
        said = " ".join(str(error).split())[:400]
        raise OutputError(
            f"{repo} on {api.endpoint}: {said} (log in with `hf auth login`; HF_ENDPOINT names "
            "another hub)"
        ) from None
    echo(f"uploaded: {api.endpoint}/{repo}")
    return changes


def check_verified(folder: Path) -> None:
    """Raise a ModelError unless `unime verify` passed this very folder."""
    path = folder / SEAL
    if not path.is_file():
        raise ModelError(f"{folder} is not verified; run `unime verify {folder}` first")
    sealed, now = files.read_json(path)["files"], hashes(folder)
    names = sorted(n for n in sealed.keys() | now.keys() if sealed.get(n) != now.get(n))
    if names:
        raise ModelError(
            f"{folder} was changed since it was verified ({', '.join(names[:5])}"
            f"{', ...' if len(names) > 5 else ''}); run `unime verify {folder}` again"
        )


def compare(folder: Path, repo: str, api: HfApi) -> list[FileChange]:
    """Return what an upload would do to every file, here or there."""
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    try:
        tree = api.list_repo_tree(repo, recursive=True)
        remote = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    except RepositoryNotFoundError:
        remote = {}
    changes = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        kind = "new" if name not in remote else "same" if _same(path, remote[name]) else "changed"
        changes.append(FileChange(kind, name, path.stat().st_size))
    for name in sorted(remote.keys() - {change.name for change in changes}):
        # Weights of an older export would be loaded beside, or instead of, the new ones.
        kind = "removed" if name.startswith("model") and ".safetensors" in name else "kept"
        changes.append(FileChange(kind, name, remote[name].size))
    return changes


def report(folder: Path, repo: str, changes: list[FileChange]) -> str:
    """Return the changes as lines of text, one a file, and their sum."""
    lines = [f"{folder} -> {repo}"]
    lines += [f"  {MARKS[c.kind]} {_readable(c.size):>9}  {c.name}  ({c.kind})" for c in changes]
    counts = [(kind, sum(c.kind == kind for c in changes)) for kind in MARKS]
    lines.append("  " + ", ".join(f"{count} {kind}" for kind, count in counts if count))
    return "\n".join(lines)


def _same(path: Path, entry: object) -> bool:
    """Compare by content: sha256 for large files, git's own hash for the others."""
    lfs = getattr(entry, "lfs", None)
    if lfs is not None:
        return sha256(path) == lfs.sha256
    data = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return blob.hexdigest() == getattr(entry, "blob_id", None)


def _commit(folder: Path, repo: str, todo: list[FileChange], api: HfApi) -> None:
    """Change everything in one commit: nobody can load half of a model."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations = [
        CommitOperationDelete(change.name)
        if change.kind == "removed"
        else CommitOperationAdd(change.name, str(folder / change.name))
        for change in todo
    ]
    api.create_commit(repo, operations, commit_message="unime export, verified")


def _readable(size: int) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.2f} GB"
