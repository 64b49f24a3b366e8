"""`load_data`: a folder, a file, a data set of the Hub, or rows that are in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, Unpack

from unime.api.calls import Folder, run_stage
from unime.api.given_rows import RowsFolder, as_rows
from unime.api.options import DataOptions, SourceOptions
from unime.core.errors import DataError, OutputError, RecipeError, UnimeError, did_you_mean
from unime.core.provenance import check_ours, move_aside
from unime.data.data_folder import DataFolder
from unime.data.images import IMAGE_SUFFIXES
from unime.data.readers import formats
from unime.data.readers.base import TableOptions
from unime.data.readers.caption_tables import caption_tables, columns_among
from unime.data.readers.hub_client import HUB
from unime.models.model_folder import ModelLike, model_section

Direction = Literal["both", "i2t", "t2i"]

TO_TEXT = {
    "task": "image_to_text",
    "meta_task": "retrieval",
    "direction": "i2t",
    "query_instruction": "Find an image caption describing the given everyday image",
}
TO_IMAGE = {
    "task": "text_to_image",
    "meta_task": "retrieval",
    "direction": "t2i",
    "query_instruction": "Find me an everyday image that matches the given caption",
    "target_instruction": "Represent the given image",
}
"""The two tasks that captioned images make: those of `unime data FOLDER`."""


def load_data(
    source: Folder | Iterable[Any],
    output: Folder,
    *,
    root: Folder | None = None,
    reader: str | None = None,
    task: str = "",
    direction: Direction = "both",
    model: ModelLike | None = None,
    restart: bool = False,
    **options: Unpack[DataOptions],
) -> DataFolder:
    """Read pairs, check every image once, and write the item and pair tables.

    Args:
        source: a folder of images with captions, a captions file, a table of pairs (Parquet, JSON Lines,
            JSON, CSV), `hub:OWNER/NAME`, or rows in memory: dicts, a `datasets.Dataset`, a DataFrame,
            an Arrow table. A row has an `image` and a `caption` (or several), or it has a `query`, a
            `positive`, perhaps `negatives` and `scores`; of other columns the first is the query, the
            second the positive, further ones negatives. A cell is a text, an image, a Path or
            {"text": ..., "image": ...}; a text without blanks that ends like an image file is a path.
        output: the folder to fill. Images in memory are kept in it as PNG files, those that rows name
            by their paths as links. The same call again resumes it, or returns at once.
        root: the folder that image paths are relative to: that of the file, which they lie in, or for
            rows in memory the working directory.
        reader: how rows are read (`unime.data.readers.READERS`); found out from the columns by default.
        task: the task's name.
        direction: of captioned images: two tasks, or one of them.
        model: the one that is to be trained: images that it does not take are rejected.
        restart: move an existing output aside and begin anew.
        options: `dev_share` or `dev_count` to hold out, `max_reject_share` (0.01), `max_pixels`;
            `query_instruction`, `target_instruction`, `in_batch`, `meta_task`, `language`, `limit`,
            `split`, `name`, `encoding`, `quoting` of the source.

    Returns:
        The tables, opened.

    Raises:
        UnimeError: when there is nothing to read, a row is no row, or more rows than `max_reject_share`
            cannot be used; their reasons are in `output/rejected.jsonl`.

    Example:
        >>> data = load_data([{"query": "a red circle", "positive": Path("a.png")}], "runs/data")
        >>> print(data)
        DataFolder('runs/data': 1 pairs (1 train) of 2 items, tasks pairs)
    """
    for name in options:
        if name not in DataOptions.__annotations__:
            raise RecipeError(
                f"no option '{name}'{did_you_mean(name, DataOptions.__annotations__)}"
            )
    how = {n: v for n, v in options.items() if n in SourceOptions.__annotations__}
    values: dict[str, Any] = {n: v for n, v in options.items() if n not in how}
    if model is not None:
        values["model"] = model_section(model, "embedder")
    if isinstance(source, str | PathLike):
        place, path, columns = _of_path(fspath(source), root, how)
        values |= _recipe(place, path, columns, (reader, task, direction), how)
        return DataFolder.open(run_stage("data", values, output, restart=restart))
    if restart and Path(output).exists():
        move_aside(Path(output))  # now, since the rows are written into it
    if not (Path(output) / "manifest.json").is_file():
        check_ours(Path(output))
    rows = RowsFolder(Path(output), fspath(root or "."))
    file = rows.write(as_rows(source))
    values |= _recipe(
        rows.folder.as_posix(), file, rows.columns, (reader, task or "pairs", direction), how
    )
    try:
        return DataFolder.open(run_stage("data", values, output, restart=False))
    except OutputError:
        rows.take_back()  # the output is another call's
        raise


def _of_path(
    place: str, root: Folder | None, how: Mapping[str, Any]
) -> tuple[str, str, tuple[str, ...]]:
    """Return the data root, the source below it, and the columns, as far as they are known.

    Raises:
        DataError: when there is no such place.
    """
    if place.startswith(HUB):
        return fspath(root or "."), place, ()
    path = Path(place)
    if not path.exists():
        raise DataError(
            f"{place} is neither a folder nor a file nor {HUB}OWNER/NAME (working directory "
            f"{Path.cwd()})"
        )
    base = Path(fspath(root)) if root is not None else path if path.is_dir() else path.parent
    below = path.relative_to(base) if path.is_relative_to(base) else path.absolute()
    options = TableOptions(base, how.get("encoding"), how.get("quoting", "auto"))
    tables = caption_tables(path, options, how.get("split"))
    tables = tables or (formats.tables_in(path) if path.is_dir() else [])
    if tables:
        return str(base), str(below), _columns_of(tables[0], options)
    images = any(p.suffix.lower() in IMAGE_SUFFIXES for p in path.rglob("*"))
    return str(base), str(below), ("image", "caption") if images else ()


def _columns_of(file: Path, options: TableOptions) -> tuple[str, ...]:
    """Return the names in a table's first row; none where the stage is to say what is wrong."""
    try:
        first = next(formats.read_rows(file, options), None)
    except (UnimeError, KeyError, OSError, UnicodeError):
        return ()
    return tuple(first) if isinstance(first, dict) else ()


