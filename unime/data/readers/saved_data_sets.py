"""Data sets of the `datasets` library, saved to disk, as Parquet files below the data root.

Written once, so that images inside them have a location that stays valid; then they are read like any
other Parquet file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from unime.core import console, files
from unime.core.errors import DataError

CONVERTED = "converted"


def saved_to_parquet(folder: Path, split: str | None, root: Path) -> Path:
    """Return a folder written by `save_to_disk` as a Parquet file.

    Raises:
        DataError: when it cannot be loaded, or holds several splits and none was chosen.
    """
    import datasets

    state = hashlib.sha256()
    for part in sorted(folder.rglob("*.json")):
        state.update(part.read_bytes())
    # Its name is an input of finished outputs: it stays as it was first.
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in folder.name)
    path = root / CONVERTED / f"{name}-{state.hexdigest()[:12]}.parquet"
    if split is not None:
        path = path.with_name(f"{split}-{path.name}")
    if path.is_file():
        return path
    try:
        loaded: Any = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(f"{folder} is no data set written by save_to_disk: {error}") from None
    if isinstance(loaded, dict):
        if split not in loaded:
            raise DataError(f"{folder} has the splits {', '.join(loaded)}; choose one by split:")
        loaded = loaded[split]
    write_parquet(loaded, path, str(folder))
    return path


def write_parquet(loaded: Any, path: Path, what: str) -> None:
    """Write a `datasets.Dataset` as a Parquet file; images in it stay the bytes they are."""
    import datasets

    # Undecoded, an image column is {bytes, path}: nothing is decoded and written anew.
    for column, feature in loaded.features.items():
        if isinstance(feature, datasets.Image):
            loaded = loaded.cast_column(column, datasets.Image(decode=False))
    console.log(f"{what}: writing {len(loaded)} rows to {path}")
    with files.atomic_path(path) as temporary:
        loaded.to_parquet(str(temporary))
