"""A writer's write-ahead log: append-only, one line for each group of scores.

A line is there whole or not at all, and ends in its own checksum (lines of older versions do not).
The writer holds a lock on its log as long as it lives, so that others can tell a log in use from
one whose writer was killed.
"""

from __future__ import annotations

import base64
import fcntl
import json
import math
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unime.core import files
from unime.core.errors import DataError
from unime.data.items import ID_BYTES
from unime.judge.engine import Score
from unime.judge.store.shard_checks import are_judgements, hash_text

PATTERN = "log-*.jsonl"
FIELDS = {"judge", "keys", "scores", "unscored"}
CHECKSUM = ', "xxh3": '
"""Of all that stands before it in the line."""


class Logged(NamedTuple):
    """One line: scores by one judge."""

    judge: str
    """Hash of its fingerprint."""
    scores: list[Score]


class WriterLog:
    """The log of this writer, or that of a dead one, locked."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, folder: Path) -> WriterLog:
        """Begin a log of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            path = folder / f"log-{uuid.uuid4().hex[:12]}.jsonl"
            lock = _locked(path, create=True)
            if lock is not None:
                return cls(path, lock)

    @classmethod
    def abandoned(cls, folder: Path) -> Iterator[WriterLog]:
        """Yield, locked, the logs whose writers are gone."""
        for path in sorted(folder.glob(PATTERN)):
            lock = _locked(path)
            if lock is not None:
                yield cls(path, lock)

    def append(self, judge: str, scores: Sequence[Score]) -> list[Score]:
        """Append scores; they are safe on disk when this returns.

        Returns:
            The scores as they will be read back, rounded to fp32.
        """
        line = _write_line(judge, scores)
        files.append_lines(self.path, [line])
        return _read_line(line).scores

    def read(self) -> list[Logged]:
        """Return all whole lines."""
        return read_log(self.path)

    def close(self, *, remove: bool) -> None:
        """Give up the lock; remove the log when its rows are in a shard."""
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._lock)


def read_log(path: Path) -> list[Logged]:
    """Return the whole lines of a log, also of one in use.

    Raises:
        DataError: when a line is damaged.
    """
    lines = []
    for number, line in enumerate(files.read_lines(path), start=1):
        try:
            lines.append(_read_line(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number} is damaged ({error}); move the file aside, what it held "
                "is scored again"
            ) from None
    return lines


def _locked(path: Path, *, create: bool = False) -> int | None:
    """Return a descriptor that holds the file's lock; None when another process has it."""
    try:
        descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between opening and locking, another process may have sealed and removed the file.
        if os.fstat(descriptor).st_nlink:
            return descriptor
    except OSError:
        pass  # in use
    os.close(descriptor)
    return None


def _write_line(judge: str, scores: Sequence[Score]) -> str:
    values = np.array([score.value for score in scores], dtype="<f4")
    keys = b"".join(score.key for score in scores)
    reasons = {i: score.reason for i, score in enumerate(scores) if math.isnan(score.value)}
    fields = {
        "judge": judge,
        "keys": base64.b64encode(keys).decode(),
        "scores": base64.b64encode(values.tobytes()).decode(),
        "unscored": reasons,
    }
    text = json.dumps(fields).removesuffix("}")
    return f'{text}{CHECKSUM}"{hash_text(text)}"}}'


def _read_line(line: str) -> Logged:
    fields = json.loads(line)
    if set(fields) != FIELDS:
        text, _, rest = line.rpartition(CHECKSUM)
        if set(fields) != {*FIELDS, "xxh3"} or rest != f'"{hash_text(text)}"}}':
            raise ValueError("its checksum is another")
    keys = base64.b64decode(fields["keys"], validate=True)
    values = np.frombuffer(base64.b64decode(fields["scores"], validate=True), dtype="<f4")
    if len(keys) != len(values) * ID_BYTES:
        raise ValueError(f"{len(keys)} bytes of keys for {len(values)} scores")
    reasons = fields["unscored"]
    codes = np.array([0 if str(i) in reasons else -1 for i in range(len(values))], dtype=np.int32)
    if not are_judgements(values, codes).all():
        raise ValueError("it holds scores outside 0..1")
    scores = [
        # A lone surrogate, which a server's message may hold, can be written nowhere.
        Score(keys[i * ID_BYTES : (i + 1) * ID_BYTES], value, _writable(reasons.get(str(i), "")))
        for i, value in enumerate(values.tolist())
    ]
    return Logged(str(fields["judge"]), scores)


def _writable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