def _recipe(
    root: str,
    path: str,
    columns: tuple[str, ...],
    chosen: tuple[str | None, str, Direction],
    how: Mapping[str, Any],
) -> dict[str, Any]:
    """Return root and sources of a recipe.

    Args:
        root: the data root.
        path: the source.
        columns: of its rows.
        chosen: reader, task and direction, as the user gave them.
        how: further keys of the source.

    Raises:
        RecipeError: when one instruction is given for two directions.
    """
    reader, task, direction = chosen
    if reader is None:
        reader = _reader_of(columns)
    if reader != "folder":
        return {"root": root, "sources": [{"reader": reader, "path": path, "task": task, **how}]}
    both = {"i2t": TO_TEXT, "t2i": TO_IMAGE}
    if direction == "both" and {"query_instruction", "target_instruction"} & how.keys():
        raise RecipeError(
            "an instruction of captioned images belongs to one direction: give direction='i2t' or 't2i'"
        )
    tasks = [both[d] for d in both if direction in ("both", d)]
    if not tasks:
        raise RecipeError(f"direction: expected 'both', 'i2t' or 't2i', got {direction!r}")
    base = {"reader": reader, "path": path}
    return {"root": root, "sources": [{**base, **one, **how} for one in tasks]}


def _reader_of(columns: tuple[str, ...]) -> str:
    """Return the reader that columns ask for."""
    names = set(columns)
    if {"query", "pos"} <= names:
        return "flagembedding"
    if {"query_text", "query_image", "pos_text", "pos_image"} <= names:
        return "unime_v2"
    if {"qry", "pos_text"} <= names:
        return "mmeb_train"
    is_captioned = columns_among(columns) is not None
    has_query = names & {"query", "anchor", "positive"}
    return "folder" if is_captioned and not has_query else "sentence_transformers"
