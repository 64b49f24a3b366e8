"""Stop a stage at every durable change in turn, run it again, compare what it left.

A program, so that each run can be a fork of a process that has imported everything but started no
thread: `python -m tests.kill_everywhere MODULE RECIPE OUT [STRIDE]`. A stride above 1 takes every so
many changes, for stages that repeat the same few hundreds of times. Prints how many stops there were.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unime.core import files
from unime.core.errors import UnimeError
from unime.core.stage import execute

KILLED = 137
REFUSED = 2
DIFFERS = {"run.json", "timing.json", "speed.jsonl"}
"""Files that no two runs write alike: times, host, memory."""
COSTS = {"seconds", "peak_gb"}


def run(module: str, recipe: str, stop_at: int = 0, overrides: Sequence[str] = ()) -> int:
    """Run the recipe in a fork that dies at its n-th durable change; return its exit code.

    As for a command, 2 is a user's error, said in one sentence.
    """
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
        execute(module, recipe, overrides)
    except UnimeError as error:
        sys.stderr.write(f"error: {error}\n")
        os._exit(REFUSED)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def contents(out: Path) -> dict[str, Any]:
    """Return what an output holds, without times: the bytes of its files, JSON as its values."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name not in DIFFERS:
            json_file = path.suffix == ".json"
            found[path.relative_to(out).as_posix()] = (
                _without_costs(json.loads(path.read_text())) if json_file else path.read_bytes()
            )
    return found


def _without_costs(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_costs(v) for key, v in value.items() if key not in COSTS}
    return [_without_costs(v) for v in value] if isinstance(value, list) else value


def main(module: str, recipe: str, out: Path, stride: int = 1) -> None:
    """Try every stop, or every `stride`-th."""
    importlib.import_module(module)
    assert run(module, recipe) == 0
    expected = contents(out)
    stops = 0
    while True:
        shutil.rmtree(out)
        if stops % 3 == 0:  # with images remembered and without
            shutil.rmtree(out.parent / ".cache", ignore_errors=True)
        code = run(module, recipe, stop_at=stops * stride + 1)
        if code == 0:
            break
        assert code == KILLED, code
        stops += 1
        assert run(module, recipe) == 0, f"not resumed after stop {stops}"
        assert contents(out) == expected, f"other contents after stop {stops}"
    sys.stdout.write(f"{stops}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:]))
