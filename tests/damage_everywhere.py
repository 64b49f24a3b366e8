"""Flip a byte of an output, finished or not, and run its stage again: an error or the same result.

A program, for the reason of `tests.kill_everywhere`, whose forks it uses:
`python -m tests.damage_everywhere MODULE RECIPE OUT TRIES [OVERRIDE ...]`. Half of the tries damage an
output whose run was killed. Prints how many were refused.
"""

from __future__ import annotations

import importlib
import random
import shutil
import sys
from pathlib import Path

from tests.kill_everywhere import KILLED, REFUSED, contents, run
from unime.core.contents import EDITABLE

HARMLESS = {"run.json", ".lock", *EDITABLE}
"""What no stage reads for its result."""


def flip(out: Path, rng: random.Random) -> Path:
    """Change one byte of one file; return the file."""
    path = rng.choice(sorted(p for p in out.rglob("*") if p.is_file() and p.stat().st_size))
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return path


def main(module: str, recipe: str, out: Path, tries: int, overrides: list[str]) -> None:
    """Damage the finished output and unfinished ones."""
    importlib.import_module(module)
    shutil.rmtree(out, ignore_errors=True)
    assert run(module, recipe, 0, overrides) == 0
    expected, rng, refused = contents(out), random.Random(f"{module}{recipe}"), 0
    shutil.copytree(out, out.with_name("whole"))
    changes = 24
    for number in range(tries):
        shutil.rmtree(out)
        if number % 2:
            # Later changes than there are: tried again with half.
            while run(module, recipe, rng.randint(1, changes), overrides) != KILLED:
                shutil.rmtree(out)
                changes = max(1, changes // 2)
        else:
            shutil.copytree(out.with_name("whole"), out)
        path = flip(out, rng)
        code = run(module, recipe, 0, overrides)
        assert code in (0, REFUSED), f"{path}: exit code {code}"
        refused += code == REFUSED
        if code == 0:
            assert number % 2 or path.name in HARMLESS, f"{path}: not seen"
            if path.name not in HARMLESS:
                assert contents(out) == expected, f"{path}: another result"
    # As it was: the next stage reads it.
    shutil.rmtree(out)
    out.with_name("whole").rename(out)
    sys.stdout.write(f"{refused}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
