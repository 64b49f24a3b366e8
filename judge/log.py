"""The log of scores: append-only, one line a block, so that a block is there whole or not at all.

A line holds the block's number, its pair keys and its fp32 scores, each list as base64 of its
bytes, and the reasons of what is unscored. A kill at any moment leaves whole blocks.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unime import files
from unime.errors import DataError
from unime.records import ID_BYTES, Score


class ScoreLog:
    """Scores by pair key, and which blocks are done."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.blocks: set[int] = set()
        self.values: dict[bytes, float] = {}
        self.reasons: dict[bytes, str] = {}
        for number, line in enumerate(files.read_lines(path), start=1):
            try:
                block, scores = _read_line(line)
            except (ValueError, KeyError) as error:
                raise DataError(f"{path}, line {number} is damaged ({error}); --restart") from None
            self._take(block, scores)

    def add(self, block: int, scores: Sequence[Score]) -> None:
        """Append one block's scores; it is safe on disk when this returns."""
        line = _write_line(block, scores)
        files.append_lines(self._path, [line])
        # Read back, so that a run and its resumption see the same rounding.
        self._take(*_read_line(line))

    def _take(self, block: int, scores: Sequence[Score]) -> None:
        self.blocks.add(block)
        for score in scores:
            self.values[score.key] = score.value
            if math.isnan(score.value):
                self.reasons[score.key] = score.reason


def _write_line(block: int, scores: Sequence[Score]) -> str:
    values = np.array([score.value for score in scores], dtype="<f4")
    keys = b"".join(score.key for score in scores)
    reasons = {i: score.reason for i, score in enumerate(scores) if math.isnan(score.value)}
    fields = {
        "block": block,
        "keys": base64.b64encode(keys).decode(),
        "scores": base64.b64encode(values.tobytes()).decode(),
        "unscored": reasons,
    }
    return json.dumps(fields)


def _read_line(line: str) -> tuple[int, list[Score]]:
    fields = json.loads(line)
    keys = base64.b64decode(fields["keys"])
    values = np.frombuffer(base64.b64decode(fields["scores"]), dtype="<f4").tolist()
    reasons = fields["unscored"]
    scores = [
        Score(keys[i * ID_BYTES : (i + 1) * ID_BYTES], value, reasons.get(str(i), ""))
        for i, value in enumerate(values)
    ]
    return int(fields["block"]), scores
