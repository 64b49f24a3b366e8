"""The texts of stage 1, a data folder's items and any general text; how they make up batches."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int
from pydantic import Field

from unime.core.config import Section
from unime.core.console import log
from unime.core.errors import DataError, lookup
from unime.data.data_folder import DataFolder
from unime.data.tables import read_table


class TextSource(Section):
    """A file of texts: .txt (one a line), .jsonl or .parquet (one a row)."""

    path: str
    field: str = "text"
    """The key or column that holds the text."""
    limit: int | None = Field(default=None, gt=0)
    """At most so many, drawn at random."""


def split_texts(
    count: int, held_out: int, seed: int
) -> tuple[Int[np.ndarray, " held"], Int[np.ndarray, " trained"]]:
    """Return which texts are held out and which are trained on, each in order."""
    shuffled = np.random.default_rng(seed).permutation(count)
    return np.sort(shuffled[:held_out]), np.sort(shuffled[held_out:])


def read_texts(source: TextSource, seed: int) -> list[str]:
    """Return the distinct, non-empty texts of a file.

    Raises:
        DataError: when the file is missing, or a row is not what it should be.
    """
    path = Path(source.path)
    if not path.is_file():
        raise DataError(
            f"{path} is missing (working directory {Path.cwd()}); "
            "make it first, or take it out of `texts`"
        )
    reader = lookup(READERS, path.suffix, "kind of text file")
    texts = distinct(reader(path, source.field))
    if not texts:
        log(f"WARNING: {path} holds no text; stage 1 goes on without it")
    return sample(texts, source.limit, seed)


def item_texts(data: DataFolder, limit: int | None, seed: int) -> list[str]:
    """Return the distinct texts of a data folder's items."""
    return sample(distinct(data.items.table["text"].to_pylist()), limit, seed)


def distinct(texts: Iterator[str] | list[str]) -> list[str]:
    """Return texts without repeats and without empty ones, in order; NFC decides equality."""
    normal = (unicodedata.normalize("NFC", text).strip() for text in texts)
    return list(dict.fromkeys(text for text in normal if text))


def sample(texts: list[str], limit: int | None, seed: int) -> list[str]:
    """Return at most `limit` texts, drawn at random, in their order."""
    if limit is None or len(texts) <= limit:
        return texts
    chosen = np.random.default_rng(seed).choice(len(texts), limit, replace=False)
    return [texts[place] for place in np.sort(chosen)]


def _read_lines(path: Path, _: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as handle:
        yield from handle


def _read_jsonl(path: Path, field: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                text = json.loads(line)[field]
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"{path}, line {number}: expected a JSON object with '{field}', "
                    f"got {line.strip()[:60]!r}"
                ) from None
            if not isinstance(text, str):
                raise DataError(f"{path}, line {number}: '{field}' is {text!r}, expected a text")
            yield text


def _read_parquet(path: Path, field: str) -> Iterator[str]:
    table = read_table(path)
    if field not in table.column_names:
        raise DataError(f"{path} has no column '{field}'; it has {', '.join(table.column_names)}")
    yield from (text for text in table[field].to_pylist() if text is not None)


READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _read_lines,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
