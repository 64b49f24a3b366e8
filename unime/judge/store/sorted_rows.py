"""Rows of the store as columns, and sorted columns that find a key fast.

A 128-bit key is two unsigned 64-bit numbers, so numpy can sort and search ten million of them in
seconds and 24 bytes a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt64

from unime.core import files
from unime.data.items import ID_BYTES
from unime.judge.engine import Score
from unime.judge.store.shard_checks import hash_stream

ARRAYS = ("high", "low", "value", "reason")
HASHES = "hashes.json"
INDEX_FILES = (*(f"{name}.npy" for name in ARRAYS), "reasons.json", "shards.json")


@dataclass(frozen=True, eq=False)
class Rows:
    """Scores by key; NaN values have a reason."""

    high: UInt64[np.ndarray, " rows"]
    low: UInt64[np.ndarray, " rows"]
    value: Float32[np.ndarray, " rows"]
    reason: Int32[np.ndarray, " rows"]
    """Place in `reasons`; -1 where there is a score."""
    reasons: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.high)

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Rows:
        """Return scores as columns, in their order."""
        high, low = split_keys(b"".join(score.key for score in scores))
        values = np.array([score.value for score in scores], dtype=np.float32)
        names: dict[str, int] = {}
        codes = [
            names.setdefault(score.reason, len(names)) if score.value != score.value else -1
            for score in scores
        ]
        return cls(high, low, values, np.array(codes, dtype=np.int32), tuple(names))

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Return several rows' columns one after the other."""
        names: dict[str, int] = {}
        codes = []
        for part in parts:
            # -1, no reason, takes the last place: itself.
            new = [*(names.setdefault(reason, len(names)) for reason in part.reasons), -1]
            codes.append(np.array(new, dtype=np.int32)[part.reason])
        if not parts:
            return cls.of([])
        return cls(
            np.concatenate([part.high for part in parts]),
            np.concatenate([part.low for part in parts]),
            np.concatenate([part.value for part in parts]),
            np.concatenate(codes),
            tuple(names),
        )

    def take(self, places: Int64[np.ndarray, " some"]) -> Rows:
        """Return the rows at some places."""
        return Rows(*self._columns(places), self.reasons)

    def _columns(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.high[places], self.low[places], self.value[places], self.reason[places]

    def keys(self) -> bytes:
        """Return the keys one after the other."""
        both = np.stack([self.high, self.low], axis=1)
        return both.astype(">u8").tobytes()

    def sorted(self) -> SortedRows:
        """Return the rows by key, each key once."""
        order = self.order()
        return SortedRows(*self._columns(order), self.reasons)

    def order(self) -> Int64[np.ndarray, " distinct"]:
        """Return where each distinct key's row is, by key.

        Of rows with one key a score goes before a failure, then the smaller score: which row stays
        must not depend on who wrote first.
        """
        # Nearly all keys differ in their first half: one fast sort, and repairs where they don't.
        order = np.argsort(self.high, kind="stable")
        high = self.high[order]
        same = np.flatnonzero(high[1:] == high[:-1])
        if not len(same):
            return order
        runs = np.split(same, np.flatnonzero(np.diff(same) > 1) + 1)
        keep = np.ones(len(order), dtype=bool)
        for run in runs:
            start, end = int(run[0]), int(run[-1]) + 2
            places = order[start:end]
            # NaN sorts last.
            places = places[np.lexsort((self.value[places], self.low[places]))]
            order[start:end] = places
            keep[start + 1 : end] = self.low[places[1:]] != self.low[places[:-1]]
        return order[keep]


class SortedRows(Rows):
    """Rows sorted by key, each key once."""

    def find(
        self, high: UInt64[np.ndarray, " keys"], low: UInt64[np.ndarray, " keys"]
    ) -> Int64[np.ndarray, " keys"]:
        """Return where each key's row is, -1 where there is none."""
        if not len(self):
            return np.full(len(high), -1, dtype=np.int64)
        places = np.searchsorted(self.high, high)
        last = len(self) - 1
        while True:
            here = np.minimum(places, last)
            half = (places <= last) & (self.high[here] == high)
            # Two keys that share a first half lie beside each other.
            beside = half & (self.low[here] < low)
            if not beside.any():
                found = half & (self.low[here] == low)
                return np.where(found, places, -1).astype(np.int64)
            places = places + beside

    def save(self, folder: Path, shards: Sequence[str]) -> None:
        """Write the columns, and whose rows they are, as a folder that `load` maps into memory."""
        with files.atomic_folder(folder) as temporary:
            for name in ARRAYS:
                np.save(temporary / f"{name}.npy", getattr(self, name))
            files.write_json(temporary / "reasons.json", list(self.reasons))
            files.write_json(temporary / "shards.json", list(shards))
            files.write_json(temporary / HASHES, _hashes(temporary))

    @classmethod
    def load(cls, folder: Path) -> tuple[set[str], SortedRows]:
        """Map saved columns into memory; return whose rows they are, too.

        Raises:
            ValueError: when a file is not the one that was written.
        """
        if not (folder / HASHES).is_file():
            raise ValueError(f"{folder} carries no hashes")
        expected, found = files.read_json(folder / HASHES), _hashes(folder)
        changed = [name for name in INDEX_FILES if found[name] != dict(expected).get(name)]
        if changed:
            raise ValueError(f"{folder / changed[0]} is not what was written")
        high, low, value, reason = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS
        )
        reasons, shards = (
            files.read_json(folder / f"{name}.json") for name in ("reasons", "shards")
        )
        return set(shards), cls(high, low, value, reason, tuple(reasons))


def _hashes(folder: Path) -> dict[str, str]:
    found = {}
    for name in INDEX_FILES:
        with (folder / name).open("rb") as handle:
            found[name] = hash_stream(handle)
    return found


def split_keys(
    keys: bytes | memoryview,
) -> tuple[UInt64[np.ndarray, " keys"], UInt64[np.ndarray, " keys"]]:
    """Return the halves of keys that lie one after the other."""
    both = np.frombuffer(keys, dtype=">u8").reshape(-1, ID_BYTES // 8)
    return both[:, 0].astype(np.uint64), both[:, 1].astype(np.uint64)
