"""Stop `unime data` at every durable change in turn, run it again, compare the bytes.

A program, so that each run can be a fork of a process that has imported everything but started no
thread: `python -m tests.data.kill_everywhere RECIPE OUT`. Prints how many stops there were.
"""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from pathlib import Path

import unime.data  # imported before the forks
from unime import files
from unime.stage import execute

KILLED = 137


def run(recipe: str, stop_at: int = 0) -> int:
    """Run the recipe in a fork that dies at its n-th durable change; return its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    changes = 0

    def stop(moment: str) -> None:
        nonlocal changes
        changes += 1
        if changes == stop_at:
            os._exit(KILLED)

    files.on_commit = stop
    try:
        execute(unime.data.__name__, recipe)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def contents(out: Path) -> dict[str, bytes]:
    """Return an output's files, without run.json, which differs from run to run."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "run.json"}


def main(recipe: str, out: Path) -> None:
    """Try every stop."""
    assert run(recipe) == 0
    expected = contents(out)
    stops = 0
    while True:
        shutil.rmtree(out)
        if stops % 3 == 0:  # with images remembered and without
            shutil.rmtree(out.parent / ".cache")
        code = run(recipe, stop_at=stops + 1)
        if code == 0:
            break
        assert code == KILLED, code
        stops += 1
        assert run(recipe) == 0, f"not resumed after stop {stops}"
        assert contents(out) == expected, f"other bytes after stop {stops}"
    sys.stdout.write(f"{stops}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
