"""Start a stage twice on one output, the second at a random moment: one works, the other says who does.

A program, for the reason of `tests.kill_everywhere`:
`python -m tests.two_writers MODULE RECIPE OUT TIMES [OVERRIDE ...]`. Every fifth time the first one
runs to its end and its output is compared; else it is killed once the second has answered, which has
to leave nothing behind that stops the next one. Prints how often the second was refused.
"""

from __future__ import annotations

import importlib
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.kill_everywhere import REFUSED, contents, run
from unime.core.errors import UnimeError
from unime.core.stage import execute

LATEST = 2.0
"""Seconds after which the second one starts at most: the race is at the opening."""


def start(module: str, recipe: str, overrides: list[str], says: Path) -> int:
    """Run the stage in a fork that writes its error, if any; return its process id."""
    child = os.fork()
    if child:
        return child
    os.setsid()  # its worker processes are killed with it
    code = 0
    try:
        execute(module, recipe, overrides)
    except UnimeError as error:
        says.write_text(str(error))
        code = REFUSED
    except BaseException as error:
        says.write_text(repr(error))
        code = 1
    os._exit(code)


def code_of(child: int) -> int:
    """Wait for a fork; return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(module: str, recipe: str, out: Path, times: int, overrides: list[str]) -> None:
    """Try it so many times."""
    importlib.import_module(module)
    shutil.rmtree(out, ignore_errors=True)
    began = time.monotonic()
    assert run(module, recipe, 0, overrides) == 0
    seconds, expected = time.monotonic() - began, contents(out)
    rng, refused = random.Random(f"{module}{recipe}"), 0
    says = [out.with_name(f"said{number}") for number in range(2)]
    for number in range(times):
        shutil.rmtree(out)
        for path in says:
            path.unlink(missing_ok=True)
        first = start(module, recipe, overrides, says[0])
        time.sleep(rng.uniform(0, min(seconds, LATEST)))
        second = start(module, recipe, overrides, says[1])
        to_the_end = number % 5 == 0
        codes = [0, 0]
        # Whichever came second is refused at once, or finds a finished output.
        done, status = os.waitpid(-1, 0)
        ended = [first, second].index(done)
        codes[ended] = os.waitstatus_to_exitcode(status)
        other = [first, second][1 - ended]
        if codes[ended] == REFUSED:
            refused += 1
            said = says[ended].read_text()
            assert f"is being written by process {other} on " in said, said
            if not to_the_end:
                os.killpg(other, signal.SIGKILL)
        codes[1 - ended] = code_of(other)
        assert sorted(codes) in ([0, 0], [0, REFUSED], [-signal.SIGKILL, REFUSED]), codes
        if -signal.SIGKILL not in codes:
            assert contents(out) == expected, "another result"
        elif number % 5 == 1:
            assert run(module, recipe, 0, overrides) == 0, "not resumed after a kill"
            assert contents(out) == expected, "another result after a kill"
    if not (out / "manifest.json").exists():
        assert run(module, recipe, 0, overrides) == 0
    sys.stdout.write(f"{refused}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
