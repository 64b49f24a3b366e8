"""The store as a job sees it: look keys up, add scores, merge shards."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32

from unime.core import console, files
from unime.core.errors import UnimeError
from unime.judge.engine import Score
from unime.judge.store import write_ahead_log
from unime.judge.store.shard_checks import check_scores
from unime.judge.store.shards import SHARD, Shards, rows_of, table_of
from unime.judge.store.sorted_rows import Rows, SortedRows, split_keys

ROWS_IN_MEMORY = 1 << 18
"""A writer's log becomes a shard after this many rows."""

ROWS_WORTH_AN_INDEX = 500_000
"""Fewer are sorted again at each opening: quicker than the files."""


PARTS = 16
"""More sorted parts than this are merged: each costs a search."""


class StoredScores(NamedTuple):
    """What the store knows of some keys, in their order."""

    known: Bool[np.ndarray, " keys"]
    """Scored, or failed for a reason."""
    values: Float32[np.ndarray, " keys"]
    """NaN where unknown or failed."""


class ScoreStore:
    """All scores below a path, and this process's log. Closing turns the log into a shard."""

    def __init__(self, path: str | Path, local: Path | None = None) -> None:
        """Open a store; it comes into being with its first score.

        Args:
            path: a folder, or any URL that fsspec knows ("s3://bucket/scores").
            local: where log and index are; beside the shards when these are local files.
        """
        self._shards = Shards(str(path))
        self._local = local or _local_folder(self._shards)
        self._log: write_ahead_log.WriterLog | None = None
        self._recent: dict[bytes, Score] = {}
        self._parts: list[SortedRows] = []
        self._judges: set[str] = set()
        self._recover()
        self._read()

    def __enter__(self) -> ScoreStore:
        """Return the store."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Seal this writer's log; after an error, leave it as a killed writer would."""
        if kind is None:
            self.close()
        elif self._log is not None:
            self._log.close(remove=False)
            self._log = None

    def __len__(self) -> int:
        """Return the number of rows known; a key that two writers hold counts twice."""
        return sum(map(len, self._parts)) + len(self._recent)

    def find(self, keys: Sequence[bytes]) -> StoredScores:
        """Look keys up."""
        values = np.full(len(keys), np.nan, dtype=np.float32)
        known = np.zeros(len(keys), dtype=bool)
        high, low = split_keys(b"".join(keys))
        for part in self._parts:
            places = part.find(high, low)
            hits = np.flatnonzero(places >= 0)
            new = part.value[places[hits]]
            known[hits] = True
            # A pair that failed for one writer may have a score from another.
            values[hits] = np.where(np.isnan(new), values[hits], new)
        if self._recent:
            for number, key in enumerate(keys):
                score = self._recent.get(key)
                if score is not None:
                    known[number] = True
                    if not math.isnan(score.value):
                        values[number] = score.value
        return StoredScores(known, values)

    def reasons(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """Return why keys have no score; only those that failed."""
        found = self.find(keys)
        places = np.flatnonzero(found.known & np.isnan(found.values))
        missing = [keys[place] for place in places.tolist()]
        reasons: dict[bytes, str] = {}
        high, low = split_keys(b"".join(missing))
        for part in self._parts:
            for key, place in zip(missing, part.find(high, low).tolist(), strict=True):
                if place >= 0 and part.reason[place] >= 0:
                    reasons[key] = part.reasons[int(part.reason[place])]
        return reasons | {key: self._recent[key].reason for key in missing if key in self._recent}

    def add(self, fingerprint: str, scores: Sequence[Score]) -> None:
        """Add a judge's scores; they are safe on disk when this returns.

        Raises:
            DataError: when one is no probability, nor NaN with a reason; none is kept then.
        """
        if not scores:
            return
        check_scores(fingerprint, scores)
        if self._log is None:
            self._log = write_ahead_log.WriterLog.create(self._local)
        judge = _digest(fingerprint)
        if judge not in self._judges:
            self._shards.note_judge(judge, fingerprint)
            self._judges.add(judge)
        # As read back, so that a run and its resumption see the same rounding.
        for score in self._log.append(judge, scores):
            self._recent[score.key] = score
        if len(self._recent) >= ROWS_IN_MEMORY:
            self.close()
            self._parts.append(Rows.of(list(self._recent.values())).sorted())
            self._recent = {}
            if len(self._parts) > PARTS:
                first, *others = self._parts
                self._parts = [first, Rows.joined(others).sorted()]

    def close(self) -> None:
        """Turn this writer's log into a shard."""
        if self._log is not None:
            self._seal(self._log)
            self._log = None

    def compact(self) -> int:
        """Merge all shards into as few as possible; return how many there were.

        What remains depends on the rows alone: stores with equal content become equal files.
        """
        self.close()
        with self._locked("compact"):
            names = self._shards.names()
            tables = [self._shards.read(name) for name in names]
            if tables:
                table = pa.concat_tables(tables).unify_dictionaries()
                kept = table.take(pa.array(rows_of(table).order()))
                new = self._shards.write(_canonical(kept))
                for name in names:
                    if name != new:
                        self._shards.remove(name)
        self._read()
        return len(names)

    def summary(self) -> dict[str, int]:
        """Return how many rows, shards and unsealed logs there are."""
        waiting = len(list(self._local.glob(write_ahead_log.PATTERN)))
        return {"rows": len(self), "shards": len(self._shards.names()), "logs": waiting}

    def _recover(self) -> None:
        """Seal the logs that killed writers left."""
        for log in write_ahead_log.WriterLog.abandoned(self._local):
            self._seal(log)

    def _seal(self, log: write_ahead_log.WriterLog) -> None:
        """Turn a log into a shard. Killed in between, the same shard is written again."""
        lines = log.read()
        scores = [score for line in lines for score in line.scores]
        if scores:
            judges = [line.judge for line in lines for _ in line.scores]
            rows = Rows.of(scores)
            order = rows.order()
            column = pa.array(judges).dictionary_encode().take(pa.array(order))
            self._shards.write(_canonical(table_of(rows.take(order), column)))
        log.close(remove=True)

    def _read(self) -> None:
        """Read the shards through the index, and the logs of all living writers."""
        while True:
            names = self._shards.names()
            try:
                self._parts = self._indexed(names)
                break
            except FileNotFoundError:
                continue  # merged away between listing and reading
        self._recent = {
            score.key: score
            for path in sorted(self._local.glob(write_ahead_log.PATTERN))
            for line in write_ahead_log.read_log(path)
            for score in line.scores
        }

    def _indexed(self, names: list[str]) -> list[SortedRows]:
        """Return all rows of some shards: the saved index, and what is newer than it."""
        covered, index = self._saved_index(set(names))
        new = [name for name in names if name not in covered]
        parts = [rows for name in new for rows in self._shards.read_rows(name)]
        if sum(map(len, parts)) < ROWS_WORTH_AN_INDEX:
            return [*index, *([Rows.joined(parts).sorted()] if parts else [])]
        rows = Rows.joined([*index, *parts])
        del index, parts
        rows = rows.sorted()
        folder = self._local / f"index-{_digest(' '.join(names))}"
        with self._locked("index"):
            for old in self._local.glob("index-*"):
                files.remove_folder(old)
            rows.save(folder, names)
        return [SortedRows.load(folder)[1]]

    def _saved_index(self, names: set[str]) -> tuple[set[str], list[SortedRows]]:
        """Return what a saved index covers and its rows; nothing if there is none of use."""
        for folder in sorted(self._local.glob("index-*")):
            try:
                covered, rows = SortedRows.load(folder)
            except (OSError, ValueError, TypeError, UnimeError) as error:
                console.log(f"store: the index cannot be used ({error}); it is built anew")
                continue
            if covered <= names:
                return covered, [rows]
        return set(), []

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Keep other processes of this machine from doing the same."""
        self._local.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._local / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _canonical(table: pa.Table) -> pa.Table:
    """Number the dictionaries anew by first use: equal rows become equal bytes."""
    columns = [
        _by_first_use(column) if pa.types.is_dictionary(column.type) else column.combine_chunks()
        for column in table.columns
    ]
    return pa.Table.from_arrays(columns, schema=SHARD)


def _by_first_use(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """Return a dictionary column with only what is used, in that order.

    By its numbers: written out, the strings of all rows may exceed what a narrow column holds.
    """
    whole = column.unify_dictionaries().combine_chunks()
    used = whole.indices.dictionary_encode()
    return pa.DictionaryArray.from_arrays(used.indices, whole.dictionary.take(used.dictionary))


def _local_folder(shards: Shards) -> Path:
    if shards.is_local:
        return Path(shards.path.removeprefix("file://")) / ".local"
    return Path.home() / ".cache" / "unime" / "scores" / _digest(shards.path)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
