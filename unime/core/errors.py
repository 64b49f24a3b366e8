"""Errors a user can cause, each printed as one clear sentence by the command line.

UnimeError
 |- RecipeError   a recipe, option or name is wrong
 |- DataError     input data cannot be used
 |   |- UnusableError  a file or picture of the user's, by kind
 |   `- DamagedError   a file that unime wrote has other contents now
 |- PromptError   a prompt file or one of its fields is wrong
 |- ModelError    a model cannot be loaded or does not fit the request
 `- OutputError   an output folder holds something else
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

FULL = (errno.ENOSPC, errno.EDQUOT)
TERMINATED = 143
"""Exit code of a command that SIGTERM ended: 128 + 15."""


class UnimeError(Exception):
    """Something the user did or fed; says what was got, what was expected, what to do."""


class RecipeError(UnimeError):
    """A recipe, an override or a name in it is wrong."""


class DataError(UnimeError):
    """Input data cannot be used."""


class UnusableError(DataError):
    """A file, or a picture, that cannot be used; the message is "KIND: DETAIL"."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail

    def __reduce__(self) -> tuple[type[UnusableError], tuple[str, str]]:
        """Rebuild from both parts; exceptions pickle by their single message otherwise."""
        return type(self), (self.kind, self.detail)


class DamagedError(DataError):
    """A file that this project wrote has other contents now."""


class PromptError(UnimeError):
    """A prompt file, or a field asked of it, is wrong."""


class ModelError(UnimeError):
    """A model cannot be loaded, or does not fit what was asked of it."""


class OutputError(UnimeError):
    """An output folder holds something this command must not overwrite."""


class Terminated(SystemExit):
    """The process was told to stop (SIGTERM) and ends with exit code 143, as schedulers expect.

    No `Exception`: nothing that handles errors may take it for one.
    """

    def __init__(self) -> None:
        super().__init__(TERMINATED)


EXTRAS = {
    "aiohttp": ("judge", "eval"),
    "deepspeed": ("train",),
    "mteb": ("eval", "examples"),
    "open_clip": ("eval",),
    "starlette": ("search",),
    "tenacity": ("judge", "eval"),
    "uvicorn": ("search",),
    "vl_convert": ("eval",),
}
"""Modules that a plain installation lacks, and the extras that bring each."""


def extra_missing(error: ImportError, command: str = "") -> str | None:
    """Return what to say when an optional package is missing; None for any other module.

    Args:
        error: what the import raised.
        command: the command that ran; its own extra is named where several would do.
    """
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    names = EXTRAS[module]
    extra = command if command in names else names[0]
    return f"this needs the package {module}: pip install 'unime[{extra}]'"


def sentence_of(error: UnimeError | OSError) -> str:
    """Return an error as one sentence; what the system refused is said with its file and a way on."""
    if isinstance(error, UnimeError):
        return str(error)
    where = f"{error.filename}: " if error.filename is not None else ""
    reason = error.strerror or str(error) or type(error).__name__
    advice = {
        **dict.fromkeys(FULL, "; free some space, then the same command carries on"),
        errno.EACCES: f"; this process runs as user {os.getuid() if hasattr(os, 'getuid') else '?'}",
        errno.EROFS: "; choose another place with output=FOLDER",
    }
    return f"{where}{reason}{advice.get(error.errno or 0, '')}"


def cannot_load(what: str, model: str, error: Exception) -> ModelError:
    """Return what to say when a library fails to load a folder or Hub id.

    Libraries take a folder that is not there for a Hub id, and complain of its form.
    """
    is_path = model.count("/") > 1 or model.startswith((".", "~", "/"))
    reason: object = error
    if is_path and not Path(model).exists():
        reason = f"there is no such folder (working directory {Path.cwd()}), and no such Hub id"
    return ModelError(f"cannot load the {what} {model}: {reason}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for a near miss, else "; known: a, b, c"."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """Return `table[name]`.

    Raises:
        RecipeError: when the name is unknown, with the nearest right name.
    """
    if name not in table:
        raise RecipeError(f"unknown {what} '{name}'{did_you_mean(name, table)}")
    return table[name]
