"""Where an output came from, and whether it may be reused, resumed or must be left alone.

`manifest.json` is deterministic: the resolved recipe, hashes of the inputs, and facts such as
prompt hashes and preprocessing. Its presence marks a finished output. `run.json` holds what
differs from run to run: host, versions, times, memory. `plan.json` marks an unfinished output
and says which recipe it belongs to, `journal.jsonl` which files it has so far.

Both list the files of the output with size and hash: the manifest those that equal runs write alike,
run.json the others. Whoever reads a finished output checks them first (`fingerprint`).
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unime.core import files, journal, locks
from unime.core.config import Recipe
from unime.core.contents import (
    Contents,
    check_contents,
    checksum,
    fingerprint,
    hash_listing,
    is_volatile,
    names_in,
    read_manifest,
    state_of,
)
from unime.core.errors import OutputError, UnimeError

FORMAT = 1
PACKAGES = ("torch", "transformers", "sentence-transformers", "peft", "accelerate", "datasets")
PLAN = "plan.json"
UNFINISHED = (PLAN, journal.NAME, locks.NAME)


@dataclass
class Output:
    """A stage's output folder while the stage fills it."""

    path: Path
    plan: dict[str, Any]
    up_to_date: bool = False
    """Finished before with the same recipe and inputs: nothing to do."""
    resumed: bool = False
    """Begun before with the same recipe and inputs: carry on."""
    _facts: dict[str, Any] = field(default_factory=dict)
    _notes: dict[str, Any] = field(default_factory=dict)
    _start: float = field(default_factory=time.monotonic)

    def file(self, name: str) -> Path:
        """Return the path of a file in this output."""
        return self.path / name

    def facts(self, **facts: Any) -> None:
        """Add deterministic facts to the manifest."""
        self._facts.update(facts)

    def note(self, **notes: Any) -> None:
        """Add facts about this run (times, rates) to run.json."""
        self._notes.update(notes)

    def finish(self) -> None:
        """Write run.json, then manifest.json: from here on the output is finished."""
        files.sweep_partials(self.path)
        contents = self._contents()
        stable = {name: state for name, state in contents.items() if not is_volatile(name)}
        self.note(files={name: contents[name] for name in contents.keys() - stable.keys()})
        files.write_json(self.file("run.json"), self._run_facts())
        manifest = {**self.plan, "facts": self._facts, "files": stable}
        files.write_json(self.file("manifest.json"), {**manifest, "checksum": checksum(manifest)})
        _remove_marks(self.path)
        self.close()

    def keep_journal(self) -> None:
        """Note what this process writes here; each of several processes is to call it."""
        journal.add_journal(self.path)

    def close(self) -> None:
        """Stop writing here: another process may go on."""
        journal.remove_journal(self.path)
        locks.unlock_folder(self.path)

    def _contents(self) -> Contents:
        """Return size and hash of every file: as it was written, where the journal knows."""
        written = journal.Journal(self.path).written()
        found: Contents = {}
        for name in sorted(names_in(self.path)):
            known, path = written.get(name), self.path / name
            found[name] = known if known and known[0] == path.stat().st_size else state_of(path)
        return found

    def _run_facts(self) -> dict[str, Any]:
        before = _read_if_there(self.file("run.json")) or {}
        seconds = time.monotonic() - self._start + float(before.get("seconds", 0.0))
        return {
            "seconds": round(seconds, 2),
            "peak_gb": round(peak_gb(), 3),
            "commit": commit(),
            "host": platform.node(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "versions": {name: _version(name) for name in PACKAGES},
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **self._notes,
        }

    def save_progress(self) -> None:
        """Add the time spent so far to run.json, so that a resumed run knows the whole."""
        files.write_json(self.file("run.json"), self._run_facts())
        self._start = time.monotonic()


def open_output(recipe: Recipe, inputs: dict[str, Path], restart: bool = False) -> Output:
    """Open a stage's output folder.

    Args:
        recipe: the resolved recipe.
        inputs: what the stage reads; output folders of other stages or files.
        restart: move an existing output aside (nothing is deleted) and begin anew.

    Raises:
        OutputError: when the folder holds another recipe's output, with the difference; or when
            an input is missing or unfinished.
    """
    path = Path(recipe.output)
    plan = plan_of(recipe.model_dump(mode="json"), inputs)
    _refuse_file(path)
    if restart and path.exists():
        move_aside(path)
    if (path / "manifest.json").is_file():
        return _finished(path, plan, recipe, inputs)
    check_ours(path)
    path.mkdir(parents=True, exist_ok=True)
    locks.lock_folder(path)
    try:
        return _begun(path, plan, recipe, inputs)
    except BaseException:
        locks.unlock_folder(path)
        raise


def _begun(path: Path, plan: dict[str, Any], recipe: Recipe, inputs: Mapping[str, Path]) -> Output:
    """Open an output that is not finished; this process is its only writer."""
    # Another process may have finished between the caller's look and the lock.
    if (path / "manifest.json").is_file():
        locks.unlock_folder(path)
        return _finished(path, plan, recipe, inputs)
    check_ours(path)
    begun = _read_if_there(path / PLAN)
    if begun is not None and not names_in(path):
        # Nothing was read yet: what could not be found out then may be what it is now.
        begun["inputs"] = _with_commits(begun.get("inputs"), plan["inputs"])
    if begun is None or begun == plan:
        files.write_json(path / PLAN, plan)
    out = Output(path, plan, resumed=begun is not None)
    if begun is not None:
        _check_same(path, begun, plan, "holds an unfinished output", recipe, inputs)
        files.sweep_partials(path)
        journal.Journal(path).check()
    out.keep_journal()
    return out


def _finished(
    path: Path, plan: dict[str, Any], recipe: Recipe, inputs: Mapping[str, Path]
) -> Output:
    manifest = read_manifest(path)
    manifest["inputs"] = _with_commits(manifest.get("inputs"), plan["inputs"])
    _check_same(path, manifest, plan, "holds a finished output", recipe, inputs)
    check_contents(path, manifest)
    _remove_leftovers(path)
    return Output(path, plan, up_to_date=True)


def _with_commits(old: Any, new: Mapping[str, str]) -> Any:
    """Return old inputs, with data sets of the Hub as they are now where either lacks the commit.

    Older versions did not note it, and now it may not be possible to find it out.
    """
    if not isinstance(old, dict):
        return old
    same = {
        name: now
        for name, now in new.items()
        if now.startswith("name:hub:")
        and (now.startswith(f"{old.get(name)}@") or str(old.get(name)).startswith(f"{now}@"))
    }
    return {name: same.get(name, value) for name, value in old.items()}


def _remove_leftovers(path: Path) -> None:
    """Remove what a run left that was killed between the manifest and the end of `finish`."""
    if not any((path / name).exists() for name in UNFINISHED):
        return
    with suppress(OutputError):  # its writer lives, and does it
        locks.lock_folder(path)
        _remove_marks(path)
        locks.unlock_folder(path)


def _refuse_file(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file; choose another place with output=FOLDER")


def check_ours(path: Path) -> None:
    """Refuse a place for an unfinished output that this project did not begin.

    Raises:
        OutputError: when something else lies there.
    """
    _refuse_file(path)
    is_new = not path.exists() or (path / PLAN).is_file()
    if not is_new and any(not p.name.startswith(".") for p in path.iterdir()):
        raise OutputError(
            f"{path} exists and was not written by unime (no manifest.json); "
            "choose another folder with output=FOLDER"
        )


def _remove_marks(path: Path) -> None:
    """Remove what only an unfinished output has."""
    for name in (journal.NAME, PLAN):
        (path / name).unlink(missing_ok=True)


def plan_of(recipe: Mapping[str, Any], inputs: Mapping[str, Path]) -> dict[str, Any]:
    """Return what makes a result what it is: the resolved recipe, and a hash of each input.

    Raises:
        OutputError: for an input that is missing or unfinished.
    """
    return {
        "format": FORMAT,
        "recipe": dict(recipe),
        "inputs": {name: fingerprint(place) for name, place in sorted(inputs.items())},
    }


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Return one line for each value that differs between two nested plans."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        lines = [
            differences(old.get(k), new.get(k), f"{name}.{k}" if name else str(k)) for k in keys
        ]
        return [line for group in lines for line in group]
    return [] if old == new else [f"{name}: {old!r} there, {new!r} now"]


def peak_gb() -> float:
    """Return the peak resident memory of this process in GB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS reports bytes.
    return kilobytes / (1e9 if platform.system() == "Darwin" else 1e6)


def commit() -> str | None:
    """Return the checkout's commit, with "-dirty" where it was changed; None outside of git."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _known_plan(manifest: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return the plan that a folder was filled by, as this version would have written it.

    A key that an older version did not know stands at its default: that version did what the
    default does. Without this, every new key would make all outputs those of another recipe.
    """
    plan = {key: manifest.get(key) for key in ("format", "recipe", "inputs")}
    # Where a key or value of it is unknown today, it is another recipe, and is shown as it stands.
    with suppress(ValidationError, UnimeError):
        schema = type(recipe)
        known = schema.model_validate(schema.upgraded(plan["recipe"] or {}))
        plan["recipe"] = known.model_dump(mode="json")
    return plan


def _check_same(
    path: Path,
    found: dict[str, Any],
    new: dict[str, Any],
    what: str,
    recipe: Recipe,
    inputs: Mapping[str, Path],
) -> None:
    """Refuse an output of another recipe or other inputs, with the difference.

    Args:
        path: the output.
        found: its manifest or plan.
        new: the plan of this run.
        what: how it is described.
        recipe: of this run.
        inputs: of this run.
    """
    old = _known_plan(found, recipe)
    lines = differences({**old, "inputs": _as_then(old["inputs"], new["inputs"], inputs)}, new)
    if lines:
        raise OutputError(
            "\n  ".join([f"{path} {what} of another recipe:", *lines])
            + "\nchoose another folder with output=FOLDER, or --restart (in Python restart=True) to move "
            "this one aside"
        )


def _as_then(old: Any, new: Mapping[str, str], inputs: Mapping[str, Path]) -> Any:
    """Return old inputs, those by names and sizes (as outputs once had it) in today's form."""
    if not isinstance(old, dict):
        return old
    return {
        name: new[name]
        if str(value).startswith("listing:")
        and new.get(name, "").startswith("tree:")
        and value == f"listing:{hash_listing(inputs[name])}"
        else value
        for name, value in old.items()
    }


def move_aside(path: Path) -> None:
    """Move what lies at a place to `NAME.old1`, or the next number that is free."""
    number = 1
    while (aside := path.with_name(f"{path.name}.old{number}")).exists():
        number += 1
    if path.is_dir():
        locks.lock_folder(path)
    shutil.move(path, aside)
    locks.unlock_folder(path)
    (aside / locks.NAME).unlink(missing_ok=True)


def _read_if_there(path: Path) -> dict[str, Any] | None:
    return files.read_json(path) if path.is_file() else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
