"""Configurations of a data set of the Hub, and their rows as Parquet files below the data root.

`datasets` says which files make up which split of which configuration, from the data set's card or the
files' names. It is shown a folder in which the files of the commit have no bytes yet; those that are asked
for are fetched then, and no others. No code of a data set is run.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from unime.core.errors import FULL, DataError, UnimeError, did_you_mean
from unime.data.readers.hub_repository import HubRepository, plain_name
from unime.data.readers.saved_data_sets import write_parquet

CARDS = ("README.md", ".huggingface.yaml", "dataset_infos.json")
"""Files that say how a data set is laid out."""


def configurations(data: HubRepository, wanted: str | Sequence[str] | None) -> list[str]:
    """Return the configurations that a source names, in the data set's order.

    Args:
        data: the data set.
        wanted: a name, names, or patterns as in a shell; None for the only one, or the default.

    Raises:
        DataError: when one is not there, or none was chosen of several.
    """
    known, default = _known(data)
    if wanted is None:
        if default is None:
            raise DataError(
                f"{data.title} has {len(known)} configurations: {', '.join(known)}; choose by name:, a "
                'list of them, or "*" for all'
            )
        return [default]
    chosen: set[str] = set()
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        # A name may have characters that mean something in a pattern.
        found = {pattern} & {*known} or {name for name in known if fnmatchcase(name, pattern)}
        if not found:
            raise DataError(
                f"{data.title} has no configuration '{pattern}'{did_you_mean(pattern, known)}"
                f" (all: {', '.join(known)})"
            )
        chosen |= found
    return [name for name in known if name in chosen]


def rows_of_configuration(data: HubRepository, name: str, split: str | None) -> Path:
    """Return the rows of one configuration as a Parquet file, fetched and written if it is not there.

    Raises:
        DataError: when the split is not there, none was chosen of several, or a file cannot be read.
    """
    path = (
        data.place / f"{plain_name(name)}--{plain_name(split or 'all')}-{data.commit[:12]}.parquet"
    )
    if path.is_file():
        return path
    scratch = data.place / ".arrow"
    # What a killed run left.
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with _laid_out(data) as folder:
            write_parquet(
                _loaded(data, folder, name, split, scratch), path, f"{data.title}, {name}"
            )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return path


def _known(data: HubRepository) -> tuple[list[str], str | None]:
    """Return all configurations, and the default one if there is one."""
    import datasets

    assert data.files is not None  # reads the record, if there is one
    if "configurations" not in data.notes:
        with _laid_out(data) as folder, _sentences(data):
            names = datasets.get_dataset_config_names(str(folder))
            default = datasets.get_dataset_default_config_name(str(folder))
        if default is None and len(names) == 1:
            default = names[0]
        data.note(configurations=names, default=default)
    return data.notes["configurations"], data.notes["default"]


@contextmanager
def _laid_out(data: HubRepository) -> Iterator[Path]:
    """Make a folder with the cards of the data set, and all of its other files empty."""
    cards = data.fetch([name for name in CARDS if name in data.files])
    with tempfile.TemporaryDirectory(prefix="unime-hub-") as temporary:
        folder = Path(temporary) / plain_name(data.repo.rpartition("/")[2])
        for name in data.files:
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if name in cards:
                shutil.copyfile(cards[name], place)
            else:
                place.touch()
        yield folder


def _loaded(data: HubRepository, folder: Path, name: str, split: str | None, scratch: Path) -> Any:
    """Return one split as a `datasets.Dataset`, its files fetched."""
    import datasets
    from datasets.data_files import DataFilesDict
    from datasets.table import embed_table_storage

    with _sentences(data):
        builder = datasets.load_dataset_builder(str(folder), name, cache_dir=str(scratch))
    known = {str(part): found for part, found in (builder.config.data_files or {}).items()}
    if not known:
        raise DataError(f"{data.title}: configuration '{name}' has no files of rows")
    wanted = _splits(split, list(known), f"{data.title}, configuration '{name}'")
    # The other splits are not fetched, so they are not to be read.
    builder.config.data_files = DataFilesDict({part: cast("Any", known[part]) for part in wanted})
    names = [
        Path(file).relative_to(folder.resolve()).as_posix()
        for part in wanted
        for file in known[part]
    ]
    for file, place in data.fetch(dict.fromkeys(names)).items():
        (folder / file).unlink()
        (folder / file).symlink_to(place)
    with _sentences(data):
        # The card's counts are those of all splits.
        builder.download_and_prepare(verification_mode="no_checks")
        loaded: Any = builder.as_dataset(split=split or wanted[0])
        if loaded.info.builder_name == "imagefolder":
            # Its images are paths in a folder that goes away.
            loaded = loaded.with_format("arrow").map(
                embed_table_storage, batched=True, batch_size=100
            )
        return loaded


def _splits(split: str | None, known: Sequence[str], what: str) -> list[str]:
    """Return the splits that an expression such as "train", "train[:10%]" or "train+test" names."""
    if split is None:
        if len(known) == 1:
            return list(known)
        raise DataError(f"{what} has the splits {', '.join(known)}; choose one by split:")
    wanted = [re.split(r"\[", part)[0].strip() for part in split.split("+")]
    for part in wanted:
        if part not in known:
            raise DataError(
                f"{what} has no split '{part}'{did_you_mean(part, known)} (all: {', '.join(known)})"
            )
    return list(dict.fromkeys(wanted))


@contextmanager
def _sentences(data: HubRepository) -> Iterator[None]:
    """Say what `datasets` raises as one sentence."""
    try:
        yield
    except UnimeError:
        raise
    # It raises what its back ends raise: name, format and value errors alike.
    except Exception as error:
        cause: BaseException = error
        while (below := cause.__cause__ or cause.__context__) is not None:
            cause = below
        if isinstance(cause, OSError) and cause.errno in FULL:
            raise cause from None
        raise DataError(
            f"{data.title} cannot be read by datasets: {type(cause).__name__}: "
            f"{' '.join(str(cause).split())[:300]}"
        ) from None
