"""Embeddings made elsewhere, looked up by what they embed.

`unime eval inputs RECIPE FOLDER` writes `inputs.parquet`: one row an input with its id, text,
picture, side and instruction. Whoever embeds them writes `embeddings.npy`, float `(rows, dim)`, in
the same order, beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from unime.core.config import Section
from unime.core.errors import ModelError

if TYPE_CHECKING:
    from unime.models.inputs import ModelInput

INPUTS = "inputs.parquet"
EMBEDDINGS = "embeddings.npy"


class PrecomputedConfig(Section):
    """Where they are."""

    id: str
    """A folder with `inputs.parquet` and `embeddings.npy`."""
    normalize: bool = True


def load_precomputed(config: PrecomputedConfig, device: str | None = None) -> Precomputed:
    """Open them.

    Raises:
        ModelError: when a file is missing or their rows do not fit.
    """
    folder = Path(config.id)
    missing = [name for name in (INPUTS, EMBEDDINGS) if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder} has no {' and no '.join(missing)}; see `unime eval inputs`")
    ids = pq.read_table(folder / INPUTS, columns=["id"])["id"].to_pylist()
    values = np.load(folder / EMBEDDINGS, mmap_mode="r")
    if values.ndim != 2 or len(values) != len(ids):
        raise ModelError(
            f"{folder / EMBEDDINGS} has shape {values.shape}, expected ({len(ids)}, dim): one row "
            f"for each of {INPUTS}"
        )
    return Precomputed(config, {key: row for row, key in enumerate(ids)}, values)


class Precomputed:
    """Looks embeddings up; it is asked by id, not by content."""

    def __init__(
        self, config: PrecomputedConfig, rows: dict[bytes, int], values: np.ndarray
    ) -> None:
        self._config, self._rows, self._values = config, rows, values

    def look_up(self, ids: Sequence[bytes]) -> np.ndarray:
        """Return float32 embeddings `(ids, dim)`.

        Raises:
            ModelError: when some are not there.
        """
        missing = sum(key not in self._rows for key in ids)
        if missing:
            raise ModelError(
                f"{self._config.id}: {missing} of {len(ids)} inputs have no embedding; write them "
                "anew with `unime eval inputs`"
            )
        found = np.asarray(self._values[[self._rows[key] for key in ids]], dtype=np.float32)
        if self._config.normalize:
            found = found / np.linalg.norm(found, axis=1, keepdims=True)
        return found

    def encode(
        self, inputs: Sequence[ModelInput], batch_size: int = 64, label: str = "encoding"
    ) -> np.ndarray:
        """Refuse: embeddings from elsewhere know inputs by id alone."""
        raise ModelError(f"{self._config.id} holds embeddings; it cannot encode new inputs")
