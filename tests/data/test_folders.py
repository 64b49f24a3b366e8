"""Folders as people have them: what must come out does, and no row is lost on the way."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.folders import encoded, laid_out, quoted, typed  # noqa: F401  # adds the cases
from tests.data.folders.made import FOLDERS, Outcome, Refused
from unime.core.errors import DataError
from unime.data import images
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
    assert dict(kinds) == expected.rejected
    assert scan.duplicates == expected.merged
    assert scan.rows == len(scan.pictures) + scan.duplicates + len(scan.rejected)
    for message in expected.says:
        assert message in caplog.text
