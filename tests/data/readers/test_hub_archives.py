"""Archives in data sets of the Hub: unpacked once, resumed, and never out of their folder."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.data.readers.hub_files import REPO, SOURCE, contents, pairs, png, tarred, zipped
from tests.data.readers.local_hub import LocalHub
from tests.data.readers.sources import rows_of
from unime.core.errors import DataError
from unime.data.readers import hub_archives, unpacking


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_a_killed_unpacking_goes_on_and_unpacks_no_archive_twice(
    hub: LocalHub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pairs("CIRR")
    del files["images_zip/CIRR.zip"]
    files["a.zip"] = zipped({"CIRR/Train/0.png": png("red")})
    files["b.tar.gz"] = tarred({"CIRR/Train/1.png": png("blue"), "CIRR/Train/2.png": png("lime")})
    hub.add(REPO, files)
    source = SOURCE | {"archives": {"?.*": "images"}}

    class Killed(BaseException):
        pass

    written: list[str] = []
    write = unpacking._write

    def counted(member: unpacking.Member, *rest: Any) -> None:
        if len(written) == 2:
            raise Killed
        written.append(member.name)
        write(member, *rest)

    monkeypatch.setattr(unpacking, "_write", counted)
    with pytest.raises(Killed):
        rows_of(root, **source)
    (mark,) = root.rglob(hub_archives.UNPACKED)
    assert json.loads(mark.read_text()) == {"a.zip": 1}
    written.clear()
    monkeypatch.setattr(
        unpacking,
        "_write",
        lambda member, *rest: (written.append(member.name), write(member, *rest)),
    )
    assert len(contents(root, **source)) == 2
    assert written == ["CIRR/Train/1.png", "CIRR/Train/2.png"]
    assert json.loads(mark.read_text()) == {"a.zip": 1, "b.tar.gz": 2}
    assert not list(root.rglob(".unpacking"))


def with_archive(name: str, data: bytes) -> dict[str, bytes]:
    return {**pairs("CIRR"), name: data}


def link_in_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("CIRR/link.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def link_in_tar(kind: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("CIRR/link.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.zip", zipped({"../../out.png": b"x"})),
        ("x.zip", zipped({"/tmp/unime-out.png": b"x"})),
        ("x.zip", link_in_zip()),
        ("x.tar", tarred({"a/../../../out.png": b"x"}, "w")),
        ("x.tar", tarred({"/tmp/unime-out.png": b"x"}, "w")),
        ("x.tar", link_in_tar(tarfile.SYMTYPE)),
        ("x.tar", link_in_tar(tarfile.LNKTYPE)),
        ("x.tar", link_in_tar(tarfile.FIFOTYPE)),
    ],
)
def test_nothing_leads_out_of_the_folder(
    hub: LocalHub, root: Path, tmp_path: Path, name: str, data: bytes
) -> None:
    hub.add(REPO, with_archive(name, data))
    with pytest.raises(DataError, match=r"leads out of the folder, or is a link or a device"):
        rows_of(root, **SOURCE | {"archives": name})
    assert not list(tmp_path.rglob("out.png")) + list(tmp_path.rglob("link.png"))
    assert not Path("/tmp/unime-out.png").exists()


def test_damaged_archives_and_two_files_of_one_name_are_sentences(
    hub: LocalHub, root: Path
) -> None:
    whole = zipped({f"CIRR/{n}.png": png("red") * 200 for n in range(9)})
    broken = bytearray(whole)
    broken[len(broken) // 3] ^= 1
    files = {
        **pairs("CIRR"),
        "cut.zip": whole[: len(whole) // 2],
        "flipped.zip": bytes(broken),
        "cut.tar.gz": tarred({"a.png": os.urandom(9999)})[:5000],
        "one.zip": zipped({"a.png": b"one"}),
        "other.zip": zipped({"a.png": b"two"}),
        "notes.txt": b"",
    }
    hub.add(REPO, files)
    for name in ("cut.zip", "flipped.zip", "cut.tar.gz"):
        with pytest.raises(
            DataError, match=rf"{name} of hub:lab/pairs .* cannot be unpacked: .*remove /"
        ):
            rows_of(root, **SOURCE | {"archives": name})
    with pytest.raises(DataError, match=r"'a.png' is in .* already, with other bytes; give"):
        rows_of(root, **SOURCE | {"archives": ["one.zip", "other.zip"]})
    with pytest.raises(
        DataError, match=r"notes.txt is no archive .*expected a name that ends with .zip"
    ):
        rows_of(root, **SOURCE | {"archives": "notes.*"})


def test_too_little_space_is_found_before_anything_is_written(
    hub: LocalHub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    hub.add(REPO, pairs("CIRR"))
    usage = shutil.disk_usage(root.parent)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
        with pytest.raises(
            DataError, match=r"CIRR.zip .* needs 0.0 GB below .*, 0.0 GB are free; free"
        ):
            rows_of(root, **SOURCE)
    assert len(contents(root, **SOURCE)) == 2


def test_a_full_disk_is_the_systems_own_error(
    hub: LocalHub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from huggingface_hub import HfApi

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    hub.add(REPO, pairs("CIRR"))
    monkeypatch.setattr(HfApi, "hf_hub_download", full)
    with pytest.raises(OSError, match="No space left"):
        rows_of(root, **SOURCE)
