"""Where an output came from, and whether it may be reused, resumed or must be left alone.

`manifest.json` is deterministic: the resolved recipe, hashes of the inputs, and facts such as
prompt hashes and preprocessing. Its presence marks a finished output. `run.json` holds what
differs from run to run: host, versions, times, memory. `plan.json` marks an unfinished output
and says which recipe it belongs to.
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

from unime import files
from unime.config import Recipe
from unime.errors import OutputError, UnimeError

FORMAT = 1
PACKAGES = ("torch", "transformers", "sentence-transformers", "peft", "accelerate", "datasets")
MARKS = ("manifest.json", "run.json", "plan.json")


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
        files.write_json(self.file("run.json"), self._run_facts())
        files.write_json(self.file("manifest.json"), {**self.plan, "facts": self._facts})
        self.file("plan.json").unlink(missing_ok=True)

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
    if restart and path.exists():
        _move_aside(path)
    finished = _read_if_there(path / "manifest.json")
    if finished is not None:
        _check_same(path, _known_plan(finished, recipe), plan, "holds a finished output")
        # Killed between the manifest and the end of `finish`.
        (path / "plan.json").unlink(missing_ok=True)
        return Output(path, plan, up_to_date=True)
    begun = _read_if_there(path / "plan.json")
    if begun is not None:
        _check_same(path, _known_plan(begun, recipe), plan, "holds an unfinished output")
        files.sweep_partials(path)
        return Output(path, plan, resumed=True)
    if path.exists() and any(not p.name.startswith(".") for p in path.iterdir()):
        raise OutputError(
            f"{path} exists and was not written by unime (no manifest.json); "
            "choose another folder with output=FOLDER"
        )
    path.mkdir(parents=True, exist_ok=True)
    files.write_json(path / "plan.json", plan)
    return Output(path, plan)


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


def fingerprint(place: Path) -> str:
    """Return what identifies an input: hash of a finished output's manifest, or of a file.

    A folder that this project did not write is identified by its files' names and sizes; a name
    that is no path (a Hub id) by itself.
    """
    # A trained model lies in a stage's output (2_warmup/model): the stage's manifest names it.
    for folder in (place, place.parent):
        if (folder / "manifest.json").is_file():
            return f"manifest:{files.sha256_file(folder / 'manifest.json')}"
        if (folder / "plan.json").is_file():
            raise OutputError(f"{folder} is unfinished; run its stage again, it will be resumed")
    if place.is_file():
        return f"sha256:{files.sha256_file(place)}"
    if place.is_dir():
        return f"listing:{_hash_listing(place)}"
    if place.is_absolute() or place.parts[:1] in {("runs",), (".",), ("..",)}:
        raise OutputError(
            f"{place} is missing (working directory {Path.cwd()}); run its stage first"
        )
    return f"name:{place.as_posix()}"


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
        plan["recipe"] = type(recipe).model_validate(plan["recipe"]).model_dump(mode="json")
    return plan


def _check_same(path: Path, old: dict[str, Any], new: dict[str, Any], what: str) -> None:
    lines = differences(old, new)
    if lines:
        raise OutputError(
            "\n  ".join([f"{path} {what} of another recipe:", *lines])
            + "\nchoose another folder with output=FOLDER, or --restart to move this one aside"
        )


def _move_aside(path: Path) -> None:
    number = 1
    while (aside := path.with_name(f"{path.name}.old{number}")).exists():
        number += 1
    shutil.move(path, aside)


def _read_if_there(path: Path) -> dict[str, Any] | None:
    return files.read_json(path) if path.is_file() else None


def _hash_listing(folder: Path) -> str:
    import hashlib

    hasher = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        hasher.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\n".encode())
    return hasher.hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
