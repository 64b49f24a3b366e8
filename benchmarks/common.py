"""How every benchmark measures: rounds in which the contestants take turns, medians, one JSON line.

Machines are shared and stall now and then. Contestants of one round run within seconds of each
other, so a ratio is taken within a round, and the median over rounds is reported.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Seconds = dict[str, list[float]]
"""For each contestant, its time in every round."""


def interleaved_rounds(
    contestants: Mapping[str, Callable[[], Any]], rounds: int = 7, warmup: int = 1
) -> Seconds:
    """Run all contestants in turn, round after round; every other round in reverse order.

    Args:
        contestants: name -> the work that is timed.
        rounds: how many rounds count.
        warmup: how many rounds before them do not.
    """
    seconds: Seconds = {name: [] for name in contestants}
    for number in range(-warmup, rounds):
        names = list(contestants)
        for name in names if number % 2 else reversed(names):
            start = time.perf_counter()
            contestants[name]()
            spent = time.perf_counter() - start
            if number >= 0:
                seconds[name].append(spent)
            say(f"round {number + 1}/{rounds} {name}: {spent:.3f} s")
    return seconds


def median_ratio(seconds: Seconds, slow: str, fast: str) -> float:
    """Return the median over rounds of `slow`'s time over `fast`'s."""
    pairs = zip(seconds[slow], seconds[fast], strict=True)
    return round(statistics.median(one / other for one, other in pairs), 3)


def medians(seconds: Seconds) -> dict[str, float]:
    """Return each contestant's median time."""
    return {name: round(statistics.median(values), 4) for name, values in seconds.items()}


def report(name: str, ratios: Mapping[str, float], **settings: Any) -> None:
    """Print the last line of a benchmark.

    Args:
        name: the benchmark's.
        ratios: what it claims, by the names its README uses.
        settings: what was measured, of what, under which load.
    """
    load = [round(value, 2) for value in os.getloadavg()]
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "load": load}
    line = {"benchmark": name, "ratios": dict(ratios), "settings": {**settings, **machine}}
    sys.stdout.write(json.dumps(line) + "\n")


def say(message: str) -> None:
    """Say on standard error where a benchmark is; standard output ends with the report."""
    sys.stderr.write(f"{message}\n")
