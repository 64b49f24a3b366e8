"""Archives of images in a data set of the Hub, unpacked below the data root, each once."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from unime.core import console, files
from unime.core.errors import DataError, did_you_mean
from unime.data.readers.base import DataSource
from unime.data.readers.hub_repository import HubRepository, plain_name
from unime.data.readers.unpacking import SUFFIXES, is_archive, sync_disk, unpack_archive

UNPACKED = ".unpacked.json"
"""In a folder of unpacked archives: which of them are there whole."""


def matching_archives(data: HubRepository, source: DataSource, name: str) -> dict[str, str]:
    """Return the archives of a configuration, {archive: the folder that it is unpacked in}.

    Raises:
        DataError: when a pattern matches nothing, or something that is no archive.
    """
    given = source.archives
    patterns = (
        given
        if isinstance(given, dict)
        else dict.fromkeys([given] if isinstance(given, str) else given, "")
    )
    found: dict[str, str] = {}
    for template, folder in patterns.items():
        pattern = template.replace("{name}", glob.escape(name))
        into = folder.replace("{name}", name)
        names = [file for file in data.files if fnmatchcase(file, pattern)]
        if not names:
            raise DataError(
                f"{data.title} has no file '{pattern}' (archives:)"
                f"{did_you_mean(pattern, filter(is_archive, data.files))}"
            )
        for file in names:
            if not is_archive(file):
                raise DataError(
                    f"{data.title}: {file} is no archive (archives: '{pattern}'); expected a name that "
                    f"ends with {', '.join(SUFFIXES)}"
                )
            found[file] = into
    return found


def unpacked(data: HubRepository, archives: Mapping[str, str]) -> Path:
    """Return the folder that archives are unpacked in, each of them once."""
    state = hashlib.sha256()
    for name, into in sorted(archives.items()):
        state.update(f"{name}\0{data.files[name].blob}\0{into}\n".encode())
    stem = plain_name(Path(min(archives)).name.partition(".")[0])
    place = data.place / f"{stem}-{state.hexdigest()[:12]}"
    place.mkdir(exist_ok=True)
    mark = place / UNPACKED
    done = files.read_json(mark) if mark.is_file() else {}
    for name, into in archives.items():
        if name in done:
            continue
        below = place / into
        below.mkdir(parents=True, exist_ok=True)
        (archive,) = data.fetch([name]).values()
        title = f"{name} of {data.title}"
        count = unpack_archive(archive, title, below, data.place / ".unpacking")
        sync_disk()
        done[name] = count
        files.write_json(mark, done)
        console.log(f"{title}: {count} files unpacked in {below}")
    return place
