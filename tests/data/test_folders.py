"""Folders as people have them: what must come out does, and no row is lost on the way."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.data.folders import (  # noqa: F401  # adds the cases
    encoded,
    laid_out,
    odd_folders,
    quoted,
    sidecar_folders,
    tar_folders,
    typed,
)
from tests.data.folders.made import ANY, FOLDERS, Outcome, Refused
from tests.data.folders.pair_files import PAIR_FILES, Shown
from tests.data.readers.sources import rows_of
from unime.core.errors import DataError
from unime.data import images
from unime.data.items import Item, Pair
from unime.data.own_data.prepare import prepare
from unime.data.own_data.scan import scan_folder


@pytest.fixture(autouse=True)
def _spoken(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    images._real.cache_clear()
    with caplog.at_level(logging.INFO, logger="unime"):
        yield


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_what_must_come_out_does(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    expected = FOLDERS[name](folder)
    place = folder / expected.place if expected.place else folder
    raw = tmp_path / "run/raw"
    raw.mkdir(parents=True)
    if isinstance(expected, Refused):
        with pytest.raises(DataError) as raised:
            scan_folder(str(place), raw, None)
        begins = expected.begins.format(folder=folder)
        assert str(raised.value)[: len(begins)] == begins
        assert "\n" not in str(raised.value)
        return
    assert isinstance(expected, Outcome)
    scan = scan_folder(str(place), raw, expected.language)
    kinds = Counter(str(row["reason"]).split(":")[0] for row in scan.rejected)
    assert {picture.location: picture.captions for picture in scan.pictures} == expected.pictures
    if ANY in expected.rejected:
        kinds = Counter({ANY: kinds.total()})
    assert dict(kinds) == expected.rejected
    assert scan.duplicates == expected.merged
    assert scan.rows == len(scan.pictures) + scan.duplicates + len(scan.rejected)
    for message in expected.says:
        assert message in caplog.text


def _item(item: Item) -> str:
    return item.text + (f"<{item.image}>" if item.image is not None else "")


def _shown(pair: Pair) -> Shown:
    scores = [None if math.isnan(score) else score for score in pair.scores]
    positives, negatives = map(_item, pair.positives), map(_item, pair.negatives)
    return _item(pair.query), list(positives), list(negatives), scores


@pytest.mark.parametrize("name", sorted(PAIR_FILES))
def test_roles_and_scores_come_out_as_written(name: str, tmp_path: Path) -> None:
    expected = PAIR_FILES[name](tmp_path)
    rows = rows_of(tmp_path, reader=expected.reader, path=expected.path, **expected.options)
    kinds = Counter(row.error.kind for row in rows if row.error is not None)
    assert [_shown(pair) for row in rows for pair in row.pairs] == expected.pairs
    assert dict(kinds) == expected.rejected
    assert [row.number for row in rows] == list(range(len(rows)))


@pytest.mark.parametrize(
    "name",
    [
        "a_captions_file_whose_name_is_not_utf_8",
        "bytes_of_several_kinds_in_one_column",
        "json_lines_of_every_kind",
        "names_that_are_not_utf_8",
        "sidecars_missing_empty_and_odd",
    ],
)
def test_every_rejected_row_is_in_the_file_and_the_first_on_the_screen(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    expected = FOLDERS[name](tmp_path / "pictures")
    assert isinstance(expected, Outcome)
    with pytest.raises(DataError) as raised:
        prepare("pictures", model=str(ROOT / "assets/student"))
    text = (tmp_path / "runs/pictures/raw/rejected.jsonl").read_bytes().decode("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == sum(expected.rejected.values())
    assert all(set(row) == {"file", "row", "reason"} for row in rows)
    count = len(expected.pictures)
    assert f"has {count} usable captioned pictures, expected at least 12" in str(raised.value)
    kinds = {kind for kind in expected.rejected if f": {kind}: " in str(raised.value)}
    assert len(kinds) == min(3, len(expected.rejected))
    str(raised.value).encode("utf-8")
