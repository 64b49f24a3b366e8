"""Data sets of the `datasets` library, saved to disk or on the Hub, as Parquet files below the data root.

Written once, so that images inside them have a location that stays valid; then they are read like any
other Parquet file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from unime.core import console, files
from unime.core.errors import DataError

HUB = "hub:"
CONVERTED = "converted"


def hub_to_parquet(repo: str, name: str | None, split: str | None, root: Path) -> Path:
    """Load a data set from the Hub (or its cache) and return it as a Parquet file.

    Raises:
        DataError: when it cannot be loaded.
    """
    import datasets

    path = root / CONVERTED / f"{_plain_name(f'{repo}--{name or str()}--{split or str()}')}.parquet"
    if path.is_file():
        return path
    try:
        loaded = datasets.load_dataset(repo, name, split=split)
    # `datasets` raises what its back ends raise: connection, name, format and value errors alike.
    except Exception as error:
        raise DataError(
            f"cannot load {HUB}{repo} (name {name}, split {split}): "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from None
    return _write_parquet(loaded, split, path, f"{HUB}{repo}")


def saved_to_parquet(folder: Path, split: str | None, root: Path) -> Path:
    """Return a folder written by `save_to_disk` as a Parquet file.

    Raises:
        DataError: when it cannot be loaded, or holds several splits and none was chosen.
    """
    import datasets

    state = hashlib.sha256()
    for part in sorted(folder.rglob("*.json")):
        state.update(part.read_bytes())
    path = root / CONVERTED / f"{_plain_name(folder.name)}-{state.hexdigest()[:12]}.parquet"
    if split is not None:
        path = path.with_name(f"{split}-{path.name}")
    if path.is_file():
        return path
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(f"{folder} is no data set written by save_to_disk: {error}") from None
    return _write_parquet(loaded, split, path, str(folder))


def _write_parquet(loaded: Any, split: str | None, path: Path, what: str) -> Path:
    import datasets

    if isinstance(loaded, dict):
        if split not in loaded:
            raise DataError(f"{what} has the splits {', '.join(loaded)}; choose one by split:")
        loaded = loaded[split]
    # Undecoded, an image column is {bytes, path}: nothing is decoded and written anew.
    for column, feature in loaded.features.items():
        if isinstance(feature, datasets.Image):
            loaded = loaded.cast_column(column, datasets.Image(decode=False))
    console.log(f"{what}: writing {len(loaded)} rows to {path}")
    with files.atomic_path(path) as temporary:
        loaded.to_parquet(str(temporary))
    return path


def _plain_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
